"""Model files that are damaged, doctored or absurdly large: refused in one line, at once, and before memory is taken."""

import gzip
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from aimt.core.errors import AimtError, ModelFormatError
from aimt.models.trees.booster_text import parse_booster
from aimt.models.trees.boosting import fit_member, read_booster

HERE = Path(__file__).resolve().parent


# -- boosters ------------------------------------------------------------------------------------------------------


def grown(task: str, n_classes: int = 1):
    """A member with missing numbers and sets of categories, and the rows."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(900, 3)), rng.integers(0, 80, 900)])
    X[rng.random(X.shape) < 0.05] = np.nan
    score = np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 3]) % 7 / 3
    y = score if task == "regression" else np.searchsorted(np.quantile(score, np.arange(1, max(n_classes, 2)) / max(n_classes, 2)), score)
    params = {"num_leaves": 15, "min_data_in_leaf": 5, "cat_smooth": 1, "min_data_per_group": 5}
    return fit_member(X[:600], y[:600], X[600:], y[600:], task=task, n_classes=n_classes, categorical=[3], params=params, max_rounds=40), X


@pytest.mark.parametrize("task, n_classes", [("binary", 2), ("multiclass", 4), ("regression", 1)])
def test_a_rebuilt_booster_says_the_same_to_the_last_bit(task, n_classes):
    member, X = grown(task, n_classes)
    text = member.booster.model_to_string()
    again = read_booster(text, n_columns=4, n_outputs=n_classes if task == "multiclass" else 1)
    for option in ({}, {"raw_score": True}, {"pred_contrib": True}, {"pred_leaf": True}):
        assert np.array_equal(again.predict(X, **option), member.booster.predict(X, **option))
    assert parse_booster(again.model_to_string()).to_text() == parse_booster(text).to_text()
    assert any(len(tree.cat_boundaries) for tree in parse_booster(text).trees)


def changed(text: str, key: str, value: str) -> str:
    return re.sub(rf"^{key}=.*$", lambda _: f"{key}={value}", text, count=1, flags=re.M)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: changed(t, "left_child", "7 7 7\nleft_child=1 2 3"),  # a key twice
        lambda t: t.replace("shrinkage=1\n\n", "shrinkage=1\n\nleaf_value=1 2 3\n", 1),  # text after a blank line
        lambda t: changed(t, "num_leaves", "2147483647"),
        lambda t: changed(t, "num_leaves", "9" * 5000),
        lambda t: changed(t, "num_cat", "100000000"),
        lambda t: changed(t, "cat_boundaries", "0 99999999"),
        lambda t: changed(t, "threshold", "1e9 " * 14),
        lambda t: changed(t, "leaf_value", "nan " * 15),
        lambda t: changed(t, "split_feature", "4 " * 14),
        lambda t: changed(t, "left_child", "0 " * 14),  # a ring
        lambda t: changed(t, "max_feature_idx", "1000000000"),
        lambda t: changed(t, "num_class", "1000000000"),
        lambda t: changed(t, "objective", "lambdarank"),
        lambda t: changed(t, "objective", "binary sigmoid:0"),
        lambda t: changed(t, "feature_infos", "none"),
        lambda t: changed(t, "is_linear", "1"),
        lambda t: t.replace("Tree=1\n", "Tree=5\n"),
        lambda t: t.replace("end of trees", "end of tree"),
    ],
)
def test_a_doctored_booster_is_refused(change):
    text = grown("binary", 2)[0].booster.model_to_string()
    assert change(text) != text
    with pytest.raises(ModelFormatError, match="trees are damaged"):
        read_booster(change(text), n_columns=4, n_outputs=1)


def test_byte_counts_and_what_follows_the_trees_are_not_used():
    member, X = grown("binary", 2)
    text = member.booster.model_to_string()
    for bad in (
        changed(text, "tree_sizes", "5 -7 99999999999999"),
        text + "\nTree=99\nnum_leaves=9\n",
        text + "pandas_categorical:[" + "[" * 10_000,
    ):
        assert np.array_equal(read_booster(bad, n_columns=4, n_outputs=1).predict(X), member.booster.predict(X))


def mutated(count: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(HERE / "mutate_boosters.py"), str(count), str(seed)], capture_output=True, text=True, timeout=60 + count / 20
    )
    assert done.returncode == 0, f"the reader died: {done.returncode}, {done.stderr[-500:]}"
    return json.loads(done.stdout)


def test_no_mutated_booster_crashes_or_hangs():
    told = mutated(300, 0)
    assert told["refused"] + told["accepted"] == 300 and min(told.values()) > 10


@pytest.mark.slow(reason="a minute")
def test_ten_thousand_mutated_boosters():
    told = mutated(10_000, 1)
    assert told["refused"] + told["accepted"] == 10_000 and min(told.values()) > 300


# -- small files that promise much -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def little_memory():
    """No test of this file may ask for more than 4 GB beyond what it has: an honest reader needs a few megabytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def field(number: int, value: bytes | int) -> bytes:
    from aimt.models.audio.tf_files import write_field

    return write_field(number, value)


def constant(shape: list[int], *more: bytes) -> bytes:
    """A graph with one constant of this shape, whose number is given once."""
    from aimt.models.audio.tf_files import write_shape

    tensor = field(1, 1) + field(2, write_shape(shape)) + b"\x2d" + struct.pack("<f", 1.0) + b"".join(more)
    return field(1, field(1, "x") + field(2, "Const") + field(5, field(1, "value") + field(2, field(8, tensor))))


@pytest.mark.parametrize(
    "raw",
    [
        constant([2_000_000_000]),
        constant([2**32, 2**32]),  # wraps to 0 in 64 bits
        constant([2**63 - 1, 2]),
        constant([-1]),
        constant([2**24]) * 3000 + constant([10**9]),
        field(1, field(1, 10**11)),  # a number where a name should be: bytes(10**11)
        field(1, field(2, 10**11)),
        field(1, field(1, "x") + field(3, 10**11)),
        field(1, field(1, "x") + field(5, field(1, 10**11) + field(2, field(2, b"v")))),
        field(1, field(1, "x") + field(5, field(1, "value") + field(2, field(2, 10**11)))),
    ],
)
def test_a_small_graph_takes_little_memory(tmp_path, raw):
    from aimt.models.audio.tf_files import read_pb

    (tmp_path / "x.pb").write_bytes(raw)
    with pytest.raises(ModelFormatError):
        read_pb(tmp_path / "x.pb")


def test_a_constant_of_one_number_keeps_its_shape(tmp_path):
    from aimt.models.audio.tf_files import read_pb

    (tmp_path / "x.pb").write_bytes(constant([2000, 1000]))
    assert np.array_equal(read_pb(tmp_path / "x.pb")["x"], np.ones((2000, 1000)))
    two = b"\x2d" + struct.pack("<f", 2.0)
    (tmp_path / "x.pb").write_bytes(constant([4], two))
    assert read_pb(tmp_path / "x.pb")["x"].tolist() == [1, 2, 2, 2]


def wav(rate: int, channels: int = 1, width: int = 2) -> bytes:
    sound = struct.pack("<200h", *range(0, 20_000, 100)) * channels
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * width % 2**32, channels * width % 2**16, 8 * width)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(sound))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", len(sound))
        + sound
    )


def test_an_awkward_rate_is_read(tmp_path):
    from aimt.data.audio.read import read_audio

    (tmp_path / "x.wav").write_bytes(wav(44_101))
    assert len(read_audio(tmp_path / "x.wav")) == round(200 * 16_000 / 44_101)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 1_000_000}},
        {"crop_size": {"height": 10**6, "width": 10**6}},
        {"size": 10**30},
        {"size": "224"},
        {"size": [224]},
        {"image_mean": "abc"},
        {"image_std": [1, 1, "1"]},
        {"image_mean": [1e400] * 3},
        {"resample": [3]},
        {"rescale_factor": None},
        {"size": {"height": "x"}},
    ],
)
def test_settings_of_pictures_are_bounded(tmp_path, settings):
    from aimt.data.image.read import CLIPImages

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelFormatError):
        CLIPImages.load(tmp_path)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    from aimt.data.image.read import read_image

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was asked"))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(AimtError, match="PostScript"):
        read_image(tmp_path / "x.png")


def test_a_compressed_member_is_bounded(tmp_path):
    from aimt.core.foreign import inflate

    with pytest.raises(ValueError, match="more than"):
        inflate(gzip.compress(bytes(1 << 26)), max_bytes=1 << 20)
    with pytest.raises(ValueError, match="cut off"):
        inflate(gzip.compress(b"some trees")[:-10], max_bytes=1 << 20)
    with pytest.raises(zlib.error):
        inflate(b"no gzip", max_bytes=1 << 20)


# -- tokenizers ------------------------------------------------------------------------------------------------------


def words(vocab: dict[str, int], **more) -> str:
    return json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}} | more)


SPLIT = {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": False}
EOT = {"<|endoftext|>": 0, "<unk>": 1, "a": 2}


@pytest.mark.parametrize(
    "text, settings",
    [
        (words({**EOT, "z": 2**32 - 1}), {}),
        (words({**EOT, "z": 10**7}), {}),
        (words({}), {}),
        (words({"a": "0"}), {}),
        (words(EOT, pre_tokenizer=SPLIT), {}),
        (words(EOT), {"aimt_format": "x"}),
        (words(EOT), {"aimt_kind": ["byte"]}),
        (words({"<unk>": 0}), {"eos_token": ["a"]}),
        (words({"<unk>": 0}), {"eos_token": {"content": {}}}),
        (words(EOT), {"aimt_kind": "byte"}),
        ("[" * 100_000, {}),
        ("{}", {}),
        ('{"model": ' + "9" * 5000 + "}", {}),
    ],
)
def test_a_strange_tokenizer_is_refused(tmp_path, text, settings):
    from aimt.data.text.tokenizer import Tokenizer

    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(AimtError):
        Tokenizer.load(tmp_path).encode("aab")


def test_a_panic_of_the_tokenizer_is_an_error_of_ours(monkeypatch):
    from aimt.data.text.tokenizer import train_tokenizer

    class PanicException(BaseException):
        pass

    class Engine:
        def encode_batch_fast(self, *a, **k):
            raise PanicException("called `Result::unwrap()` on an `Err` value")

    tokenizer = train_tokenizer("x", "byte")
    tokenizer.kind, tokenizer._engine = "hub", Engine()
    with pytest.raises(ModelFormatError, match="PanicException"):
        tokenizer.encode("a")


# -- models on the hub -----------------------------------------------------------------------------------------------

COMMITS = {"v1": "1" * 40, "v2": "2" * 40}


@pytest.fixture
def tiny_bert(tmp_path):
    """A folder of a tiny BERT, and a table that it can learn."""
    torch = pytest.importorskip("torch")
    import pandas as pd

    from aimt.data.text.tokenizer import train_wordpiece
    from aimt.models.text.bert import BERT, BERTConfig

    torch.manual_seed(0)
    table = pd.DataFrame(
        [(f"the {x} {y}", y) for x in ("parcel", "letter", "box", "lamp", "book", "crate") for y in ("late", "torn", "lost")] * 2,
        columns=["text", "label"],
    )
    table["text"] += [f" {i}" for i in range(len(table))]
    tokenizer = train_wordpiece(list(table["text"]), 120)
    BERT.from_config(BERTConfig(tokenizer.vocab_size, 1, 2, 16, context=16), tokenizer, pooler=True).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", table


@pytest.fixture
def hub(tmp_path, tiny_bert, monkeypatch):
    """A hub that has one model in two commits; what it was asked is kept."""
    package = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, *, revision=None, cache_dir=None, local_files_only=False, allow_patterns=None):
        asked.append({"name": name, "revision": revision, "local": local_files_only})
        commit = COMMITS.get(revision or "v2", revision)
        folder = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / commit
        if commit not in ("1" * 40, "2" * 40) or name != "owner/tiny":
            raise type("RevisionNotFoundError", (OSError,), {})(revision)
        if not folder.exists():
            shutil.copytree(tiny_bert[0], folder)
        return str(folder)

    monkeypatch.setattr(package, "snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("AIMT_OFFLINE", raising=False)
    return asked


@pytest.mark.parametrize("revision, commit", [(None, COMMITS["v2"]), ("v1", COMMITS["v1"]), (COMMITS["v1"], COMMITS["v1"])])
def test_a_run_records_the_commit_of_its_model(tmp_path, tiny_bert, hub, revision, commit):
    import aimt

    run = aimt.finetune("bert", tiny_bert[1], model="owner/tiny", revision=revision, steps=2, out=tmp_path / "run", quiet=True)
    settings = json.loads((run.path / "run.json").read_text())["settings"]
    assert settings["model"] == "owner/tiny" and settings["revision"] == revision and settings["commit"] == commit
    assert {a["revision"] for a in hub} == {revision} and not any(a["local"] for a in hub)


def test_the_command_takes_a_revision(tmp_path, tiny_bert, hub, aimt_here):
    tiny_bert[1].to_csv(tmp_path / "x.csv", index=False)
    done = aimt_here(
        "finetune",
        "bert",
        tmp_path / "x.csv",
        "--model",
        "owner/tiny",
        "--revision",
        "v1",
        "--steps",
        1,
        "--out",
        tmp_path / "run",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["commit"] == COMMITS["v1"]
    none = aimt_here(
        "finetune", "bert", tmp_path / "x.csv", "--model", "owner/tiny", "--revision", "v9", "--steps", 1, "--out", tmp_path / "no"
    )
    assert none.returncode == 1 and "no such revision" in none.stderr
    folder = aimt_here(
        "finetune", "bert", tmp_path / "x.csv", "--model", tiny_bert[0], "--revision", "v1", "--steps", 1, "--out", tmp_path / "no2"
    )
    assert folder.returncode == 2 and "--revision" in folder.stderr


def test_a_resumed_run_stays_with_its_commit(tmp_path, tiny_bert, hub, monkeypatch):
    import aimt

    def stop(work):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("aimt.jobs.steps.finetune.train_network", stop)
        with pytest.raises(KeyboardInterrupt):
            aimt.finetune("bert", tiny_bert[1], model="owner/tiny", steps=2, out=tmp_path / "run", quiet=True)
    monkeypatch.setitem(COMMITS, "v2", COMMITS["v1"])  # the branch moves on
    hub.clear()
    aimt.finetune("bert", tiny_bert[1], model="owner/tiny", steps=2, out=tmp_path / "run", quiet=True, resume=True)
    assert {a["revision"] for a in hub} == {"2" * 40}


@pytest.mark.parametrize("name", ["AIMT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_no_network_for_models(tmp_path, monkeypatch, name):
    pytest.importorskip("huggingface_hub")
    import socket

    from aimt.models.layers.hub import find_model

    monkeypatch.delenv("AIMT_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("the network was used"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("the network was used"))
    with pytest.raises(AimtError, match=f"Unset {name}"):
        find_model("owner/none", cache=tmp_path)
    with pytest.raises(AimtError, match=f"Unset {name}"):
        find_model("owner/none", revision="v1", cache=tmp_path)
    kept = tmp_path / "models--owner--tiny" / "snapshots" / COMMITS["v1"]
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    (kept / "model.safetensors").write_bytes(b"")
    assert find_model("owner/tiny", revision=COMMITS["v1"], cache=tmp_path) == kept


# -- settings of the five families -----------------------------------------------------------------------------------

FAMILIES = ("bert", "gpt", "gpt2", "t5", "clip", "deepspeech")
ABSURD = [None, True, -1, 0, 10**6, 10**9, 10**400, 1e300, float("nan"), "768", "\ud800", [], {}, [[1]]]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A folder of a tiny network of each family, and the function that reads it."""
    pytest.importorskip("torch")
    from aimt.models.text.bert import BERT, BERTConfig
    from aimt.models.image.clip import CLIP
    from aimt.models.image.clip_towers import CLIPConfig
    from aimt.models.audio.deepspeech import DeepSpeech
    from aimt.models.audio.speech_features import DeepSpeechConfig
    from aimt.models.text.gpt import GPT, GPTConfig
    from aimt.models.text.t5 import T5
    from aimt.models.text.t5_config import T5Config

    place = tmp_path_factory.mktemp("families")
    models = {
        "bert": BERT(BERTConfig(90, 1, 2, 16, context=16)),
        "gpt": GPT(GPTConfig(90, 1, 2, 16, 16)),
        "deepspeech": DeepSpeech(DeepSpeechConfig(n_hidden=8, n_context=1)),
        "gpt2": GPT(GPTConfig.preset("gpt2", vocab_size=90, n_layer=1, n_head=2, n_embd=16, context=16)),
        "t5": T5(T5Config(90, 1, n_head=2, d_model=16, d_kv=8, d_ff=32)),
        "clip": CLIP(CLIPConfig.preset("tiny")),
    }
    for name, model in models.items():
        model.save_pretrained(place / name)
    return place, {name: type(model).from_pretrained for name, model in models.items()}


def places(state: dict) -> list[tuple[str, ...]]:
    """All keys of nested settings."""
    return [(k, *more) for k, v in state.items() for more in ([()] if not isinstance(v, dict) else [(), *places(v)])]


def altered(folder: Path, keys: tuple[str, ...], value: object) -> Path:
    """The folder with one setting of its network changed."""
    state = json.loads((folder / "config.json").read_text())
    part = state
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    other = folder.parent / "altered"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder, other)
    (other / "config.json").write_text(json.dumps(state))
    return other


@pytest.mark.parametrize("name", FAMILIES)
def test_any_setting_may_be_absurd(families, name):
    """Each setting with some of the values; AIMT_SLOW=1: with all of them."""
    place, read = families
    chance, every = random.Random(int(os.environ.get("AIMT_FUZZ_SEED", 0))), bool(os.environ.get("AIMT_SLOW"))
    refused = 0
    for keys in places(json.loads((place / name / "config.json").read_text())):
        for value in ABSURD if every else chance.sample(ABSURD, 5):
            try:
                read[name](altered(place / name, keys, value))
            except AimtError:
                refused += 1
    assert refused > (100 if every else 100 * 5 / len(ABSURD))


@pytest.mark.parametrize(
    "name, keys",
    [
        ("bert", ["num_hidden_layers"]),
        ("gpt", ["n_layer"]),
        ("gpt2", ["n_layer"]),
        ("t5", ["num_layers"]),
        ("t5", ["num_decoder_layers"]),
        ("clip", ["text_config", "num_hidden_layers"]),
        ("clip", ["vision_config", "num_hidden_layers"]),
        ("bert", ["hidden_size"]),
        ("gpt", ["n_embd"]),
        ("t5", ["d_ff"]),
        ("deepspeech", ["n_hidden"]),
        ("gpt2", ["n_positions"]),
    ],
)
def test_a_million_layers_are_not_built(families, name, keys, monkeypatch):
    place, read = families
    for size in (10**6, 2**24):
        with pytest.raises(ModelFormatError, match="asks for|should be|misstates|tensors|weights of another"):
            read[name](altered(place / name, tuple(keys), size))
