"""Random faults for every verb of the command, in this process: it ends with a code that it knows, and never with a traceback.

``AIMT_FUZZ=5000`` runs so many rounds in place of a hundred, and ``AIMT_FUZZ_SEED=1`` draws other ones.
"""

import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import traceback
import wave
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import aimt
from aimt.cli.main import app
from aimt.core.errors import ProblemError

pytestmark = pytest.mark.usefixtures("no_drawing")

ROUNDS, SEED = int(os.environ.get("AIMT_FUZZ", 100)), int(os.environ.get("AIMT_FUZZ_SEED", 0))
SECONDS = 120  # Of a round, at most
NAMES = [
    "(base)",
    "forecast",
    "prediction",
    "probability",
    "decision",
    "row",
    "part",
    "actual",
    "split",
    "weight",
    "index",
    "level_0",
    "count",
    "mean",
    "target",
    "series",
    "time",
    "q5",
    "low",
    "high",
    "",
    " ",
    "0",
    "nan",
    "None",
    "a\x00b",
    "\ud800",
    "x" * 300,
    "ü" * 200,
    "../up",
    "a/b",
    "CON",
    "=1+1",
    "\x1b[31m",
    "__index_level_0__",
    "Unnamed: 0",
    "amount",
    "amount ",
    "AMOUNT",
]
CELLS = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e308",
    "9" * 5000,
    "-" + "9" * 30,
    "9223372036854775808",
    "1,5",
    "1.234,56",
    "1_000",
    "0x10",
    "true",
    "None",
    "NULL",
    "\x00",
    "\ud800",
    "\U0001f600",
    "a\nb",
    'say "no"',
    "9999-99-99",
    "0000-00-00",
    "2024-02-30",
    "1900-01-01",
    "12/13/14",
    "10000-01-01",
    "00:00",
    "1970-01-01T00:00:00+99:00",
    "[1, 2]",
    "{}",
    "x" * 70_000,
    "٣",
    "½",
    "１２",
    "-0",
    "+",
    "%",
    "5 %",
    "$ 3",
    "\ufeff",
    "\u202e",
    "=HYPERLINK(1)",
]


def table(n: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age, plan = rng.integers(18, 80, n), rng.choice(["free", "basic", "pro"], n)
    left = rng.random(n) < 1 / (1 + np.exp((age - 45) / 8 - (plan == "free")))
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D")
    return pd.DataFrame(
        {
            "age": age,
            "plan": plan,
            "amount": rng.gamma(2, 30, n).round(2),
            "when": when.strftime("%Y-%m-%d"),
            "note": rng.choice(["a b", "c", ""], n),
            "left": np.where(left, "yes", "no"),
        }
    )


def months() -> pd.DataFrame:
    times = pd.date_range("2019-01-01", periods=48, freq="MS").strftime("%Y-%m-%d")
    return pd.DataFrame({"month": times, "sales": (100 + 30 * np.sin(np.arange(48) * np.pi / 6) + np.arange(48)).round(1)})


# -- faults ----------------------------------------------------------------------------------------------------------


def same(cell: str, frame: pd.DataFrame) -> pd.Series:
    return pd.Series([cell] * len(frame), index=frame.index, dtype=object)


def broken_frame(frame: pd.DataFrame, chance: random.Random) -> pd.DataFrame:
    """A table with one to three faults."""
    frame = frame.head(chance.choice([0, 1, 2, 7, 40, len(frame)])).astype(object).copy()
    frame.columns = frame.columns.astype(object)
    for _ in range(chance.randint(1, 3)):
        if not frame.shape[1]:
            break
        kind, column = chance.randrange(8), chance.randrange(frame.shape[1])
        if kind == 0:
            frame.columns = pd.Index([chance.choice(NAMES) if j == column else c for j, c in enumerate(frame.columns)], dtype=object)
        elif kind == 1:
            frame.insert(chance.randint(0, frame.shape[1]), chance.choice(NAMES), same(chance.choice(CELLS), frame), allow_duplicates=True)
        elif kind == 2:
            frame = frame.drop(columns=frame.columns[column])
        elif kind == 3:
            frame.isetitem(column, same(chance.choice(CELLS), frame))
        elif kind in (4, 5) and len(frame):
            for _ in range(chance.randint(1, 5)):
                frame.iloc[chance.randrange(len(frame)), column] = chance.choice(CELLS)
        elif kind == 6:
            frame.insert(0, frame.columns[column], frame.iloc[:, column], allow_duplicates=True)
        else:
            frame = frame.sample(frac=1, random_state=0)
    return frame


def as_csv(frame: pd.DataFrame, chance: random.Random) -> bytes:
    text = frame.to_csv(index=False, sep=chance.choice([",", ",", ";", "\t", "|"]))
    raw = text.encode(chance.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"]), "surrogatepass")
    for _ in range(chance.choice([0, 0, 1, 3])):
        i = chance.randrange(len(raw) + 1)
        raw = chance.choice(
            [
                raw[:i] + bytes([chance.randrange(256)]) + raw[i + 1 :],
                raw[:i],
                raw[:i] + b'"' + raw[i:],
                raw[:i] + b"\r\n" + raw[i:],
                raw[i:],
                raw + raw,
            ]
        )
    return raw


ODD_JSON = [None, True, 3, 10**400, -1e308, "x", "\ud800", [1], {"a": 1}, [], {}, [[[]]], "9" * 5000]


def as_jsonl(frame: pd.DataFrame, chance: random.Random) -> bytes:
    lines = []
    for cells in frame.itertuples(index=False, name=None):
        row = dict(zip(frame.columns, cells, strict=True))
        if row and chance.random() < 0.1:
            row[chance.choice(list(row))] = chance.choice(ODD_JSON)
        lines.append(json.dumps(row, default=str))
    if chance.random() < 0.3:
        odd = [
            "",
            "null",
            "[1, 2]",
            "{",
            "[" * 20_000,
            '{"a": ' * 5000 + "1" + "}" * 5000,
            '{"a": ' + "9" * 5000 + "}",
            '{"a": 1, "a": 2}',
            "NaN",
            '"x"',
            "\ufeff{}",
        ]
        lines.insert(chance.randint(0, len(lines)), chance.choice(odd))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def as_parquet(frame: pd.DataFrame, chance: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = []
    for j in range(frame.shape[1]):
        values = [None if v is None else str(v).encode("utf-8", "replace").decode() for v in frame.iloc[:, j]]
        kinds = [
            pa.array([[v] for v in values]),
            pa.array([{"a": v} for v in values], pa.struct([("a", pa.string())])),
            pa.array([v and v.encode() for v in values], pa.binary()),
            pa.nulls(len(values)),
            pa.array(range(len(values)), pa.time32("s")),
            pa.array(range(len(values)), pa.duration("s")),
            pa.array(range(len(values)), pa.float16()) if False else pa.array(range(len(values)), pa.decimal128(30, 5)),
            pa.array(values).dictionary_encode(),
            pa.array(range(len(values)), pa.timestamp("ns", "UTC")),
        ]
        columns.append(chance.choice(kinds) if chance.random() < 0.3 else pa.array(values, pa.string()))
    names = [str(c).encode("utf-8", "replace").decode() for c in frame.columns]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=names), out)
    raw = bytearray(out.getvalue())
    for _ in range(chance.choice([0, 0, 2])):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(raw)


def write_table(frame: pd.DataFrame, folder: Path, chance: random.Random) -> Path:
    """A broken table in one of the kinds of files."""
    kind = chance.choice(["csv", "csv", "csv", "jsonl", "json", "parquet", "xlsx"])
    path = folder / f"x.{kind}"
    bad = broken_frame(frame, chance)
    if kind == "xlsx":
        try:
            bad.to_excel(path, index=False)
        except Exception:  # what Excel cannot hold
            path.write_bytes(b"PK\x03\x04 no workbook")
    elif kind == "json":
        rows = [list(map(str, cells)) for cells in bad.itertuples(index=False, name=None)]
        columns = {str(name): list(map(str, bad.iloc[:, j])) for j, name in enumerate(bad.columns)}
        path.write_text(chance.choice([json.dumps(columns), json.dumps(rows), "[" * 50_000, "9" * 6000, '{"a": [1, [2]]}']))
    else:
        path.write_bytes({"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}[kind](bad, chance))
    return path


def broken_bytes(raw: bytes, chance: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        if data:
            data[chance.randrange(min(len(data), 200))] = chance.randrange(256)
    return bytes(data[: chance.choice([0, 1, 20, len(data), len(data)])])


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setparams((1, 2, 16_000, 0, "NONE", ""))
        f.writeframes(struct.pack("<4000h", *(int(9000 * np.sin(i / 9)) for i in range(4000))))
    return out.getvalue()


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(out, kind)
    return out.getvalue()


def broken_json(
    folder: Path,
    chance: random.Random,
    inside: tuple[str, ...] = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.json", "forecaster.json"),
) -> None:
    """Change one value of one JSON file of a model."""
    found = [p for p in sorted(folder.rglob("*.json")) if p.name in inside]
    path = chance.choice(found)
    state = json.loads(path.read_text(encoding="utf-8"))
    place, keys = state, []
    while isinstance(place, (dict, list)) and place and (not keys or chance.random() < 0.8):
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        keys, parent, place = [*keys, key], place, place[key]
    parent[key] = chance.choice([None, -1, 0, 2**31, 10**12, 1e300, "x", "\ud800", [], {}, True, [[1]], "9" * 5000])
    path.write_text(chance.choice([json.dumps(state)] * 9 + ["[" * 50_000, "[]", ""]))


# -- what is fuzzed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of each kind, and what a fine-tuning begins with."""
    torch = pytest.importorskip("torch")
    from aimt.data.text.tokenizer import train_wordpiece
    from aimt.models.text.bert import BERT, BERTConfig

    place = tmp_path_factory.mktemp("made")
    table().to_csv(place / "table.csv", index=False)
    aimt.train(place / "table.csv", target="left", time_limit=1, out=place / "table", quiet=True)
    aimt.train(place / "table.csv", target="amount", time_limit=1, out=place / "numbers", quiet=True)
    months().to_csv(place / "months.csv", index=False)
    aimt.train(place / "months.csv", target="sales", time="month", horizon=3, out=place / "months", quiet=True)
    (place / "book.txt").write_text("the cat sat on the mat and the dog ran away. " * 300)
    aimt.train(place / "book.txt", size="nano", tokenizer="byte", steps=2, out=place / "book", quiet=True)
    torch.manual_seed(0)
    words = [f"the {a} is {b}" for a in ("cat", "dog", "bird", "cow") for b in ("fine", "lost", "here", "gone", "old")]
    pd.DataFrame({"text": words * 2, "label": ["good", "bad"] * 20}).to_csv(place / "texts.csv", index=False)
    tokenizer = train_wordpiece(words, 80)
    BERT.from_config(BERTConfig(tokenizer.vocab_size, 1, 2, 16, context=16), tokenizer, pooler=True).save_pretrained(place / "base")
    aimt.finetune("bert", place / "texts.csv", model=place / "base", steps=1, out=place / "texts", quiet=True)
    return place


Case = Callable[[Path, Path, random.Random], list[object]]


def on_rows(*words: str, run: str = "table", frame: Callable[[], pd.DataFrame] = table) -> Case:
    return lambda made, here, chance: [words[0], made / run, write_table(frame(), here, chance), *words[1:]]


def training(made: Path, here: Path, chance: random.Random) -> list[object]:
    options = chance.choice(
        [
            [],
            ["--target", "left"],
            ["--target", chance.choice(NAMES)],
            ["--target", "amount"],
            ["--target", "left", "--time", "when"],
            ["--target", "left", "--entity", "note"],
            ["--target", "left", "--sensitive-features", "plan,age"],
            ["--target", "left", "--keep", chance.choice(NAMES)],
        ]
    )
    return ["train", write_table(table(), here, chance), *options, "--time-limit", "1", "--quiet", "--out", here / "run"]


def forecasting(made: Path, here: Path, chance: random.Random) -> list[object]:
    return [
        "train",
        write_table(months(), here, chance),
        "--target",
        "sales",
        "--time",
        "month",
        "--horizon",
        chance.choice(["1", "3", "1000"]),
        "--quiet",
        "--out",
        here / "run",
    ]


def writing(made: Path, here: Path, chance: random.Random) -> list[object]:
    texts = [
        b"",
        b"a",
        b"\xff\xfe\x00\xd8" * 50,
        b"\x00" * 500,
        "\ud800 x".encode("utf-8", "surrogatepass") * 90,
        bytes(chance.randrange(256) for _ in range(3000)),
        b"ab c " * 200,
    ]
    (here / "x.txt").write_bytes(chance.choice(texts))
    return [
        "train",
        here / "x.txt",
        "--size",
        "nano",
        "--tokenizer",
        chance.choice(["byte", "char", "bpe"]),
        "--steps",
        "1",
        "--quiet",
        "--out",
        here / "run",
    ]


def damaged_run(made: Path, here: Path, chance: random.Random) -> list[object]:
    kind, verb = chance.choice(
        [
            ("table", "predict"),
            ("table", "explain"),
            ("months", "predict"),
            ("book", "generate"),
            ("texts", "predict"),
            ("texts", "evaluate"),
        ]
    )
    shutil.copytree(made / kind, here / "run")
    broken_json(here / "run" / "model", chance)
    source = {"table": made / "table.csv", "months": made / "months.csv", "texts": made / "texts.csv"}.get(kind)
    if verb == "generate":
        return ["generate", here / "run", "--prompt", "the", "--max-new-tokens", "2"]
    return [verb, here / "run", source, *(["--out", here / "out.csv"] if verb == "predict" else [])]


def tuning(made: Path, here: Path, chance: random.Random) -> list[object]:
    shutil.copytree(made / "base", here / "base")
    frame = pd.read_csv(made / "texts.csv")
    if chance.random() < 0.5:
        broken_json(here / "base", chance)
        source = made / "texts.csv"
    else:
        source = write_table(frame, here, chance)
    return ["finetune", "bert", source, "--model", here / "base", "--steps", "1", "--quiet", "--out", here / "run"]


def asking(made: Path, here: Path, chance: random.Random) -> list[object]:
    """Options with values that mean nothing."""
    odd = chance.choice(
        [*NAMES, *CELLS[:40], "-1", "1e9", "a,b", ",", "a=b", "fn=1", "fn=x,fp=1", "0,1,99999999999999999999", "NaN"]
    ).replace("\x00", "")
    words = chance.choice(
        [
            ["predict", made / "table", made / "table.csv", "--out", here / (odd.replace("/", "_") or "x")],
            ["predict", made / "table", made / "table.csv", "--out", here / f"{'n' * 300}.csv"],
            ["predict", made / "table", made / "table.csv", "--out", here / "o.csv", "--coverage", odd],
            ["predict", made / "table", made / "table.csv", "--out", here / "o.csv", "--thresholds", odd],
            ["explain", made / "table", made / "table.csv", "--rows", odd],
            ["explain", made / "table", made / "table.csv", "--columns", odd],
            ["explain", made / "table", made / "table.csv", "--change", "--desired", odd],
            ["explain", made / "table", made / "table.csv", "--change", "--immutable", odd],
            ["explain", made / "numbers", made / "table.csv", "--change", "--desired", odd],
            ["evaluate", made / "table", made / "table.csv", "--coverage", odd],
            ["evaluate", made / "table", made / "table.csv", "--population", odd],
            ["compare", made / "table", made / "table", "--metric", odd],
            ["compare", made / "table", made / "numbers"],
            ["compare", made / "table", here / odd.replace("\ud800", "")],
            ["audit", made / "table.csv", "--target", odd],
            ["audit", made / "table.csv", "--sensitive-features", odd],
            ["audit", made / "table.csv", "--population", odd],
            ["audit", odd],
            ["audit", odd, "--sql", f"sqlite:///{here / 'none.db'}"],
            ["audit", made / "table.csv", "--sql", odd],
            ["train", made / "table.csv", "--target", odd, "--out", here / "r", "--time-limit", "1"],
            ["train", made / "table.csv", "--target", "left", "--cost", odd, "--out", here / "r"],
            ["train", made / "table.csv", "--target", "left", "--metric", odd, "--out", here / "r"],
            ["train", made / "table.csv", "--positive-label", odd, "--out", here / "r"],
            ["train", made / "table.csv", "--task", odd, "--out", here / "r"],
            ["train", made / "months.csv", "--time", "month", "--target", "sales", "--known-covariates", odd, "--out", here / "r"],
            ["generate", made / "book", "--prompt", odd, "--max-new-tokens", "2"],
            ["generate", made / "book", "--prompt", "a", "--stop", odd, "--max-new-tokens", "2"],
            ["generate", made / "table"],
            ["generate", made / "book", "--precision", odd],
            ["plan", "--size", odd],
            ["plan", odd],
            ["plan", made / "table.csv"],
            ["datasets", odd],
            ["datasets", "--task", odd],
            ["doctor", made / chance.choice(["table", "months", "book", "texts", "base"])],
            ["doctor", odd],
            ["report", made / chance.choice(["months", "book", "base", "table.csv"])],
            ["compact", made / chance.choice(["months", "book", "texts"])],
            ["compact", odd],
            ["env", odd],
            ["finetune", odd, made / "texts.csv", "--model", made / "base"],
            ["finetune", "bert", odd, "--model", made / "base", "--out", here / "r"],
            ["finetune", "bert", made / "texts.csv", "--model", odd, "--out", here / "r"],
            ["finetune", "bert", made / "texts.csv", "--model", made / "base", "--text", odd, "--out", here / "r"],
        ]
    )
    return words


def hearing(made: Path, here: Path, chance: random.Random) -> list[object]:
    """Sounds and pictures that are none, for families that read them."""
    kind = chance.choice(["clip", "deepspeech"])
    for i in range(12):
        raw = sound() if kind == "deepspeech" else picture(chance.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF"]))
        (here / f"{i}.x").write_bytes(broken_bytes(raw, chance))
    column = {"clip": ("image", "caption"), "deepspeech": ("wav", "transcript")}[kind]
    pd.DataFrame({column[0]: [str(here / f"{i}.x") for i in range(12)], column[1]: ["a", "b"] * 6}).to_csv(here / "x.csv", index=False)
    model = here / "model"
    shutil.copytree(network(made, kind), model)
    return ["finetune", kind, here / "x.csv", "--model", model, "--steps", "1", "--quiet", "--out", here / "run"]


def network(made: Path, kind: str) -> Path:
    """The folder of a tiny network, made once."""
    folder = made / kind
    if folder.exists():
        return folder
    if kind == "deepspeech":
        from aimt.models.audio.deepspeech import DeepSpeech
        from aimt.models.audio.speech_features import DeepSpeechConfig

        DeepSpeech(DeepSpeechConfig(n_hidden=8, n_context=1)).save_pretrained(folder)
        return folder
    from aimt.data.image.read import CLIPImages
    from aimt.models.image.clip import CLIP
    from aimt.models.image.clip_towers import CLIPConfig
    from aimt.models.image.clip_tokenizer import CLIPTokenizer

    tokenizer = CLIPTokenizer.train(["a cat", "a dog"], vocab_size=520, context=16)
    CLIP(CLIPConfig.preset("tiny", vocab_size=tokenizer.vocab_size)).save_pretrained(folder)
    tokenizer.save(folder)
    CLIPImages(size=32, crop=32).save(folder)
    return folder


CASES: dict[str, tuple[Case, int]] = {  # and its share of the rounds: how many in 230
    "audit": (
        lambda made, here, chance: ["audit", write_table(table(), here, chance), "--target", chance.choice(["left", "amount", "when"])],
        25,
    ),
    "predict": (
        lambda made, here, chance: [
            "predict",
            made / chance.choice(["table", "numbers"]),
            write_table(table(), here, chance),
            "--out",
            here / chance.choice(["o.csv", "o.parquet"]),
        ],
        35,
    ),
    "predict months": (
        lambda made, here, chance: ["predict", made / "months", write_table(months(), here, chance), "--out", here / "o.csv"],
        10,
    ),
    "predict texts": (
        lambda made, here, chance: [
            "predict",
            made / "texts",
            write_table(pd.read_csv(made / "texts.csv"), here, chance),
            "--out",
            here / "o.csv",
        ],
        10,
    ),
    "evaluate": (on_rows("evaluate"), 20),
    "evaluate numbers": (on_rows("evaluate", run="numbers"), 10),
    "evaluate months": (on_rows("evaluate", run="months", frame=months), 5),
    "evaluate texts": (
        lambda made, here, chance: ["evaluate", made / "texts", write_table(pd.read_csv(made / "texts.csv"), here, chance)],
        5,
    ),
    "explain": (on_rows("explain"), 15),
    "monitor": (on_rows("monitor"), 10),
    "monitor numbers": (on_rows("monitor", run="numbers"), 5),
    "explain change": (on_rows("explain", "--change"), 4),
    "options": (asking, 45),
    "damaged run": (damaged_run, 30),
    "finetune": (tuning, 5),
    "pictures and sounds": (hearing, 2),
    "train": (training, 3),
    "train months": (forecasting, 3),
    "train text": (writing, 1),
}


class Hung(BaseException):
    """A round took too long."""


def fault(words: list[object], here: Path) -> str:
    """What is wrong with how the command ended; nothing, when it is as it should be."""

    def late(*_: object) -> None:
        raise Hung

    text = [str(w) for w in words]
    before = signal.signal(signal.SIGALRM, late) if hasattr(signal, "SIGALRM") else None
    if before is not None:
        signal.alarm(SECONDS)
    try:
        done = CliRunner().invoke(app, text)
    except Hung:
        return f"took more than {SECONDS} seconds"
    finally:
        if before is not None:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        frames = [f for f in traceback.extract_tb(done.exception.__traceback__) if "aimt" in f.filename]
        return f"{type(done.exception).__name__}: {str(done.exception)[:150]!r} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
    if done.exit_code not in (0, 1, 2, 3) or "Traceback" in done.output:
        return f"exit code {done.exit_code}: {done.output[-300:]}"
    return ""


@pytest.mark.parametrize("kind", CASES)
def test_the_command_never_ends_with_a_traceback(kind, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIMT_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["aimt"])
    make, share = CASES[kind]
    faults: Counter[str] = Counter()
    for i in range(max(1, ROUNDS * share // 230)):
        here = tmp_path / "here"
        here.mkdir()
        words = make(made, here, random.Random(f"{SEED} {kind} {i}"))
        if wrong := fault(words, here):
            faults[
                (
                    f"{wrong}  <- round {i}: {' '.join(map(repr, words))[:300]}"
                    if not any(f.startswith(wrong) for f in faults)
                    else f"{wrong} (again)"
                )
            ] += 1
        shutil.rmtree(here)
    assert not faults, "\n".join(f"{n} x {f}" for f, n in faults.items())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "gb18030", "shift_jis"])
def test_a_text_that_is_longer_in_utf8_stays_in_its_buffer(tmp_path, encoding):
    """Arrow copies what a Python file gives into a buffer of the size it asked for, without a look at its length."""
    from aimt.data.io.text_format import _Cleaned

    letter = {"cp1252": "€"}.get(encoding, "漢")
    raw = (letter * 5000).encode(encoding)
    stream = _Cleaned(io.BytesIO(raw), encoding)
    pieces = list(iter(lambda: stream.read(100), b""))
    assert max(map(len, pieces)) <= 100 and b"".join(pieces).decode().lstrip("\ufeff") == letter * 5000
    assert _Cleaned(io.BytesIO(raw), encoding).read().decode().lstrip("\ufeff") == letter * 5000


def test_columns_may_be_called_as_ours(tmp_path, monkeypatch):
    """Names that files, reports and reasons use themselves, and one of 300 letters."""
    monkeypatch.chdir(tmp_path)
    frame = table(200)
    frame.columns = ["(base)", "prediction", "probability", "row", "part", "left"]
    frame["x" * 300] = frame["(base)"] % 7
    frame.to_csv("table.csv", index=False)
    frame.head(1).to_csv("one.csv", index=False)
    series = months().set_axis(["month", "q5"], axis=1)
    series.to_csv("series.csv", index=False)
    for words in (
        ["train", "table.csv", "--target", "left", "--time-limit", "1", "--quiet", "--out", "run"],
        ["predict", "run", "table.csv", "--out", "o.csv"],
        ["explain", "run", "table.csv"],
        ["explain", "run", "table.csv", "--columns", "(base)"],
        ["evaluate", "run", "one.csv"],
        ["explain", "run", "one.csv"],
        ["train", "series.csv", "--target", "q5", "--time", "month", "--horizon", "3", "--quiet", "--out", "ahead"],
        ["predict", "ahead", "--out", "ahead.csv"],
    ):
        assert not fault(words, tmp_path) and CliRunner().invoke(app, ["doctor", "run"]).exit_code == 0, words
    series.rename(columns={"month": "forecast"}).to_csv("series.csv", index=False)
    with pytest.raises(ProblemError, match="called as a column of the forecasts"):
        aimt.train("series.csv", target="q5", time="forecast", horizon=3, quiet=True, out=tmp_path / "no")
    reasons = aimt.explain("run", "table.csv", rows=[0])
    listed = reasons["rows"][0]["contributions"] if isinstance(reasons, dict) else reasons[0]["contributions"]
    assert "(base)" in {c["column"] for c in listed} or len(listed) >= 5
