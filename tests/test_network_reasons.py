"""Reasons of networks: planted truths that an explanation must find, tests that must refuse, and what people get wrong.

The networks are tiny, so that the whole file takes seconds.
"""

import json

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
import aimt  # noqa: E402
from aimt.core.errors import AimtError, DataError, ProblemError  # noqa: E402
from aimt.core.run import Run  # noqa: E402
from aimt.data.audio.read import read_audio, write_wav  # noqa: E402
from aimt.data.image.read import CLIPImages  # noqa: E402
from aimt.data.text.tokenizer import train_tokenizer, train_wordpiece  # noqa: E402
from aimt.explain.networks.attention_rollout import attention_relevance, recorded_attention  # noqa: E402
from aimt.explain.networks.faithfulness import compare_methods  # noqa: E402
from aimt.explain.networks.integrated_gradients import NetworkInput, integrated_gradients, smooth_grad  # noqa: E402
from aimt.explain.networks.randomisation_test import layers_from_output, randomisation_test, shuffled_weights  # noqa: E402
from aimt.jobs.families.base import find_family  # noqa: E402
from aimt.jobs.families.clip import PictureCLIP  # noqa: E402
from aimt.jobs.families.near_examples import NearIndex, build_index, near_answers  # noqa: E402
from aimt.jobs.families.network_inputs import network_input  # noqa: E402
from aimt.jobs.families.network_reasons import explain_input, methods_of, try_methods  # noqa: E402
from aimt.jobs.families.reason_files import reason_figure  # noqa: E402
from aimt.models.audio.deepspeech import DeepSpeech  # noqa: E402
from aimt.models.audio.speech_features import DeepSpeechConfig  # noqa: E402
from aimt.models.image.clip_towers import CLIPConfig, Tower  # noqa: E402
from aimt.models.image.clip_tokenizer import CLIPTokenizer  # noqa: E402
from aimt.models.image.zero_shot import TEMPLATES  # noqa: E402
from aimt.models.text.bert import BERT, BERTConfig  # noqa: E402
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


def make_deepspeech(tokenizer, folder, **options):
    model = loud(DeepSpeech(DeepSpeechConfig(n_hidden=16, n_context=2, dropout=0.0, **options)), 0.2)
    rng = np.random.default_rng(0)
    write_wav(folder / "a.wav", (0.1 * rng.standard_normal(16_000) * np.sin(np.arange(16_000) / 900)).astype(np.float32))
    model.scorer = None
    return model, str(folder / "a.wav"), "hello"


def make_deepspeech_8khz(tokenizer, folder):
    """Samples are at 16 kHz, whatever the rate of the model."""
    model, file, answer = make_deepspeech(tokenizer, folder, sample_rate=8_000)
    return model, read_audio(file), answer


MAKERS = [make_bert, make_gpt, make_gpt_tables, make_gpt_plain, make_t5, make_clip, make_deepspeech, make_deepspeech_8khz]


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


# ---- planted truths


def band_reader(t):
    """A network that reads one band of a spectrogram (T, F): the energy of band 5, in time steps 3 to 6, past a threshold."""
    return torch.tanh(t[:, 3:7, 5].sum(1)) + 0 * t.sum((1, 2))


def patch_reader(x):
    """A network that reads one patch of a picture, rows and columns 4 to 8."""
    return x[:, :, 4:8, 4:8].mean((1, 2, 3)).sigmoid()


PLANTED = {
    "linear": (torch.randn(12, generator=torch.Generator().manual_seed(0)), lambda x: 3.0 * x[:, 7], torch.arange(12), {7}),
    "frequency band": (torch.rand(10, 8, generator=torch.Generator().manual_seed(1)) + 0.5, band_reader, torch.arange(8)[None, :], {5}),
    "moment": (torch.rand(10, 8, generator=torch.Generator().manual_seed(1)) + 0.5, band_reader, torch.arange(10)[:, None], {3, 4, 5, 6}),
    "patch": (
        torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2)) + 0.5,
        patch_reader,
        torch.arange(12)[:, None] // 4 * 3 + torch.arange(12) // 4,
        {4},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_explanation_points_to_what_is_read(name):
    """And nowhere else; random orders of the parts are worse."""
    x, score, part_of, read = PLANTED[name]
    n = int(part_of.max()) + 1
    found = NetworkInput(x, torch.zeros_like(x), score, tuple(map(str, range(n))), part_of)
    for shares in (integrated_gradients(found), smooth_grad(found)):
        assert set(np.flatnonzero(np.abs(shares.parts) > 1e-6)) == read
    exact = integrated_gradients(found)
    assert exact.gap <= max(0.01 * abs(exact.change), 1e-3)
    scores = lambda stay: found.score(found.without(stay)).double().numpy()
    sign = 1 if exact.change > 0 else -1  # an input that speaks against the score is explained by what speaks against it
    gains = compare_methods([(lambda stay: sign * scores(stay), {"right": sign * exact.parts, "wrong": -sign * exact.parts})], n_random=20)
    assert gains.gains["right"][0] > 0.1 > -0.1 > gains.gains["wrong"][0]


class WordReader(torch.nn.Module):
    """Reads one word of a text of ids: the mean of one output of a small network over tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 1)
        with torch.no_grad():
            self.out.bias.zero_()
            self.out.weight.mul_(2)
            self.embed.weight[7] = 8 * self.out.weight[0]
            for i in set(range(20)) - {7}:
                w = self.embed.weight[i]
                self.embed.weight[i] = w - (w @ self.out.weight[0]) / self.out.weight[0].square().sum() * self.out.weight[0]

    def forward(self, vectors):
        return self.out(vectors).sum((1, 2))


def test_shuffled_weights_are_refused():
    """An explanation that depends on the weights is shown; one that does not, and a network that has learned nothing, are not."""
    torch.manual_seed(0)
    net = WordReader()
    rng = np.random.default_rng(0)
    texts = [torch.from_numpy(rng.permutation(20)[:9]) for _ in range(10)]
    texts = [t if (t == 7).any() else torch.cat([torch.tensor([7]), t[1:]]) for t in texts]

    def view(ids):
        x = net.embed(ids).detach()
        return NetworkInput(x, torch.zeros_like(x), net, tuple(map(str, ids.tolist())), torch.arange(len(ids))[:, None])

    explain = lambda ids: integrated_gradients(view(ids)).parts
    score = lambda ids: float(net(net.embed(ids)[None]).detach()[0])
    assert all(t[int(np.argmax(explain(t)))] == 7 for t in texts)
    by_weights = randomisation_test(net, explain, texts, score=score, n_shuffles=3)
    by_input = randomisation_test(net, lambda ids: ids.numpy().astype(float), texts, score=score)
    assert by_weights.passed, by_weights.reason
    assert not by_input.passed and "hardly changes" in by_input.reason and by_input.last["value"] == 1
    with shuffled_weights(net, layers_from_output(net, lambda: score(texts[0])), seed=3):
        empty = randomisation_test(net, explain, texts, score=score, n_shuffles=3)
    assert not empty.passed and "nothing learned" in empty.reason


# ---- the families


@pytest.mark.parametrize("make", [make_bert, make_gpt, make_t5, make_clip, make_deepspeech], ids=lambda f: f.__name__.removeprefix("make_"))
def test_every_method_and_the_nearest_examples_of_a_family(make, tokenizer, tmp_path):
    """A copy of the example in the training set is the nearest; the index survives being stored."""
    model, value, answer = make(tokenizer, tmp_path)
    family = find_family(make.__name__.removeprefix("make_"))
    n = len(family.parts(value)[0])
    for method in methods_of(family):
        reasons = explain_input(family, model, value, answer, method)
        assert reasons.values.shape == (n,) and np.isfinite(reasons.values).all() and len(reasons.parts) == n, method
    others = {
        "bert": [("the parcel has come", "good"), ("a cat", "bad"), ("a vehicle is a vehicle", "good")],
        "gpt": [("a bus", "a vehicle"), ("the parcel", "lamp")],
        "t5": [("kind: the lamp", "lamp"), ("a cat and a bus", "an animal")],
        "clip": [(np.full((24, 24, 3), c, np.uint8), t) for c, t in ((10, "green"), (250, "red"), (120, "green"))],
        "deepspeech": [(value, "a quite other text"), (value, "yes")],
    }[family.name]
    pairs = pd.DataFrame([*others, (value, answer)], columns=["input", "target"]).assign(row=lambda f: f.index + 10)
    build_index(family, model, pairs).save(tmp_path)
    index = NearIndex.load(tmp_path)
    near = near_answers(index, family, model, value, answer)
    assert near[0]["row"] == 10 + len(others) and near[0]["influence"] > 0
    if family.name == "deepspeech":
        told = {"kind": "sound", "prediction": answer, "method": "SmoothGrad", "parts": reasons.parts}
        assert len(reason_figure(told, reasons, value).axes) == 3


def test_inputs_with_nothing_to_explain(tokenizer, tmp_path):
    """Empty text, silence, a recording without a word: a message says what to do."""
    bert, gpt = make_bert(tokenizer, tmp_path)[0], make_gpt(tokenizer, tmp_path, chat=False)[0]
    speech = make_deepspeech(tokenizer, tmp_path)[0]
    write_wav(tmp_path / "silent.wav", np.zeros(16_000, np.float32))
    cases = [
        ("bert", bert, " ", "late", "no word"),
        ("gpt", gpt, "a cat", "", "says nothing"),
        ("deepspeech", speech, str(tmp_path / "silent.wav"), "hello", "silent"),
        ("deepspeech", speech, str(tmp_path / "a.wav"), "", "hears no word"),
    ]
    for name, model, value, answer, what in cases:
        with pytest.raises(DataError, match=what):
            network_input(find_family(name), model, value, answer)
    long = network_input(find_family("gpt"), gpt, "a cat is an animal " * 30, "a bus")
    assert "before" in long.notes[0] and int(long.part_of.max()) == len(long.parts) - 1 and int(long.part_of[long.part_of >= 0].min()) > 50


# ---- a run


TABLE = pd.DataFrame(
    [
        (f"the {x} {end}", label)
        for x in "parcel letter box order package crate book lamp".split()
        for label, ends in {
            "late": ["has not come", "is a week late", "never came"],
            "damaged": ["is broken", "came torn", "was crushed"],
        }.items()
        for end in ends
    ],
    columns=["text", "label"],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    words = train_wordpiece(list(TABLE["text"]), 120)
    folder = tmp_path_factory.mktemp("base")
    BERT.from_config(BERTConfig(words.vocab_size, 1, 2, 32, context=16, init_std=0.15), words, pooler=True).save_pretrained(folder)
    return aimt.finetune("bert", TABLE, model=folder, out=folder / "run", steps=40, lr=5e-3, quiet=True)


def test_a_run_chooses_examines_and_shows(run):
    metrics = run.read("metrics.json")
    trial = metrics["reason_trial"]
    assert not trial["refused"] and trial["method"] in {row["method"] for row in trial["table"]}
    assert trial["gain"]["low"] > 0 and trial["last"]["high"] < trial["threshold"] and trial["tested_on"] >= 5
    first = metrics["reasons"][0]
    assert first["method"] == trial["method"] and first["near"][0]["target"] == first["answer"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Training examples that helped these answers most" in page and "With the weights of the network shuffled" in page


def test_a_text_on_the_command_line(run, tmp_path, aimt_here):
    told = json.loads(aimt_here("explain", run.path, "the lamp is broken", "--out", tmp_path / "r.html", "--json").stdout)
    told = told["reasons"] if isinstance(told, dict) else told
    assert told[0]["prediction"] == "damaged" and [p["part"] for p in told[0]["parts"]] == "the lamp is broken".split()
    assert told[0]["contributions"][0]["effect"] == max(p["effect"] for p in told[0]["parts"]) and told[0]["near"][0]["target"] == "damaged"
    assert "broken" in (tmp_path / "r.html").read_text(encoding="utf-8")
    aimt.explain(run, "the lamp is broken", out=tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.warns(UserWarning, match="longer than 16 tokens"):
        long = aimt.explain(run, "the lamp is broken and " * 12)[0]
    assert "the network reads 14" in long["notes"][0]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("", "the text is empty"),
        ("photo.png", "this is a picture, and the run reads texts"),
        ("talk.wav", "this is a recording"),
        ("reviews.csv", "no such file"),
        (np.zeros((4, 4, 3)), "reads texts"),
    ],
)
def test_what_a_run_of_texts_cannot_explain(run, source, what):
    with pytest.raises(AimtError, match=what):
        aimt.explain(run, source)


def test_other_endings_older_runs_and_refusals(run, tmp_path, monkeypatch):
    with pytest.raises(ProblemError, match=r"ends in .html, .png or .json"):
        aimt.explain(run, "the lamp", out=tmp_path / "r.pdf")
    metrics = run.read("metrics.json")
    trial = metrics.pop("reason_trial")
    monkeypatch.setattr(Run, "read", lambda self, name: metrics)
    old = aimt.explain(run, "the lamp is lost")[0]
    assert old["method"] == "occlusion" and "nobody knows how faithful" in old["notes"][0]
    metrics["reason_trial"] = trial | {"refused": "it does not depend on the weights"}
    told = aimt.explain(run, "the lamp is lost", out=tmp_path / "r.html")[0]
    assert told["refused"] and told["parts"] == [] and told["prediction"] in ("late", "damaged")
    assert "No explanation is shown" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(ProblemError, match="nothing to draw"):
        aimt.explain(run, "the lamp is lost", out=tmp_path / "r.png")


def test_an_untrained_network_is_refused(tokenizer, tmp_path):
    """Random weights: the answers are no better than with other random weights, whatever the explanation looks like."""
    model, _, _ = make_bert(tokenizer, tmp_path)
    family = find_family("bert")
    texts = list(TABLE["text"][::4])
    said = family.predict(model, texts)["prediction"]
    right = ["late" if i % 2 else "bad" for i in range(len(texts))]
    examples = list(zip(texts, said, strict=True))
    trial = try_methods(family, model, examples[:6], examples[6:], right[6:])
    assert "nothing learned" in trial["refused"]
