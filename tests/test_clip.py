"""CLIP against transformers, against OpenAI's layout built from torch's own attention, and against damaged and foreign files."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from aimt.core.errors import DataError, ModelFormatError, RunError  # noqa: E402
from aimt.data.image.read import CLIPImages  # noqa: E402
from aimt.data.image.synthetic_shapes import draw_shapes  # noqa: E402
from aimt.models.image import clip_files as module  # noqa: E402
from aimt.models.image.clip import CLIP, resized  # noqa: E402
from aimt.models.image.clip_towers import CLIPConfig, Tower  # noqa: E402
from aimt.models.image.clip_tokenizer import EOT, SOT, CLIPTokenizer  # noqa: E402
from aimt.models.image.zero_shot import (  # noqa: E402
    embed_images,
    embed_texts,
    linear_probe,
    nearest,
    recall_at_k,
    zero_shot,
    zero_shot_head,
)
from aimt.models.layers.pretrained import load_weights, save_weights  # noqa: E402
from aimt.train.networks import contrastive  # noqa: E402
from aimt.train.networks.contrastive import (  # noqa: E402
    PairBatches,
    average_weights,
    clip_loss,
    contrastive_loss,
    encode_in_chunks,
    pick_alpha,
    same_group,
    settle,
)

torch.set_num_threads(1)
SMALL = CLIPConfig(Tower(64, 3, 4), Tower(48, 2, 4), width=40, image_size=32, patch_size=8, vocab_size=99, context=12, eot_id=98)


def shaken(config: CLIPConfig = SMALL, seed: int = 0) -> CLIP:
    """A model whose weights are large enough to show mistakes."""
    torch.manual_seed(seed)
    model = CLIP(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model


def inputs(n=3, m=5, config: CLIPConfig = SMALL, seed=0):
    """Pictures, and texts that end at different places, with rubbish behind the end."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randn(n, 3, config.image_size, config.image_size, generator=rng)
    ids = torch.randint(3, config.vocab_size - 1, (m, config.context), generator=rng)
    ids[torch.arange(m), torch.arange(m) % (config.context - 2) + 2] = config.vocab_size - 1
    return pixels, ids


# ---- transformers


@pytest.fixture(scope="module")
def transformers():
    package = pytest.importorskip("transformers")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def reference(transformers, act="quick_gelu", eos=98, **changes):
    both = {"hidden_act": act, "projection_dim": 40}
    text = {
        "vocab_size": 99,
        "hidden_size": 48,
        "intermediate_size": 100,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "eos_token_id": eos,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 130,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=40, **changes)
    torch.manual_seed(1)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model


def compare(ours: CLIP, theirs, pixels, ids, atol=1e-5):
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=pixels)
        logits = ours(pixels, ids)
        assert torch.allclose(logits, out.logits_per_image, atol=atol), (logits - out.logits_per_image).abs().max()
        assert torch.allclose(ours.encode_image(pixels), out.image_embeds, atol=atol)
        assert torch.allclose(ours.encode_text(ids), out.text_embeds, atol=atol)
        raw = theirs.get_image_features(pixel_values=pixels)
        raw = raw if isinstance(raw, torch.Tensor) else raw.pooler_output
        assert torch.allclose(ours.encode_image(pixels, normalize=False), raw, atol=atol)
        assert logits.std() > 0.1  # a comparison of numbers that differ


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new"])
@pytest.mark.parametrize("eos", [98, 2])
def test_parity_both_ways(transformers, tmp_path, act, eos):
    theirs = reference(transformers, act, eos)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = CLIP.from_pretrained(tmp_path / "theirs").eval()
    assert ours.config.eot_id == (None if eos == 2 else eos) and ours.config.text.mlp == act.replace("_new", "_tanh")
    pixels, ids = inputs()
    compare(ours, theirs, pixels, ids)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.CLIPModel.from_pretrained(tmp_path / "ours").eval()
    compare(ours, back, pixels, ids)
    mine, original = load_weights(tmp_path / "ours/model.safetensors"), load_weights(tmp_path / "theirs/model.safetensors")
    assert mine.keys() == original.keys() and all(torch.equal(mine[n], original[n]) for n in mine)


def test_the_two_ways_to_find_the_end_differ(transformers, tmp_path):
    """With a token of a larger id than the end (added later), only the search for the end is right."""
    pixels, ids = inputs()
    ids[0] = torch.tensor([0, 5, 90, 98, 4, 4, 4, 4, 4, 4, 4, 4])
    for eos in (90, 2):
        theirs = reference(transformers, eos=eos)
        theirs.save_pretrained(tmp_path / str(eos))
        ours = CLIP.from_pretrained(tmp_path / str(eos)).eval()
        assert ours.text.end_of(ids[:1]).item() == (2 if eos == 90 else 3)
        compare(ours, theirs, pixels, ids[:1])


def test_other_picture_sizes_equal_transformers(transformers, tmp_path):
    theirs = reference(transformers)
    theirs.save_pretrained(tmp_path)
    ours, pixels = CLIP.from_pretrained(tmp_path), torch.randn(2, 3, 56, 56)
    raw = theirs.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
    raw = raw if isinstance(raw, torch.Tensor) else raw.pooler_output
    larger = resized(ours, 56).eval()
    assert torch.allclose(larger.encode_image(pixels, normalize=False), raw, atol=1e-5) and raw.std() > 0.1
    assert larger.config.n_patches == 49 and torch.equal(resized(ours, 32).image.positions, ours.image.positions)
    with pytest.raises(ValueError, match="57 pixels"):
        resized(ours, 57)


def test_fresh_model_to_transformers(transformers, tmp_path):
    model = shaken(replace(SMALL, eot_id=None, text=Tower(48, 2, 4, d_ff=77, mlp="gelu", eps=1e-4)))
    model.save_pretrained(tmp_path)
    theirs = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    compare(model, theirs, *inputs())
    again = CLIP.from_pretrained(tmp_path)
    assert again.config == replace(model.config, vision=again.config.vision) and again.config.vision.d_ff == 256
    assert torch.equal(again(*inputs()), model(*inputs()))


def test_settings_left_out_have_their_usual_values(transformers):
    full = module.config_from_json(transformers.CLIPConfig().to_dict())
    assert module.config_from_json({"model_type": "clip"}) == full
    assert full == replace(CLIPConfig.preset("ViT-B/32", eot_id=49407, logit_scale=2.6592), vision=full.vision, text=full.text)
    old = {"model_type": "clip", "text_config_dict": {"eos_token_id": 2}, "vision_config_dict": {"patch_size": 16}}
    config = module.config_from_json(old)
    assert config.eot_id is None and config.patch_size == 16
    for name, counted in (("ViT-B/32", 151_277_313), ("ViT-B/16", 149_620_737), ("ViT-L/14", 427_616_513)):
        with torch.device("meta"):
            assert CLIP(CLIPConfig.preset(name)).n_parameters() == counted


# ---- OpenAI's layout, built here from torch's own attention


class OpenAIBlock(torch.nn.Module):
    def __init__(self, d, heads, act):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = torch.nn.MultiheadAttention(d, heads), torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.mlp = torch.nn.ModuleDict({"c_fc": torch.nn.Linear(d, 4 * d), "c_proj": torch.nn.Linear(4 * d, d)})
        self.act = act

    def forward(self, x, mask=None):  # (L, B, D), as OpenAI's code has it
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](self.act(self.mlp["c_fc"](self.ln_2(x))))


class OpenAI(torch.nn.Module):
    """The model of the CLIP repository in the names of its checkpoints."""

    def __init__(self, act, d=128, e=64, out=40, side=32, patch=8, vocab=99, context=12):
        super().__init__()
        make = lambda width, heads, n: torch.nn.ModuleDict(
            {"resblocks": torch.nn.ModuleList(OpenAIBlock(width, heads, act) for _ in range(n))}
        )
        parameter = lambda *shape: torch.nn.Parameter(torch.randn(*shape) * 0.3)
        self.visual = torch.nn.Module()
        self.visual.conv1 = torch.nn.Conv2d(3, d, patch, patch, bias=False)
        self.visual.class_embedding, self.visual.positional_embedding = parameter(d), parameter((side // patch) ** 2 + 1, d)
        self.visual.ln_pre, self.visual.ln_post = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.visual.transformer, self.visual.proj = make(d, d // 64, 2), parameter(d, out)
        self.transformer, self.token_embedding = make(e, e // 64, 3), torch.nn.Embedding(vocab, e)
        self.positional_embedding, self.ln_final = parameter(context, e), torch.nn.LayerNorm(e)
        self.text_projection, self.logit_scale = parameter(e, out), torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, pixels, ids):
        v = self.visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        x = v.ln_pre(x).transpose(0, 1)
        for block in v.transformer["resblocks"]:
            x = block(x)
        image = v.ln_post(x[0]) @ v.proj
        t = (self.token_embedding(ids) + self.positional_embedding).transpose(0, 1)
        mask = torch.full((len(t), len(t)), -torch.inf).triu(1)
        for block in self.transformer["resblocks"]:
            t = block(t, mask)
        t = self.ln_final(t.transpose(0, 1))
        text = t[torch.arange(len(t)), ids.argmax(-1)] @ self.text_projection
        image, text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
        return self.logit_scale.exp() * image @ text.T


def openai(act="quick_gelu"):
    torch.manual_seed(3)
    model = OpenAI((lambda x: x * torch.sigmoid(1.702 * x)) if act == "quick_gelu" else F.gelu).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model


def test_openai_names_without_any_settings(tmp_path):
    theirs, (pixels, ids) = openai(), inputs()
    extra = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(12), "vocab_size": torch.tensor(99)}
    save_weights(tmp_path / "model.safetensors", theirs.state_dict() | extra)
    with pytest.raises(ModelFormatError, match="config.json"):
        CLIP.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    ours = CLIP.from_pretrained(tmp_path).eval()
    assert (ours.config.vision.n_head, ours.config.text.n_head, ours.config.patch_size, ours.config.image_size) == (2, 1, 8, 32)
    with torch.no_grad():
        assert torch.allclose(ours(pixels, ids), theirs(pixels, ids), atol=1e-5)
        assert ours(pixels, ids).std() > 0.3
    state = module.unify(theirs.state_dict())
    assert state[0] == ours.config and all(torch.equal(t, ours.state_dict()[n]) for n, t in state[1].items())


@pytest.mark.parametrize("prefix", ["", "module.", "text."])
def test_open_clip_gelu_prefixes_and_back(tmp_path, prefix):
    theirs, (pixels, ids) = openai("gelu"), inputs()
    state = theirs.state_dict()
    if prefix == "text.":
        own = ("visual.", "logit_scale")
        state = {n if n.startswith(own) else prefix + n: t for n, t in state.items()}
    else:
        state = {prefix + n: t for n, t in state.items()}
    save_weights(tmp_path / "open_clip_model.safetensors", state)
    settings = {"model_cfg": {"embed_dim": 40, "vision_cfg": {"layers": 2}, "text_cfg": {"heads": 1}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    ours = CLIP.from_pretrained(tmp_path).eval()
    assert ours.config.vision.mlp == "gelu"
    with torch.no_grad():
        assert torch.allclose(ours(pixels, ids), theirs(pixels, ids), atol=1e-5)
    ours.save_pretrained(tmp_path / "back", names="openai")
    theirs_again = OpenAI(F.gelu).eval()
    theirs_again.load_state_dict(load_weights(tmp_path / "back/open_clip_model.safetensors"))  # strict
    assert torch.equal(theirs_again(pixels, ids), theirs(pixels, ids))
    assert CLIP.from_pretrained(tmp_path / "back").config == ours.config


def test_hf_and_openai_layouts_hold_the_same_model(tmp_path):
    model, (pixels, ids) = shaken(replace(SMALL, eot_id=None)), inputs()
    model.save_pretrained(tmp_path / "hf")
    model.save_pretrained(tmp_path / "openai", names="openai")
    loaded = [CLIP.from_pretrained(tmp_path / n).eval() for n in ("hf", "openai")]
    assert torch.equal(loaded[0](pixels, ids), model(pixels, ids)) and torch.equal(loaded[1](pixels, ids), model(pixels, ids))
    with pytest.raises(ValueError, match="hf, openai"):
        model.save_pretrained(tmp_path, names="keras")


# ---- faults


def saved(tmp_path, model=None):
    (model or shaken()).save_pretrained(tmp_path)
    return tmp_path


def test_damaged_weights(tmp_path):
    path = saved(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFormatError, match="not a readable safetensors"):
        CLIP.from_pretrained(tmp_path)
    hurt = bytearray(whole)
    hurt[-100] ^= 255
    path.write_bytes(hurt)
    with pytest.raises(ModelFormatError, match="checksum"):
        CLIP.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ModelFormatError, match="missing"):
        CLIP.from_pretrained(tmp_path)


def test_missing_wrong_and_foreign_tensors(tmp_path):
    path = saved(tmp_path) / "model.safetensors"
    state = load_weights(path)
    for change, words in [
        ({"visual_projection.weight": None}, "missing image.project.weight"),
        ({"visual_projection.weight": torch.zeros(41, 64)}, r"image.project.weight is \[41, 64\] and not \[40, 64\]"),
        ({"text_model.encoder.layers.1.self_attn.k_proj.weight": None}, "k_proj.weight is missing"),
        ({"classifier.weight": torch.zeros(2)}, "another kind of model: classifier.weight"),
        ({"text_model.encoder.layers.7.layer_norm1.bias": torch.zeros(48)}, "unexpected text.blocks.7"),
    ]:
        changed = {n: t for n, t in (state | change).items() if t is not None}
        save_weights(path, changed)
        with pytest.raises(ModelFormatError, match=words):
            CLIP.from_pretrained(tmp_path)
    save_weights(path, state | {"vision_model.embeddings.position_ids": torch.arange(3)})  # as in old files
    CLIP.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"model_type": None}, "not 'clip'"),
        ({"aimt_format": 99}, "Update aimt"),
        ({"text_config": {"hidden_act": "swish"}}, "hidden_act is 'swish'"),
        ({"text_config": {"hidden_size": "wide"}}, "misstates"),
        ({"vision_config": {"num_channels": 4}}, "num_channels"),
        ({"vision_config": {"image_size": 33}}, "33 pixels"),
        ({"vision_config": {"num_attention_heads": 7}}, "7 heads"),
        ({"text_config": 3}, "misstates"),
    ],
)
def test_wrong_settings(tmp_path, change, words):
    saved(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name, value in change.items():
        settings[name] = settings[name] | value if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelFormatError, match=words):
        CLIP.from_pretrained(tmp_path)


def test_wrong_folders(tmp_path):
    with pytest.raises(ModelFormatError, match="no such folder"):
        CLIP.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelFormatError):
        CLIP.from_pretrained(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelFormatError):
        CLIP.from_pretrained(tmp_path)
    save_weights(tmp_path / "open_clip_model.safetensors", {"visual.layer1.0.conv1.weight": torch.zeros(3)})  # a ResNet
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    with pytest.raises(ModelFormatError, match="vision transformer"):
        CLIP.from_pretrained(tmp_path)


def test_wrong_inputs():
    model, (pixels, ids) = shaken(), inputs()
    for bad, words in [(pixels[:, :, :31], "not \\(3, 3, 31, 32\\)"), (pixels[0], "CLIPImages"), (pixels[:, :1], "3, 32, 32")]:
        with pytest.raises(ValueError, match=words):
            model.encode_image(bad)
    for bad, words in [
        (ids.repeat(1, 2), "at most 12"),
        (ids[0], "CLIPTokenizer"),
        (ids + 1, "token 99"),
        (ids * 0 + 5, "text 0 has no end token 98"),
        (ids - 10, "token -"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.encode_text(bad)
    for wrong in [{"n_head": 5}, {"n_layer": 0}]:
        with pytest.raises(ValueError, match="no transformer"):
            Tower(**{"width": 64, "n_layer": 1, "n_head": 1} | wrong)
    with pytest.raises(ValueError, match="Did you mean 'ViT-B/32'"):
        CLIPConfig.preset("ViT-B-32")


def test_what_stands_behind_the_end_changes_nothing():
    model, (pixels, ids) = shaken(), inputs()
    other = ids.clone()
    for row, end in zip(other, model.text.end_of(ids), strict=True):
        row[end + 1 :] = 7
    assert torch.allclose(model.encode_text(ids), model.encode_text(other), atol=1e-6)
    alone = torch.cat([model.encode_text(ids[i : i + 1]) for i in range(len(ids))])
    assert torch.allclose(model.encode_text(ids), alone, atol=1e-6)
    assert torch.allclose(model.encode_image(pixels).norm(dim=1), torch.ones(3))
    assert model.encode_text(ids[:0]).shape == (0, 40) and model.encode_image(pixels[:0]).shape == (0, 40)


# ---- words

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("a", "b"), ("1", "2</w>")]


def test_tokenizer_equals_transformers(transformers, tmp_path):
    ours = CLIPTokenizer.from_merges(MERGES, context=16)
    assert ours.vocab_size == 512 + len(MERGES) + 2
    ours.save(tmp_path / "a")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "a")
    texts = ["a cat", "CAT  dog\n\tCab", "", "it's 1234 Ünïcode 🙂 ---", "x" * 60, "cat. dog! don't", "\u00a0cat", "e\u0301a"]
    assert ours(texts).tolist() == theirs(texts, padding="max_length", truncation=True, max_length=16)["input_ids"]
    back = CLIPTokenizer.load(tmp_path / "a")
    assert torch.equal(back(texts), ours(texts)) and back.context == 16
    vocab = json.loads((tmp_path / "a/tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/vocab.json").write_text(json.dumps(vocab | {SOT: 518, EOT: 519}))
    (tmp_path / "b/merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in MERGES) + "\n")
    assert torch.equal(CLIPTokenizer.load(tmp_path / "b", context=16)(texts), ours(texts))
    theirs.save_pretrained(tmp_path / "c")
    assert torch.equal(CLIPTokenizer.load(tmp_path / "c", context=16)(texts), ours(texts))


def test_tokenizer_keeps_its_end_and_its_text():
    tokenizer = CLIPTokenizer.from_merges(MERGES, context=8)
    rows = tokenizer(["cat dog cat dog cat dog cat dog", "cat", "", "<|endoftext|>"])
    assert rows.shape == (4, 8) and (rows[:, 0] == tokenizer.sot_id).all()
    assert (rows[0] == tokenizer.eot_id).nonzero().flatten().tolist() == [7]
    assert rows[2].tolist() == [tokenizer.sot_id] + [tokenizer.eot_id] * 7
    assert (rows[3, 1:7] != tokenizer.eot_id).all()  # the words of a special token are words
    assert tokenizer.decode(rows[1]) == "cat" and tokenizer.decode(rows[0]) == "cat dog cat dog cat dog"
    assert tokenizer.count("cat dog") == 4 and tokenizer.count("") == 2
    assert tokenizer(["a\ud800b"]).shape == (1, 8) and tokenizer([]).shape == (0, 8)
    with pytest.raises(TypeError, match="list"):
        tokenizer("cat")
    with pytest.raises(ValueError, match="no room"):
        CLIPTokenizer.from_merges(MERGES, context=2)


def test_unknown_letters_never_become_an_end(tmp_path):
    tokenizer = CLIPTokenizer.train(["a red cat", "a blue dog"] * 9, vocab_size=530, context=40)
    assert tokenizer.vocab_size <= 530
    rows = tokenizer(["Żółw 🐢 一二三"])
    ends = (rows[0] == tokenizer.eot_id).nonzero().flatten().tolist()
    assert ends == list(range(ends[0], 40)) and ends[0] > 8
    with pytest.raises(ValueError, match="514"):
        CLIPTokenizer.train(["a"], vocab_size=513)


def test_foreign_and_damaged_tokenizers(tmp_path):
    with pytest.raises(ModelFormatError, match="neither tokenizer.json"):
        CLIPTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFormatError, match="damaged"):
        CLIPTokenizer.load(tmp_path)
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelFormatError, match="not one of CLIP"):
        CLIPTokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(ModelFormatError, match="list of merges"):
        CLIPTokenizer.load(tmp_path / "merges.txt")
    (tmp_path / "merges.txt.gz").write_bytes(b"\x1f\x8b rubbish")
    with pytest.raises(ModelFormatError, match="list of merges"):
        CLIPTokenizer.load(tmp_path / "merges.txt.gz")


# ---- zero-shot, retrieval, probe


def test_recall_against_sorting():
    rng = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(n, 8, generator=rng), dim=-1) for n in (30, 45))
    match = torch.rand(30, 45, generator=rng) < 0.1
    match[torch.arange(30), torch.arange(30)] = True
    match[torch.arange(45) % 30, torch.arange(45)] = True
    got = recall_at_k(image, text, k=(1, 3), match=match)
    for k in (1, 3):
        top = (image @ text.T).argsort(dim=1, descending=True)[:, :k]
        assert got[f"image_to_text@{k}"] == pytest.approx(match.gather(1, top).any(1).double().mean().item())
        top = (text @ image.T).argsort(dim=1, descending=True)[:, :k]
        assert got[f"text_to_image@{k}"] == pytest.approx(match.T.gather(1, top).any(1).double().mean().item())
    same = torch.ones(4, 2) / math.sqrt(2)
    assert recall_at_k(same, same, k=(1,)) == {"image_to_text@1": 0.0, "text_to_image@1": 0.0}
    assert recall_at_k(image, image, k=(1,))["image_to_text@1"] == 1
    with pytest.raises(DataError, match="30 pictures and 45 texts"):
        recall_at_k(image, text)
    with pytest.raises(DataError, match="at least one"):
        recall_at_k(image, text, match=torch.zeros(30, 45))
    values, rows = nearest(text[:2], image, k=50)
    assert rows.shape == (2, 30) and (values[:, :-1] >= values[:, 1:]).all()


def test_zero_shot_head():
    config = replace(SMALL, vocab_size=530, context=20, eot_id=None)
    model, tokenizer = shaken(config), CLIPTokenizer.train(["a photo of a cat dog"] * 5, vocab_size=530, context=20)
    names = ["cat", "dog", "{weird}"]
    head = zero_shot_head(model, tokenizer, names, templates=("a {}", "the {} here"))
    by_hand = [F.normalize((embed_texts(model, tokenizer, [f"a {n}", f"the {n} here"])).mean(0), dim=0) for n in names]
    assert torch.allclose(head, torch.stack(by_hand), atol=1e-6)
    probs = zero_shot(model, embed_images(model, inputs(4)[0]), head)
    assert probs.shape == (4, 3) and torch.allclose(probs.sum(1), torch.ones(4))
    for bad, words in [((), "at least one name"), (["a", "a"], "'a' occurs twice"), (["a", " "], "class 1 has no name")]:
        with pytest.raises(DataError, match=words):
            zero_shot_head(model, tokenizer, bad)
    with pytest.raises(DataError, match="needs one"):
        zero_shot_head(model, tokenizer, ["a"], templates=("a photo",))


def test_embedding_in_batches_of_files(tmp_path):
    drawings = draw_shapes(5)
    model, images = shaken().train(), CLIPImages(32, 32)
    whole = embed_images(model, images(drawings.pixels))
    assert torch.allclose(embed_images(model, list(drawings.pixels), images=images, batch_size=2), whole, atol=1e-6)
    assert model.training and embed_images(model, [], images=images).shape == (0, 40)
    (tmp_path / "bad.png").write_bytes(b"words")
    with pytest.raises(DataError, match="bad.png"):
        embed_images(model, [tmp_path / "bad.png"], images=images)


def test_linear_probe():
    rng = np.random.default_rng(0)
    y = np.array(["cat", "dog"])[rng.integers(2, size=80)]
    X = rng.normal(size=(80, 6)) + (y == "cat")[:, None] * 2
    assert linear_probe(X[:50], y[:50]).score(X[50:], y[50:]) > 0.9
    for bad_y, words in [(y[:79], "79 labels"), (np.full(80, "cat"), "1 classes"), (["emu", *y[1:]], "'emu' has 1")]:
        with pytest.raises(DataError, match=words):
            linear_probe(X, bad_y)


# ---- the loss, gradient caching, averaging


def batch_of(n=12, seed=0):
    pixels, ids = inputs(n, n, seed=seed)
    return {"pixels": pixels, "ids": ids}


def gradient(model, compute):
    model.zero_grad()
    compute().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("chunk", [1, 5, 6, 11, 12, 99])
def test_gradient_caching_is_exact(chunk):
    model, batch = shaken(), batch_of()
    batch["group"] = torch.tensor([0, 1, 2, 3, 4, 5, 6, 3, 8, 9, 1, 1])  # several right answers
    full = gradient(model, lambda: clip_loss(model, batch))
    assert full.abs().max() > 1e-2
    cached = gradient(model, lambda: clip_loss(model, batch, chunk=chunk))
    assert (full - cached).abs().max() < 1e-6 * max(1, float(full.abs().max()))
    assert torch.allclose(clip_loss(model, batch, chunk=chunk), clip_loss(model, batch), atol=1e-6)


def test_gradient_caching_in_double_precision_and_under_autocast():
    model, batch = shaken().double(), batch_of()
    batch["pixels"] = batch["pixels"].double()
    full, cached = (gradient(model, lambda c=c: clip_loss(model, batch, chunk=c)) for c in (None, 5))
    assert (full - cached).abs().max() < 1e-12
    model, batch = shaken(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        full, cached = (gradient(model, lambda c=c: clip_loss(model, batch, chunk=c)) for c in (None, 5))
    assert F.cosine_similarity(full, cached, dim=0) > 0.999


def test_gradient_caching_replays_dropout():
    config = replace(SMALL, vision=replace(SMALL.vision, attn_dropout=0.3), text=replace(SMALL.text, attn_dropout=0.3))
    model, batch = shaken(config).train(), batch_of()

    def by_hand():  # the same chunks without caching
        image, text = (
            torch.cat([f(p) for p in batch[k].split(5)]) for f, k in ((model.encode_image, "pixels"), (model.encode_text, "ids"))
        )
        return contrastive_loss(image, text, model.logit_scale)

    torch.manual_seed(5)
    plain = gradient(model, by_hand)
    torch.manual_seed(5)
    assert (plain - gradient(model, lambda: clip_loss(model, batch, chunk=5))).abs().max() < 1e-6
    torch.manual_seed(6)
    assert (plain - gradient(model, lambda: clip_loss(model, batch, chunk=5))).abs().max() > 1e-3


def test_caching_keeps_one_chunk():
    """What autograd holds for the backward pass, in bytes, outside of the chunks."""

    def held(n, chunk):
        model, batch, total = shaken(), batch_of(n), 0

        def count(t):
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            clip_loss(model, batch, chunk=chunk)
        return total

    assert held(24, 4) < held(24, None) / 4


def test_encode_in_chunks_is_plain_without_gradients():
    calls = []
    encode = lambda x: calls.append(len(x)) or x * 2
    with torch.no_grad():
        encode_in_chunks(encode, torch.ones(6, 1), 2)
    assert calls == [6]
    with pytest.raises(ValueError, match="at least one"):
        encode_in_chunks(encode, torch.ones(6, 1), 0)


def test_loss_equals_transformers(transformers):
    theirs, (pixels, ids) = reference(transformers), inputs(5, 5)
    out = theirs(input_ids=ids, pixel_values=pixels, return_loss=True)
    assert torch.allclose(contrastive_loss(out.image_embeds, out.text_embeds, theirs.logit_scale), out.loss, atol=1e-6)


def test_several_right_answers():
    """Against the definition: the mean over the rows of -sum_j q_ij log p_ij, q even among what is right."""
    rng = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 6, generator=rng), dim=-1) for _ in range(2))
    same = same_group(torch.tensor([0, 1, 0, 2, 0]))
    logits, expected = math.exp(2) * image @ text.T, 0.0
    for z in (logits, logits.T):
        for i in range(5):
            right = [j for j in range(5) if same[i, j]]
            expected -= sum(float(z[i].log_softmax(0)[j]) for j in right) / len(right) / 10
    assert float(contrastive_loss(image, text, torch.tensor(2.0), same=same)) == pytest.approx(expected, rel=1e-5)
    batch = batch_of() | {"group": torch.arange(12)}
    model = shaken()
    plain = clip_loss(model, {k: batch[k] for k in ("pixels", "ids")})
    assert torch.allclose(clip_loss(model, batch), plain, atol=1e-6)  # each pair a group of its own


def test_the_factor_stays_below_a_hundred():
    model, batch = shaken(), batch_of()
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
    loss = clip_loss(model, batch)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(contrastive.MAX_SCALE, rel=1e-5)
    loss.backward()
    assert model.logit_scale.grad.abs() > 0  # it may still come down
    with pytest.raises(DataError, match="3 pictures and 2 texts"):
        contrastive_loss(torch.zeros(3, 2), torch.zeros(2, 2), model.logit_scale)


def test_average_weights():
    before, after = shaken(seed=0), shaken(seed=1)
    half = average_weights(before, after)
    for name, t in half.items():
        assert torch.allclose(t, (before.state_dict()[name] + after.state_dict()[name]) / 2, atol=1e-7)
    for alpha, model in ((0.0, before), (1.0, after)):
        assert all(torch.equal(t, model.state_dict()[n]) for n, t in average_weights(before, after, alpha=alpha).items())
    kept = {n: t.clone() for n, t in before.state_dict().items()}
    settle(after, kept, alpha=0.5)
    assert all(torch.allclose(t, half[n]) for n, t in after.state_dict().items())
    assert all(torch.equal(kept[n], t) for n, t in before.state_dict().items())  # not changed
    for bad, words in [({"alpha": 1.5}, "1.5"), ({"alpha": float("nan")}, "nan")]:
        with pytest.raises(ValueError, match=words):
            average_weights(before, after, **bad)
    with pytest.raises(ModelFormatError, match="logit_scale"):
        average_weights({n: t for n, t in kept.items() if n != "logit_scale"}, after)
    with pytest.raises(ModelFormatError, match="shape"):
        average_weights(kept | {"logit_scale": torch.zeros(2)}, after)
    counted = average_weights({"n": torch.tensor(1), "w": torch.zeros(1).half()}, {"n": torch.tensor(4), "w": torch.ones(1).half()})
    assert counted["n"] == 4 and counted["w"].dtype == torch.float16 and counted["w"] == 0.5


def test_pick_alpha():
    before, after = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(before.weight, 0.0)
    torch.nn.init.constant_(after.weight, 1.0)
    alpha, curve = pick_alpha(after, before.state_dict(), lambda m: -abs(float(m.weight.detach()) - 0.3), alphas=(0, 0.25, 0.5, 1))
    assert alpha == 0.25 and float(after.weight.detach()) == 0.25 and [a for a, _ in curve] == [0, 0.25, 0.5, 1]
    with pytest.raises(RunError, match="not a number"):
        pick_alpha(after, before.state_dict(), lambda m: float("nan"))


def test_training_resumes_bitwise(tmp_path):
    from aimt.train.loop.trainer import TrainConfig, Trainer

    drawings, images = draw_shapes(40), CLIPImages(32, 32)
    tokenizer = CLIPTokenizer.train(drawings.captions, vocab_size=560, context=16)
    pixels, ids = images(drawings.pixels), tokenizer(drawings.captions)

    def trainer(folder):
        torch.manual_seed(0)
        model = CLIP(CLIPConfig.preset("tiny", vocab_size=560))
        config = TrainConfig(steps=6, lr=1e-3, save_every=3, precision="fp32", device="cpu")
        return Trainer(model, PairBatches(pixels, ids, 16), lambda m, b: clip_loss(m, b, chunk=8), config, folder=folder)

    whole = trainer(tmp_path / "a")
    whole.fit()
    first = trainer(tmp_path / "b")

    class Stop:
        def on_step(self, trainer, row):
            if row["step"] == 3:
                trainer.stop()

    first.hooks = [Stop()]
    first.fit()
    second = trainer(tmp_path / "b")
    second.fit(resume=True)
    assert second.step == 6
    same = zip(whole.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
