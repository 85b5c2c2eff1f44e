"""Reasons of networks: planted truths that an explanation must find, tests that must refuse, and what people get wrong.

The networks are tiny, so that the whole file takes seconds.
"""

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from aimt.core.errors import DataError  # noqa: E402
from aimt.data.audio.read import write_wav  # noqa: E402
from aimt.data.image.read import CLIPImages  # noqa: E402
from aimt.data.text.tokenizer import train_tokenizer, train_wordpiece  # noqa: E402
from aimt.explain.networks.attention_rollout import attention_relevance, recorded_attention  # noqa: E402
from aimt.explain.networks.integrated_gradients import NetworkInput, integrated_gradients, smooth_grad  # noqa: E402
from aimt.jobs.families.base import find_family  # noqa: E402
from aimt.jobs.families.clip import PictureCLIP  # noqa: E402
from aimt.jobs.families.network_inputs import network_input  # noqa: E402
from aimt.models.audio.deepspeech import DeepSpeech  # noqa: E402
from aimt.models.audio.speech_features import DeepSpeechConfig  # noqa: E402
from aimt.models.image.clip_towers import CLIPConfig, Tower  # noqa: E402
from aimt.models.image.clip_tokenizer import CLIPTokenizer  # noqa: E402
from aimt.models.image.zero_shot import TEMPLATES  # noqa: E402
from aimt.models.text.bert import BERTConfig  # noqa: E402
from aimt.models.text.gpt import GPT, GPTConfig  # noqa: E402
from aimt.models.text.t5 import T5  # noqa: E402
from aimt.models.text.t5_config import T5Config  # noqa: E402
from aimt.models.text.text_classification import BERTForClassification  # noqa: E402

torch.set_num_threads(1)
STORY = "the lamp is broken, the parcel has not come; a bus is a vehicle and a cat an animal. " * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(STORY + "\nQuestion: Answer:\n", encoding="utf-8")
    return train_tokenizer(path, "bpe", 300)


def loud(model, std=0.3):
    """Weights large enough for differences to be seen."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(std * torch.randn(p.shape, generator=g))
    return model.eval()


def make_bert(tokenizer, folder):
    words = train_wordpiece([STORY], 90)
    config = BERTConfig(words.vocab_size, 2, 2, 16, context=24, labels=("bad", "good", "late"))
    return loud(BERTForClassification.from_config(config, words)), "the lamp is broken", "late"


def make_gpt(tokenizer, folder, chat=True, **options):
    model = loud(GPT(GPTConfig(300, 2, 2, 16, context=48, **options)), 0.2)
    model.tokenizer, model.chat, model.longest = tokenizer, chat, 8
    return model, "is a cat broken", "an animal"


def make_gpt_tables(tokenizer, folder):
    return make_gpt(tokenizer, folder, value_embeddings=True, ngram_orders=(2, 3), ngram_buckets=512, n_kv_head=1)


def make_gpt_plain(tokenizer, folder):
    return make_gpt(tokenizer, folder, chat=False)


def make_t5(tokenizer, folder):
    config = T5Config.for_tokenizer(tokenizer, n_sentinels=1, n_layer=2, n_head=2, d_model=16, d_kv=8, d_ff=32, context=32)
    model = loud(T5(config), 0.2)
    model.tokenizer, model.longest = tokenizer, 8
    return model, "kind: a bus has come", "a vehicle"


def make_clip(tokenizer, folder):
    words = CLIPTokenizer.train([*TEMPLATES, "red green"], vocab_size=640, context=20)
    small = CLIPConfig(Tower(16, 2, 2), Tower(16, 1, 2), width=16, image_size=24, patch_size=8, vocab_size=640, context=20)
    model = loud(PictureCLIP(small))
    model.tokenizer, model.images, model.answers, model.classes = words, CLIPImages(24, 24), ("red", "green"), True
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    return model, picture, "red"


def make_deepspeech(tokenizer, folder):
    model = loud(DeepSpeech(DeepSpeechConfig(n_hidden=16, n_context=2, dropout=0.0)), 0.2)
    rng = np.random.default_rng(0)
    write_wav(folder / "a.wav", (0.1 * rng.standard_normal(16_000) * np.sin(np.arange(16_000) / 900)).astype(np.float32))
    model.scorer = None
    return model, str(folder / "a.wav"), "hello"


MAKERS = [make_bert, make_gpt, make_gpt_tables, make_gpt_plain, make_t5, make_clip, make_deepspeech]


@pytest.mark.parametrize("make", MAKERS, ids=lambda f: f.__name__.removeprefix("make_"))
def test_the_score_with_gradients_is_the_belief_of_the_family(make, tokenizer, tmp_path):
    """And integrated gradients add up to the change of that score, for each family, its n-grams and values included."""
    model, value, answer = make(tokenizer, tmp_path)
    family = find_family(make.__name__.split("_")[1])
    found = network_input(family, model, value, answer)
    belief = float(family.belief(model, [value], answer)[0])
    with torch.no_grad():
        scores = found.score(torch.stack([found.x, found.baseline]))
    assert float(scores[0]) == pytest.approx(belief, abs=2e-3, rel=1e-4)
    assert float(scores[1]) != pytest.approx(belief, abs=1e-3)
    shares = integrated_gradients(found)
    assert shares.gap <= max(0.01 * abs(shares.change), 1e-3) and shares.parts.sum() == pytest.approx(
        float(shares.values.double().sum()), abs=1e-3
    )
    assert np.isfinite(smooth_grad(found, n=4).parts).all()
    if found.model is not None:
        with recorded_attention(found.model) as kept:
            total = found.score(found.x[None]).sum()
            total.backward()
        assert float(total.detach()) == pytest.approx(float(scores[0]), abs=1e-3)
        relevant = attention_relevance(kept)[0, found.read_from : found.read_to].sum(0)
        values = found.from_positions(relevant)
        assert values.shape == (len(found.parts),) and values.sum() > 0
