"""The fault matrix: one case for each kind of bad input, and what the library must do with it.

A case is either *refused*, with a subclass of `AimtError` that says in one line what is wrong, where, and what to do; or
*recovered*, with the result that the documentation promises, and a warning or a count where something was changed. The page
"Fault matrix" of the documentation shows the list below.

    pytest tests/test_fault_matrix.py -k files      the cases of one group
    AIMT_SLOW=1 pytest tests/test_fault_matrix.py   also those that take minutes
"""

import codecs
import contextlib
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import aimt
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.io.chunks import read_chunks
from aimt.data.io.load import load_table

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fault_inputs as bad  # noqa: E402

# -- what a case is --------------------------------------------------------------------------------------------------


class Shared:
    """What the cases start from, made once: a run on a table, small networks."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def run(self) -> Run:
        """A run on the table of customers."""
        return aimt.train(bad.customers(), target="left", groups="none", time_limit=1, out=self.folder / "run", quiet=True)

    @cached_property
    def expected(self) -> pd.DataFrame:
        """What this run predicts for the table as it was."""
        return self.run.predict(bad.customers(), quiet=True)

    @cached_property
    def writer(self) -> tuple[Any, Any]:
        """A language model of random weights, and its tokenizer."""
        import torch

        from aimt.data.text.tokenizer import train_tokenizer
        from aimt.models.text.gpt import GPT, GPTConfig

        torch.manual_seed(0)
        tokenizer = train_tokenizer("", "byte")
        return GPT(GPTConfig(tokenizer.vocab_size, 1, 2, 16, 32)).eval(), tokenizer

    @cached_property
    def bert(self) -> Path:
        """The folder of a small classifier of texts."""
        import torch

        from aimt.data.text.tokenizer import train_wordpiece
        from aimt.models.text.bert import BERTConfig, BERTForClassification

        torch.manual_seed(0)
        tokenizer = train_wordpiece(["a cat sat", "a dog ran"], 60)
        config = BERTConfig(tokenizer.vocab_size, 1, 2, 16, context=16, labels=("cat", "dog"))
        BERTForClassification.from_config(config, tokenizer).save_pretrained(self.folder / "bert")
        return self.folder / "bert"


@dataclass
class Place:
    """Where a case makes its input."""

    path: Path  # An empty folder
    shared: Shared
    patch: pytest.MonkeyPatch  # Undone when the case is over
    notes: dict[str, Any] = field(default_factory=dict)  # From the maker of the input to the check of the result


@dataclass(frozen=True)
class Outcome:
    """What came out where nothing was raised."""

    value: Any
    said: list[str]  # Warnings and notes


@dataclass(frozen=True)
class Fault:
    """One cell of the matrix."""

    group: str  # files, values, columns, ...
    fault: str  # What is wrong with the input
    verb: str  # What is done with it: a key of `VERBS`
    required: str  # What must happen, in plain words
    make: Callable[[Place], Any]  # Makes the input; a list holds several that must all end alike
    error: type[AimtError] | None = None  # Class of the error; None where the input is recovered
    says: tuple[str, ...] = ()  # What the error, or else the warnings, must say
    holds: Callable[[Any, Place], Any] | None = None  # Whether the result is the promised one
    limited: bool = False  # Runs in a process that may take no more than `LIMIT_MB` of memory
    slow: bool = False  # Takes minutes

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "-", f"{self.group} {self.fault}".lower()).strip("-")


LIMIT_MB = 1500  # Address space beyond what the imports take
CASES: list[Fault] = []


def refused(group: str, fault: str, verb: str, required: str, make: Callable[[Place], Any], error: type[AimtError], *says: str, **more: Any) -> None:
    CASES.append(Fault(group, fault, verb, required, make, error, says, **more))


def recovered(group: str, fault: str, verb: str, required: str, make: Callable[[Place], Any], holds: Callable[[Any, Place], Any], *says: str, **more: Any) -> None:
    CASES.append(Fault(group, fault, verb, required, make, None, says, holds, **more))


def put(content: str | bytes | list[bytes], name: str = "shop.csv") -> Callable[[Place], Any]:
    """Makes a file, or several numbered ones of the same kind."""

    def make(place: Place) -> Any:
        several = content if isinstance(content, list) else [content]
        paths = [place.path / (name if len(several) == 1 else f"{i}-{name}") for i in range(len(several))]
        for path, part in zip(paths, several, strict=True):
            path.write_bytes(part if isinstance(part, bytes) else part.encode())
        return paths if isinstance(content, list) else paths[0]

    return make


# -- what is done with the input -------------------------------------------------------------------------------------


def read_whole(place: Place, source: Any) -> Outcome:
    table = load_table(source)
    return Outcome(table.frame, table.warnings)


def read_pieces(place: Place, source: Any) -> Outcome:
    """In pieces of 7 rows, with the same values as the whole."""
    pieces = pd.concat([piece.astype(object) for piece in read_chunks(source, rows=7)], ignore_index=True)
    table = load_table(source)
    assert len(pieces) == table.rows
    for name in table.frame:
        for a, b in zip(table.frame[name], pieces[name], strict=True):
            assert (pd.isna(a) and pd.isna(b)) or a == b or str(a) == str(b), (name, a, b)
    return Outcome(table.frame, table.warnings)


def train(place: Place, source: Any) -> Outcome:
    """Train for a second; options travel beside the table."""
    source, options = source if isinstance(source, tuple) else (source, {})
    options = {"target": "left", "groups": "none", "time_limit": 1, "out": place.path / "trained", "quiet": True} | options
    run = aimt.train(source, **options)
    return Outcome(run, run.info["notes"])


def score(place: Place, source: Any) -> Outcome:
    """Predict with the run on customers."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        found = place.shared.run.predict(source)
    return Outcome(found, text.getvalue().splitlines())


def audit(place: Place, source: Any) -> Outcome:
    source, options = source if isinstance(source, tuple) else (source, {})
    found = aimt.audit(source, quiet=True, **{"target": "left"} | options)
    return Outcome(found, [f"{f['check']}: {', '.join(f['columns'])}: {f['evidence']}. {f['advice']}" for f in found["findings"]])


def evaluate(place: Place, source: Any) -> Outcome:
    found = place.shared.run.evaluate(source)
    return Outcome(found, found.get("warnings", []))


def call(place: Place, source: Callable[[], Any]) -> Outcome:
    """What the maker prepared is done, and its warnings are kept."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        value = source()
    return Outcome(value, [str(w.message) for w in told])


def open_run(place: Place, run: Path) -> Outcome:
    """Predict with a damaged copy of the run on customers."""
    return Outcome(aimt.predict(run, bad.customers(), quiet=True), [])


def open_network(place: Place, folder: Path) -> Outcome:
    from aimt.models.text.bert import BERTForClassification

    return Outcome(BERTForClassification.from_pretrained(folder), [])


def look(place: Place, source: Any) -> Outcome:
    from aimt.data.image.read import read_image

    return Outcome(read_image(source), [])


def hear(place: Place, source: Any) -> Outcome:
    from aimt.data.audio.read import check_audio, read_audio

    samples = read_audio(source)
    check_audio(samples, where=str(source))
    return Outcome(samples, [])


def read_text(place: Place, source: Any) -> Outcome:
    from aimt.data.text.corpus import describe_texts

    found = describe_texts(source)
    return Outcome(found, found.warnings)


def write(place: Place, prompt: Any) -> Outcome:
    from aimt.generate.text.sampling import generate

    model, tokenizer = place.shared.writer
    return call(place, lambda: generate(model, tokenizer, prompt, max_new_tokens=5, temperature=0))


VERBS: dict[str, tuple[Callable[[Place, Any], Outcome], ...]] = {
    "read a table": (read_whole, read_pieces),
    "train": (train,),
    "predict": (score,),
    "audit": (audit,),
    "evaluate": (evaluate,),
    "run": (call,),
    "open a run": (open_run,),
    "open a network": (open_network,),
    "read an image": (look,),
    "read a recording": (hear,),
    "read a text": (read_text,),
    "generate": (write,),
}


# -- files -----------------------------------------------------------------------------------------------------------

TABLE = b"a,b\n1,x\n2,y\n"
PEOPLE = "name,city,sum\n" + "".join(f"Zoë {i},Köln,{i}\n" for i in range(20))
READ, AGAIN = "read a table", "The error says to copy, download or export it again."


def people(table: pd.DataFrame, place: Place) -> bool:
    return list(table) == ["name", "city", "sum"] and table["city"].eq("Köln").all() and table["sum"].tolist() == list(range(20))


for name, verb in {"csv": READ, "parquet": READ, "jsonl": READ, "json": READ, "xlsx": READ, "png": "read an image", "wav": "read a recording", "txt": "read a text"}.items():
    refused("files", f"0 bytes ({name})", verb, "An error says that the file is empty.", put(b"", f"x.{name}"), DataError, f"x.{name}", "empty")
refused("files", "blank lines only", READ, "An error says that there is no table.", put("\n\n   \n"), DataError, "no table")
refused("files", "a header without rows", READ, "An error says that there are no rows.", put("a,b,c\n"), DataError, "header but no rows")
refused("files", "gzip cut off", READ, AGAIN, put(bad.cut(gzip.compress(bad.customers().to_csv().encode()), 0.2, 0.5, 0.9, 0.999), "x.csv.gz"), DataError, "cut off", "again")
refused("files", "gzip with a damaged byte", READ, AGAIN, put(bad.flipped(gzip.compress(bad.customers().to_csv().encode())), "x.csv.gz"), DataError, "x.csv.gz", "again")
refused("files", "Parquet cut off", READ, AGAIN, put(bad.cut(bad.parquet(), 0.01, 0.1, 0.5, 0.9, 0.999), "x.parquet"), DataError, "damaged", "again")
refused("files", "Excel workbook cut off", READ, AGAIN, put(bad.cut(bad.workbook(bad.column_of_cells(50))), "x.xlsx"), DataError, "damaged or cut off", "again")
refused("files", "JSON Lines cut off", READ, "The line is named.", put(bad.lines()[:-20], "x.jsonl"), DataError, f"line {bad.N}", "again")
refused("files", "JSON cut off", READ, AGAIN, put("[{\"a\": 1}, {\"a\"", "x.json"), DataError, "not valid JSON", "again")
refused("files", "CSV cut off within a row", READ, "The line is named, with the number of its fields.", put(TABLE + b"3"), DataError, "line 4 has 1 field, the header has 2")
refused("files", "image cut off (PNG, JPEG, GIF, TIFF, WebP)", "read an image", "The file is named.", put([part for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP") for part in bad.cut(bad.picture(kind), 0.05, 0.4)], "x"), DataError, "-x")
refused("files", "recording cut off in its header", "read a recording", AGAIN, put(bad.recording()[:20], "x.wav"), DataError, "x.wav", "ends before its sound")
recovered("files", "recording cut off in its samples", "read a recording", "What is there is read.", put(bad.recording()[:16_044], "x.wav"), lambda x, _: len(x) == 8000)
refused("files", "npz and zip archives, also cut off", READ, "The error says that it is an archive.", put([bad.npz(), bad.archive(x=TABLE), *bad.cut(bad.npz())], "x.csv"), DataError, "x.csv")
recovered("files", "a byte order mark", READ, "It is not part of the first name.", put(codecs.BOM_UTF8 + PEOPLE.encode()), people)
for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"):
    told = () if encoding in ("utf-16", "utf-32") else ("UTF-",)
    recovered("files", f"encoding {encoding}", READ, "Found out; a guess is reported.", put(PEOPLE.encode(encoding)), people, *told)
recovered("files", "mixed encodings", READ, "Read as UTF-8; the first line with other bytes is named.", put(PEOPLE.encode() + b"Anna,K\xfcln,1\n"), lambda t, _: t["city"].iloc[-1] == "Küln" and t["city"].iloc[0] == "Köln", "not in UTF-8", "line 22")
recovered("files", "NUL bytes", READ, "Removed and counted.", put(b"a,b\n" + b"1,x\n" * 300 + b"2\0,y\0\n"), lambda t, _: t["a"].iloc[-1] == 2 and t["b"].iloc[-1] == "y", "2 NUL bytes")
refused("files", "NUL bytes only", READ, "An error says so.", put(bytes(5000)), DataError, "NUL")
for delimiter in (";", "\t", "|"):
    recovered("files", f"delimiter {delimiter!r} in a .csv", READ, "Found out.", put(PEOPLE.replace(",", delimiter)), people)
recovered("files", "spaces as delimiter", READ, "One column, and a warning that names the option.", put("a b c\n1 2 3\n4 5 6\n"), lambda t, _: t.shape == (2, 1), "space")
recovered("files", "Parquet called .csv", READ, "Read by its content, with a warning.", put(bad.parquet(), "x.csv"), lambda t, _: t.shape == bad.customers().shape, "parquet by its content")
recovered("files", "CSV called .parquet", READ, "Read by its content, with a warning.", put(TABLE, "x.parquet"), lambda t, _: t.shape == (2, 2), "this is text")
for start, told in {b"%PDF-1.7": "PDF", b"\xd0\xcf\x11\xe0": ".xlsx", b"\x80\x04\x95": "run code", b"\x89PNG": "picture", b"ARROW1": "Parquet", b"SQLite format 3\0": "--sql"}.items():
    refused("files", f"{told.strip('-.')} content in a .csv" if told != "run code" else "pickle called .csv", READ, "The type is named, and what to do.", put(start + bytes(200), "x.csv"), DataError, told)
refused("files", "a quote that is never closed", READ, "The line is named.", put(b"a,b\n" + b"1,x\n" * 5000 + b'2,"y\n' + b"3,z\n" * 5000), DataError, "line 5002", "never closed")
refused("files", "rows with too few or too many fields", READ, "The first line is named, with its fields.", put([b"a,b\n" + b"1,2\n" * 4 + row + b"3,4\n" for row in (b"9\n", b"9,9,9\n")]), DataError, "line 6 has", "the header has 2")
recovered("files", "one line of 9 MB", READ, "Read whole.", put(b"a,b\n1," + b"x" * 9_000_000 + b"\n2,y\n"), lambda t, _: t["b"].str.len().tolist() == [9_000_000, 1])
refused("files", "one line of 1 GB", READ, "Refused within bounded memory.", lambda p: _one_line(p, 1 << 30), DataError, "x.csv", limited=True)
refused("files", "gzip of 3 GB in one line", READ, "Refused within bounded memory.", lambda p: _bomb(p, 3 << 30), DataError, "x.csv.gz", limited=True)
refused("files", "1 GB of zeros", READ, "Refused within bounded memory.", lambda p: _sparse(p, "x.csv", 1 << 30), DataError, "NUL", limited=True)


def _one_line(place: Place, size: int) -> Path:
    with open(place.path / "x.csv", "wb") as f:
        f.write(b"a,b\n1,")
        for _ in range(size >> 24):
            f.write(b"x" * (1 << 24))
    return place.path / "x.csv"


def _bomb(place: Place, size: int) -> Path:
    bad.gzip_bomb(place.path / "x.csv.gz", size)
    return place.path / "x.csv.gz"


def _sparse(place: Place, name: str, size: int, start: bytes = b"") -> Path:
    bad.sparse(place.path / name, size, start)
    return place.path / name


def _loop(place: Place) -> Path:
    (place.path / "loop.csv").symlink_to(place.path / "loop.csv")
    return place.path / "loop.csv"


def _forbidden(place: Place) -> Path:
    path = put(TABLE)(place)
    path.chmod(0)
    real = open

    def guarded(file: Any, *rest: Any, **options: Any) -> Any:
        if str(file) == str(path):  # nothing is forbidden to root
            raise PermissionError(13, "Permission denied")
        return real(file, *rest, **options)

    place.patch.setattr("builtins.open", guarded)
    return path


def _pipe(place: Place) -> Path:
    os.mkfifo(place.path / "pipe.csv")
    return place.path / "pipe.csv"


def _misspelt(place: Place) -> Path:
    put(TABLE, "customers.csv")(place)
    return place.path / "costumers.csv"


refused("files", "no such file", READ, "The file with the closest name is named.", _misspelt, DataError, "no such file", "Did you mean 'customers.csv'?")
refused("files", "a directory", READ, "The tables in it are named.", lambda p: put(TABLE)(p).parent, DataError, "directory", "shop.csv")
refused("files", "a link to itself", READ, "The link is named.", _loop, DataError, "loop.csv")
refused("files", "a named pipe", READ, "Refused; reading does not hang.", _pipe, DataError, "not a regular file")
refused("files", "no permission", READ, "The file is named.", _forbidden, DataError, "Permission denied", "Check its permissions")
refused("files", "cut off while it is read", "run", "The error says so; no rows are lost silently.", lambda p: _changing(p, lambda f: f.truncate(3_000_000)), DataError, "shop.csv", "changed")
refused("files", "replaced while it is read", "run", "The error says so; rows of two files are never mixed.", lambda p: _changing(p, lambda f: (f.seek(0), f.write(b"9" * 4_000_000))), DataError, "shop.csv", "changed")


def _changing(place: Place, change: Callable[[Any], Any]) -> Callable[[], int]:
    """Reading in pieces, during which another program writes into the file."""
    path = put("a,b\n" + "".join(f"{i},word\n" for i in range(600_000)))(place)

    def read() -> int:
        rows = 0
        for piece in read_chunks(path, rows=50_000):
            rows += len(piece)
            if rows == 50_000:
                with open(path, "r+b") as f:
                    change(f)
        return rows

    return read


LARGE = "Refused before the room is taken."
refused("files", "Excel: one cell far away", READ, LARGE, put(bad.workbook(bad.column_of_cells(3000) | {"XFD1048576": 7}), "x.xlsx"), DataError, "too far apart", "stray cell", limited=True)
refused("files", "Excel: unpacks to 500 MB", READ, LARGE, lambda p: put(bad.workbook({"A1": 1, "A2": 2}, padding_mb=500), "x.xlsx")(p), DataError, "unpacks to", limited=True)
recovered("files", "Excel: states a size of 17 billion cells", READ, "The stated size is ignored.", put(bad.workbook(bad.column_of_cells(30), dimension="A1:XFD1048576"), "x.xlsx"), lambda t, _: t.shape == (28, 1), limited=True)
refused("files", "PNG: states 30,000 x 30,000 pixels", "read an image", LARGE, put([bad.png_header(30_000, 30_000), bad.png_header(2**31 - 1, 2**31 - 1)], "x.png"), DataError, "x.png", limited=True)
refused("files", "WAV: states an absurd rate or number of channels", "read a recording", LARGE, put([bad.wav_header(2**32 - 1), bad.wav_header(0), bad.wav_header(50_000_017), bad.wav_header(16_000, 65_535)], "x.wav"), DataError, "x.wav", limited=True)
recovered("files", "WAV: states 4 GB of sound", "read a recording", "What is there is read.", put(bad.wav_header(16_000, stated=2**32 - 1), "x.wav"), lambda x, _: len(x) == 200, limited=True)


# -- values: the table at prediction holds the same customers, stored in another way ------------------------------------


def same(found: pd.DataFrame, place: Place, rows: slice = slice(None)) -> bool:
    """Whether the predictions are those for the table as it was."""
    return bool(np.allclose(found["probability"][rows], place.shared.expected["probability"][rows], rtol=0, atol=1e-12))


def stored(column: str, how: Callable[[pd.Series], Any]) -> Callable[[Place], pd.DataFrame]:
    return lambda place: bad.customers().assign(**{column: how(bad.customers()[column])})


def changed(column: str, rows: slice, value: Any) -> Callable[[Place], pd.DataFrame]:
    """The table with other values in some rows of a column."""

    def make(place: Place) -> pd.DataFrame:
        frame = bad.customers()
        values = frame[column].astype(object).to_numpy(copy=True)
        values[rows] = value
        return frame.assign(**{column: pd.Series(values, dtype=object)})

    return make


def as_file(name: str, **options: Any) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        frame, path = bad.customers(), place.path / name
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False, **options)
        return path

    return make


ALIKE = "The same predictions as before."
for kind, column, how in (
    ("nullable Int64", "age", lambda s: s.astype("Int64")), ("float32", "age", lambda s: s.astype("float32")), ("int8", "age", lambda s: s.astype("int8")),
    ("Arrow", "charges", lambda s: s.astype("double[pyarrow]")), ("Decimal", "charges", lambda s: [Decimal(str(v)) for v in s]),
    ("text", "charges", lambda s: s.astype(str)), ("text with spaces", "charges", lambda s: " " + s.astype(str) + " "),
    ("bool objects", "paperless", lambda s: s.astype(bool).astype(object)), ("booleans", "paperless", lambda s: s.astype(bool)),
    ("categorical", "plan", lambda s: s.astype("category")), ("Arrow text", "plan", lambda s: s.astype("string[pyarrow]")), ("bytes", "plan", lambda s: [v.encode() for v in s]),
    ("dates as datetimes", "joined", pd.to_datetime), ("dates with a time zone", "joined", lambda s: pd.to_datetime(s).dt.tz_localize("UTC")),
    ("dates in several time zones", "joined", lambda s: [t.isoformat() for z, t in zip(["UTC", "Asia/Tokyo", "America/Lima"] * bad.N, pd.to_datetime(s, utc=True).dt.tz_convert("UTC")) for t in [t.tz_convert(z)]]),
):  # fmt: skip
    recovered("values", f"{column} stored as {kind}", "predict", ALIKE, stored(column, how), same)
recovered("values", "numbers with decimal commas in a file", "predict", ALIKE, as_file("new.csv", sep=";", decimal=","), same)
recovered("values", "the table as Parquet", "predict", ALIKE, as_file("new.parquet"), same)
recovered("values", "an index that is no counter", "predict", ALIKE, lambda p: bad.customers().set_axis([f"r{i}" for i in range(bad.N)]), same)
recovered("values", "negative zero", "predict", "The same predictions as for zero.", lambda p: [changed("paperless", slice(9), v)(p) for v in (0.0, -0.0)], lambda t, p: t["probability"].tolist() == p.notes.setdefault("zero", t["probability"].tolist()))
MISSING = [np.nan, None, "", "NA", "NaN", pd.NA, "  ", "null"]
recovered("values", "NaN, None, '', 'NA', 'null' for missing", "predict", "All are missing, with the same predictions and no warning.", lambda p: [changed("charges", slice(20), v)(p) for v in MISSING],
          lambda t, p: t["probability"].tolist() == p.notes.setdefault("missing", t["probability"].tolist()) and same(t, p, slice(20, None)))  # fmt: skip
recovered("values", "infinite numbers", "predict", "Counted as missing, with a warning.", lambda p: [changed("charges", slice(20), v)(p) for v in (np.inf, -np.inf)],
          lambda t, p: same(changed_score(p, "charges", np.nan), p, slice(20, None)) and t["probability"].tolist() == p.notes["score"], "20 values in 'charges' are infinite")  # fmt: skip
recovered("values", "1e308 and denormal numbers", "predict", "Finite predictions, and a warning that they are far outside.", lambda p: [changed("charges", slice(20), v)(p) for v in (1e308, -1e308)], lambda t, p: np.isfinite(t["probability"]).all() and same(t, p, slice(20, None)), "charges")
recovered("values", "denormal numbers", "predict", "Finite predictions.", changed("charges", slice(20), 5e-324), lambda t, p: np.isfinite(t["probability"]).all() and same(t, p, slice(20, None)))
recovered("values", "a column without any value", "predict", "Predicted as missing, with a warning.", changed("charges", slice(None), None), lambda t, p: np.isfinite(t["probability"]).all(), "charges")
recovered("values", "words among numbers", "predict", "Counted as missing, with a warning and an example.", changed("charges", slice(3), "ask Bob"), lambda t, p: same(t, p, slice(3, None)), "3 values in 'charges' are not readable as number", )
recovered("values", "numbers, text and dates in one column", "predict", "What is no number is missing, with a count.", changed("charges", slice(4), ["12", "x", pd.Timestamp("2024-01-01"), 3 + 4j]), lambda t, p: same(t, p, slice(4, None)), "3 values in 'charges' are not readable as number")
recovered("values", "an unknown category", "predict", "Predicted as any unknown one, with a count.", changed("plan", slice(7), "gold\n🙂"), lambda t, p: same(t, p, slice(7, None)), "7 values in 'plan' are of a category never seen")
recovered("values", "lists and objects in cells", "predict", "An unknown category, with a count.", changed("plan", slice(2), pd.Series([[1, 2], {"a": 1}]).to_numpy()), lambda t, p: same(t, p, slice(2, None)), "2 values in 'plan' are of a category never seen")
recovered("values", "dates before 1678 and after 2261", "predict", "Counted as missing, with a warning.", changed("joined", slice(2), ["0001-01-01", "9999-12-31"]), lambda t, p: same(t, p, slice(2, None)), "outside")
recovered("values", "dates before 1900", "predict", "Read, with a warning that they are outside the range of training.", changed("joined", slice(2), ["1850-01-01", "1812-06-24"]), lambda t, p: same(t, p, slice(2, None)), "joined")
recovered("values", "every type of a DataFrame", READ, "Plain types, all documented; bytes that are no text are left out with a note.", lambda p: odd_types(), lambda t, p: plain_types(t), "bytes")
recovered("values", "every type, in training and in three kinds of files", "train", "Infinite is missing, with a note; the same predictions from a DataFrame, CSV and Parquet.", lambda p: trainable(p), lambda run, p: alike_in_files(run, p), "infinite")


def changed_score(place: Place, column: str, value: Any) -> pd.DataFrame:
    found = score(place, changed(column, slice(20), value)(place)).value
    place.notes["score"] = found["probability"].tolist()
    return found


def odd_types() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "Int64": pd.array([1, None], "Int64"), "string": pd.array(["a", None], "string"), "category": pd.Categorical([1, 2]), "object": pd.Series(["x", None], dtype=object),
            "mixed": pd.Series([1, "x"], dtype=object), "bytes": [b"\xff", b"a"], "period": pd.period_range("2024-01", periods=2, freq="M"),
            "zone": pd.date_range("2024", periods=2, tz="Asia/Tokyo"), "sparse": pd.arrays.SparseArray([0.0, 1.0]), "complex": [1j, 2], "wait": pd.to_timedelta(["1h", None]),
            "list": [[1], None], "arrow": pd.Series([1.5, None], dtype="double[pyarrow]"), "truth": pd.Series([True, None], dtype=object), "decimal": [Decimal("1.5"), None],
        }
    )  # fmt: skip
    return frame.set_index(pd.Index(["r", "s"], name="key"))


def plain_types(frame: pd.DataFrame) -> bool:
    kinds = set(frame.dtypes.astype(str))
    return kinds <= {"float64", "int64", "str", "boolean", "datetime64[us]", "datetime64[ns]"} and "bytes" not in frame and frame["decimal"][0] == 1.5


def trainable(place: Place) -> pd.DataFrame:
    """Customers, and a column of every odd kind."""
    frame, rng = bad.customers(), np.random.default_rng(2)
    odd = {
        "empty": np.nan, "infinite": np.where(rng.random(bad.N) < 0.05, np.inf, rng.normal(size=bad.N)), "huge": rng.choice([1e308, -1e308, 0.0], bad.N), "tiny": rng.choice([5e-324, 1e-310, -0.0], bad.N),
        "mixed": pd.Series(rng.choice(np.array([1, "x", 2.5, None, "2024-01-01"], dtype=object), bad.N)), "nested": pd.Series([[1, 2], {"a": 1}, [], "x"] * (bad.N // 4)),
        "nullable": pd.array([1, None, 3] * (bad.N // 3), "Int64"), "decimal": [Decimal(i % 7) / 4 for i in range(bad.N)], "complex": rng.normal(size=bad.N) + 1j,
        "old": pd.Series(["1812-06-24", "2301-01-01", "1950-05-05"] * (bad.N // 3)),
    }  # fmt: skip
    place.notes["frame"] = frame.assign(**odd)
    return place.notes["frame"]


def alike_in_files(run: Run, place: Place) -> bool:
    frame = load_table(place.notes["frame"]).frame
    frame.to_csv(place.path / "x.csv", index=False)
    frame.to_parquet(place.path / "x.parquet")
    found = [run.predict(source, quiet=True)["probability"].to_numpy() for source in (place.notes["frame"], frame, place.path / "x.csv", place.path / "x.parquet")]
    return all(np.allclose(found[0], other, rtol=0, atol=1e-12) for other in found[1:])


# -- columns ---------------------------------------------------------------------------------------------------------


def named(*checks: str, aside: bool = False) -> Callable[[dict[str, Any], Place], bool]:
    """The audit has such a finding about the column 'new', and sets it aside or not."""

    def holds(found: dict[str, Any], place: Place) -> bool:
        about = [f for f in found["findings"] if f["check"] in checks and "new" in f["columns"]]
        return bool(about) and aside == ("new" in {s["column"] for s in found["set_aside"]})

    return holds


def scored(found: dict[str, Any], place: Place) -> bool:
    """Set aside as a leak, with the score of a model with it and without it."""
    leak = next(f for f in found["findings"] if f["check"] == "leak" and f["columns"] == ["new"])
    return leak["scores"]["with"] > leak["scores"]["without"] and "new" in {s["column"] for s in found["set_aside"]}


def with_new(values: Callable[[pd.DataFrame], Any], source: Callable[[], pd.DataFrame] = bad.customers) -> Callable[[Place], pd.DataFrame]:
    return lambda place: source().assign(new=values(source()))


CHANCE = np.random.default_rng(3)
LEFT = lambda d: (d["left"] == "yes").to_numpy()  # noqa: E731
ASIDE = "Reported and set aside."
recovered("columns", "constant", "audit", ASIDE, with_new(lambda d: "Mannheim"), named("constant", aside=True))
recovered("columns", "empty", "audit", ASIDE, with_new(lambda d: None), named("empty", aside=True))
recovered("columns", "a counter of rows", "audit", ASIDE, with_new(lambda d: np.arange(len(d))), named("id", aside=True))
recovered("columns", "keys", "audit", ASIDE, with_new(lambda d: [f"{i * 7919 % 10007:05d}-QX" for i in range(len(d))]), named("id", aside=True))
recovered("columns", "a copy of another column", "audit", "Reported, with both names.", with_new(lambda d: d["charges"]), named("same columns"))
recovered("columns", "another column in other units", "audit", "Reported, with both names.", with_new(lambda d: d["charges"] / 1.95583), named("same columns"))
LEAK = "Set aside as a leak, with the score with and without it."
recovered("columns", "leak: the target recoded", "audit", LEAK, with_new(lambda d: np.where(LEFT(d), "C", "A")), scored, "leak: new")
recovered("columns", "leak: the target with 1 % errors", "audit", LEAK, with_new(lambda d: LEFT(d) ^ (np.arange(len(d)) % 100 == 7)), scored, "leak: new")
recovered("columns", "leak: a score made from the target", "audit", LEAK, with_new(lambda d: 2 * LEFT(d) + np.random.default_rng(4).normal(0, 0.3, len(d))), scored, "leak: new")
recovered("columns", "leak: filled in after the outcome", "audit", LEAK, with_new(lambda d: np.where(LEFT(d), np.random.default_rng(4).integers(10, 99, len(d)), 0)), scored, "leak: new")
recovered("columns", "leak: a date that only one outcome has", "audit", LEAK, with_new(lambda d: np.where(LEFT(d), "2024-03-05", None)), scored, "leak: new")
recovered("columns", "a million categories", "run", "Encoded in bounded time and memory; the encoder stays small.", lambda p: lambda: encode_levels(1_000_000), lambda found, p: found["shape"] == (1_000_000, 2) and found["bytes"] < 20_000 and found["cpu_seconds"] < 30)
recovered("columns", "5,000 columns", "run", "Encoded in bounded time.", lambda p: lambda: encode_columns(5000), lambda found, p: found["shape"] == (60, 5000) and found["cpu_seconds"] < 30)
recovered("columns", "20,000 columns", "train", "Trained within the time.", lambda p: wide(20_000), lambda run, p: len(run.predict(wide(20_000).head(3))) == 3, slow=True)
recovered("columns", "duplicate and empty names in a file", READ, "Made unique, with a warning.", put("x,x,,x.2, y ,x\n1,2,3,4,5,6\n"), lambda t, p: list(t) == ["x", "x.3", "Unnamed: 2", "x.2", " y ", "x.4"] and t.iloc[0].tolist() == [1, 2, 3, 4, 5, 6], "without a name")
recovered("columns", "duplicate names in a DataFrame", READ, "Made unique.", lambda p: pd.DataFrame([[1, 2]], columns=["a", "a"]), lambda t, p: list(t) == ["a", "a.2"])
recovered("columns", "emoji, line breaks, formulas, SQL and HTML in names", "train", "Trained and predicted; the report contains no foreign markup.", lambda p: hostile(), lambda run, p: harmless(run))
recovered("columns", "names that the library uses itself", "train", "Trained and predicted; no column is overwritten.", lambda p: bad.customers().set_axis(["prediction", "probability", "decision", "row", "split", "left"], axis=1),
          lambda run, p: run.predict(q := bad.customers().set_axis(["prediction", "probability", "decision", "row", "split", "left"], axis=1), quiet=True)["prediction"].tolist() == q["prediction"].tolist())  # fmt: skip
recovered("columns", "another order at prediction", "predict", ALIKE, lambda p: bad.customers()[list(reversed(bad.customers().columns))], same)
recovered("columns", "an unknown column at prediction", "predict", "Not used, with a warning.", with_new(lambda d: 1), same, "not known from training and not used: new")
refused("columns", "a column missing at prediction", "predict", "The column is named.", lambda p: bad.customers().drop(columns="age"), DataError, "'age' is missing")
refused("columns", "a misspelt column at prediction", "predict", "The column and the closest name are named.", lambda p: bad.customers().rename(columns={"age": "Age"}), DataError, "'age' is missing", "Did you mean 'Age'?")
refused("columns", "an option names no column", "train", "The closest name is named.", lambda p: (bad.customers(), {"id": "plann"}), ProblemError, "Did you mean 'plan'?")
refused("columns", "only keys are left", "train", "The error names the option that keeps them.", lambda p: pd.DataFrame({"key": [f"K{i}" for i in range(100)], "left": ["yes", "no"] * 50}), DataError, "--keep")


def encode_levels(n: int) -> dict[str, Any]:
    from aimt.data.table.features import FeatureEncoder
    from aimt.data.table.schema import infer_schema

    start = time.process_time()
    frame = pd.DataFrame({"user": pd.Series([f"user {k}" for k in range(n)], dtype="str"), "x": np.arange(n) % 17})
    encoder = FeatureEncoder(infer_schema(frame), ["user", "x"]).fit(frame)
    return {"shape": encoder.transform(frame).shape, "bytes": len(json.dumps(encoder.to_state()[0])), "cpu_seconds": time.process_time() - start}


def wide(n: int) -> pd.DataFrame:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, n)).astype("float32"), columns=[f"c{i}" for i in range(n)])
    return pd.concat([frame, pd.Series(np.where(frame["c7"] > 0, "yes", "no"), name="left")], axis=1)


def encode_columns(n: int) -> dict[str, Any]:
    from aimt.data.table.features import FeatureEncoder, dense
    from aimt.data.table.infer_problem import define_problem
    from aimt.data.table.schema import infer_schema

    start, frame = time.process_time(), wide(n)
    problem, _ = define_problem(frame, target="left")
    encoder = FeatureEncoder(infer_schema(frame), problem.inputs).fit(frame)
    X = encoder.transform(frame)
    dense(encoder).fit(X).transform(X)
    return {"shape": X.shape, "cpu_seconds": time.process_time() - start}


NAMES = ["🙂 mood\n(today)", "=SUM(A1:A9)", "<script>alert(1)</script>", "x'; DROP TABLE t; --", "\u202eabc\x1b[31m", "left"]


def hostile() -> pd.DataFrame:
    return bad.customers().set_axis(NAMES, axis=1)


def harmless(run: Run) -> bool:
    page = run.file("report.html").read_text()
    return len(run.predict(hostile(), quiet=True)) == bad.N and "<script>alert" not in page and "\x1b" not in page


# -- target ----------------------------------------------------------------------------------------------------------


def with_target(values: Any, **options: Any) -> Callable[[Place], Any]:
    return lambda place: (bad.numbers().assign(left=values), options)


refused("target", "not there", "train", "The closest name is named.", lambda p: (bad.customers(), {"target": "lefft"}), ProblemError, "no column 'lefft'", "Did you mean 'left'?")
refused("target", "one class", "train", "The value is named.", with_target("no"), ProblemError, "same value in every row: 'no'")
refused("target", "no value", "train", "An error says so.", lambda p: [with_target(v)(p) for v in (None, np.nan, " ")], ProblemError, "no value in any row")
refused("target", "0 rows", "train", "An error says so.", lambda p: bad.customers().head(0), AimtError, "no rows")
refused("target", "1 row", "train", "The number of rows is named.", lambda p: bad.customers().head(1), AimtError, "1 row")
refused("target", "a class with a single row, of two", "train", "The class is named.", with_target(["yes"] + ["no"] * (bad.N - 1)), AimtError, "'yes'", "1 row")
recovered("target", "a class with a single row, of four", "train", "Left out with a note.", with_target(["red", "green", "blue"] * (bad.N // 3 - 1) + ["red", "green", "mauve"]), lambda run, p: run.problem.labels == ["blue", "green", "red"], "'mauve'")
refused("target", "a different text in every row", "train", "The number of texts is named.", with_target([f"C{k:05d}" for k in range(bad.N)]), AimtError, "240 different texts")
refused("target", "10,000 classes", "train", "The number of classes is named.", lambda p: bad.numbers(20_000).assign(left=[f"k{i % 10_000}" for i in range(20_000)]), AimtError, "10,000")
refused("target", "a date", "train", "An error says so.", lambda p: (bad.customers(), {"target": "joined"}), ProblemError, "is a date")
recovered("target", "8 positive rows of 20,000", "train", "Trained; the audit reports that the class is rare.", lambda p: rare(), lambda run, p: "few of a class" in {f["check"] for f in run.read("audit.json")["findings"]} and len(run.predict(rare().head(5))) == 5)
recovered("target", "some values missing", "train", "These rows are left out, with a count.", with_target(np.where(np.arange(bad.N) < 9, None, bad.numbers()["left"])), lambda run, p: sum(run.read("metrics.json")["split"]["rows"].values()) == bad.N - 9, "9 of 240 rows")
recovered("target", "classes that are fractions", "train", "Classes, if the task says so.", with_target((bad.numbers()["x0"] * 1.2).round().clip(-1, 1) + 1.5, task="multiclass"), lambda run, p: set(run.problem.labels) == {"0.5", "1.5", "2.5"})
recovered("target", "numbers as text, one of them unreadable", "train", "Regression; the row is left out and its text shown.", with_target(["n/a, ask Bob", *bad.numbers()["x0"].round(3).astype(str)[1:]], task="regression"), lambda run, p: run.problem.task == "regression" and sum(run.read("metrics.json")["split"]["rows"].values()) == bad.N - 1, "n/a, ask Bob")
refused("target", "all rows alike", "train", "The error says that no column is left.", lambda p: pd.DataFrame({"x": np.ones(200), "z": ["a"] * 200, "left": [0, 1] * 100}), DataError, "no column is left")
recovered("target", "contradictory copies of a few rows", "train", "Verdict HOLD or NOT YET; the audit counts the rows.", lambda p: contradictory(), lambda run, p: run.read("metrics.json")["verdict"]["verdict"] != "SHIP" and any("contradict" in f["check"] + f["evidence"] for f in run.read("audit.json")["findings"]))
recovered("target", "an unknown class at evaluation", "evaluate", "These rows are left out, with a count.", lambda p: bad.customers().assign(left=np.where(np.arange(bad.N) < 7, "perhaps", bad.customers()["left"])), lambda found, p: found["n"] == bad.N - 7)
refused("target", "not there at evaluation", "evaluate", "The column is named.", lambda p: bad.customers().drop(columns="left"), AimtError, "'left'")


def rare() -> pd.DataFrame:
    frame = bad.numbers(20_000, 2)
    positive = np.argsort(-frame["x0"].to_numpy())[:8]
    return frame.assign(left=np.where(np.isin(np.arange(20_000), positive), "yes", "no"))


def contradictory() -> pd.DataFrame:
    few = pd.DataFrame({"a": np.arange(12) % 4, "b": np.arange(12) // 4, "c": np.arange(12) % 3})
    frame = pd.concat([few] * 20, ignore_index=True)
    return frame.assign(left=np.random.default_rng(0).choice(["yes", "no"], len(frame)))


# -- splits ----------------------------------------------------------------------------------------------------------

refused("splits", "fewer groups than parts", "train", "The column and the number of its values are named.", lambda p: (bad.numbers().assign(who=np.repeat(["a", "b"], bad.N // 2)), {"id": "who"}), DataError, "'who' has 2 different values")
refused("splits", "every row at the same time", "train", "The error says so.", lambda p: (bad.numbers().assign(day="2024-05-01"), {"time": "day"}), AimtError, "only 1 different times")
recovered("splits", "times that are tied", "run", "Rows of the same time stay on the same side.", lambda p: lambda: divided(tied(), time="day"), lambda s, p: not set(tied()["day"][s.part == "test"]) & set(tied()["day"][s.part == "train"]))
recovered("splits", "times in several zones", "run", "Ordered by the instant, not by the text.", lambda p: lambda: divided(zoned(), time="at"), lambda s, p: pd.to_datetime(zoned()["at"], utc=True)[s.part == "test"].min() >= pd.to_datetime(zoned()["at"], utc=True)[s.part == "train"].max())
recovered("splits", "rows that occur several times", "audit", "Counted, with rows to look at and what to do.", lambda p: pd.concat([bad.customers(), bad.customers().iloc[20:60]], ignore_index=True), lambda found, p: True, "duplicate rows")
recovered("splits", "copies of training rows in the test part", "run", "Counted, beyond what chance brings.", lambda p: overlapping, lambda found, p: found["n_twins"] > 20 and found["share"] > 0.5 and "have an exact copy in the training part" in found["text"])
recovered("splits", "rows with slight changes across the split", "run", "Counted as near-duplicates.", lambda p: nearly, lambda share, p: share > 0.5)
recovered("splits", "persons with several rows, and an id", "run", "All rows of a person stay on the same side.", lambda p: lambda: divided(bad.numbers().assign(who=np.arange(bad.N) % 60), id="who"), lambda s, p: not set((np.arange(bad.N) % 60)[s.test]) & set((np.arange(bad.N) % 60)[s.train]))
recovered("splits", "persons with several rows, and no id", "audit", "Reported, with the option that keeps them together.", lambda p: bad.customers().assign(person_id=np.random.default_rng(0).integers(0, 60, bad.N)), lambda found, p: True, "repeated id: person_id")
recovered("splits", "the same text or image for several examples", "run", "All examples with an input stay in the same part.", lambda p: paired, lambda parts, p: not set(parts["train"]["input"]) & set(parts["test"]["input"]))


def divided(frame: pd.DataFrame, **roles: str) -> Any:
    from aimt.data.split.split import split_rows
    from aimt.data.table.infer_problem import define_problem, encode_target

    problem, _ = define_problem(frame, target="left", **roles)
    return split_rows(frame, problem, encode_target(frame, problem)[0])


def tied() -> pd.DataFrame:
    return bad.numbers().assign(day=[f"2024-05-{1 + i * 12 // bad.N:02d}" for i in range(bad.N)])


def zoned() -> pd.DataFrame:
    hours = pd.date_range("2024-01-01", periods=bad.N, freq="h").strftime("%Y-%m-%dT%H:%M:%S")
    return bad.numbers().assign(at=[h + ("+00:00", "+09:00", "-05:00")[i % 3] for i, h in enumerate(hours)])


def overlapping() -> dict[str, Any]:
    from aimt.data.split.split import overlap

    frame = pd.concat([bad.customers()] * 2, ignore_index=True)
    return overlap(frame, divided(frame), ["charges", "age", "plan", "paperless", "joined"])


def nearly() -> float:
    from aimt.data.checks.neighbours import near_twins
    from aimt.data.table.schema import infer_schema

    frame = bad.numbers(columns=6)
    frame = pd.concat([frame, frame.assign(x0=frame["x0"] + 1e-4)], ignore_index=True)
    split = divided(frame)
    return near_twins(frame, infer_schema(frame), [f"x{i}" for i in range(6)], split.train, split.test, seed=0).to_dict()["share"]


def paired() -> dict[str, pd.DataFrame]:
    from aimt.jobs.families.base import split_pairs

    texts = [f"The {('parcel', 'letter', 'box')[i % 3]} number {i // 4}" for i in range(80)]
    return split_pairs(pd.DataFrame({"input": texts, "target": ["late", "lost"] * 40}), classes=True)


# -- run: what happens while it trains -------------------------------------------------------------------------------


def trainer(folder: Path | None = None, *, bad_step: int = 0, scale: float = np.nan, hook: Callable[[Any], Any] | None = None, loss: Any = None, steps: int = 60, **config: Any) -> Any:
    """A small network in the training loop; one batch, or all of them (-1), is multiplied by `scale`."""
    import torch
    from torch import nn

    from aimt.train.loop.trainer import TrainConfig, Trainer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(256, 8)
    batches = [{"x": x[i::64] * (scale if bad_step in (-1, i + 1) else 1), "y": (x[i::64, 0] > 0).long()} for i in range(64)]
    loss = loss or (lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]))
    hooks = [type("Hook", (), {"on_step": lambda self, t, row: hook(t)})()] if hook else []
    return Trainer(model, batches, loss, TrainConfig(steps=steps, precision="fp32", device="cpu", save_every=10, **config), folder=folder, hooks=hooks)


def weights(t: Any) -> Any:
    import torch

    return torch.cat([p.detach().flatten() for p in t.model.parameters()])


def at_step(step: int, act: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda t: act() if t.step == step else None


def resumed_equals_alone(history: Any, place: Place) -> bool:
    """Whether training goes on from the last checkpoint and ends with the same bits as one that nobody stopped."""
    again, alone = trainer(place.path / "run"), trainer()
    again.fit(resume=True), alone.fit()
    return bool((weights(again) == weights(alone)).all())


def full_disk(place: Place, last: int) -> Callable[[], Any]:
    """The checkpoints from the third to number `last` are written to a full disk."""
    from aimt.train.loop import checkpoint

    real, count = checkpoint._write_parts, iter(range(10**6))

    def write(folder: Path, *args: Any) -> None:
        if 2 <= next(count) <= last:
            (folder / "tensors.safetensors").write_bytes(b"half a fi")
            raise OSError(28, "No space left on device")
        real(folder, *args)

    place.patch.setattr(checkpoint, "_write_parts", write)
    return lambda: trainer(place.path / "run").fit()


STOPPED = "Saved and stopped; resumed, it ends with the same bits as a run that nobody stopped."
recovered("run", "SIGTERM", "run", STOPPED, lambda p: lambda: trainer(p.path / "run", hook=at_step(25, lambda: os.kill(os.getpid(), signal.SIGTERM))).fit(), lambda h, p: h.stopped == "SIGTERM" and resumed_equals_alone(h, p))
recovered("run", "Ctrl-C", "run", STOPPED, lambda p: lambda: trainer(p.path / "run", hook=at_step(25, lambda: os.kill(os.getpid(), signal.SIGINT))).fit(), lambda h, p: h.stopped == "SIGINT" and resumed_equals_alone(h, p))
recovered("run", "SIGKILL", "run", "Resumed from the last checkpoint, it ends with the same bits as a run that nobody stopped.", lambda p: lambda: killed(p), lambda runs, p: runs["killed"] != 0 and runs["again"] == runs["alone"])
recovered("run", "SIGKILL of the training on a table", "run", "The run says that it was interrupted, and how to go on.", lambda p: lambda: killed_table(p), lambda line, p: "interrupted" in line and ("--overwrite" in line or "--resume" in line))
recovered("run", "a disk that is full for a while", "run", "The training goes on, with a warning; later checkpoints are written.", lambda p: full_disk(p, 3), lambda h, p: [e["kind"] for e in h.events] == ["checkpoint failed"] * 2 and (p.path / "run/step-000000060").is_dir(), "the disk is full")
refused("run", "a disk that is full to the end", "run", "The error says so; the last good checkpoint stays, and the run can be resumed.", lambda p: full_disk(p, 10**6), RunError, "the disk is full")
refused("run", "a full disk while a table is trained", "run", "The error says so; the run says that it failed, and nothing half-written is left.", lambda p: lambda: limited_size(p, lambda: aimt.train(bad.customers(), target="left", time_limit=1, out=p.path / "run", quiet=True)), AimtError, "disk is full")
refused("run", "a full disk while predictions are written", "run", "The error says so; no half file is left.", lambda p: lambda: limited_size(p, lambda: p.shared.run.predict(pd.concat([bad.customers()] * 20), out=p.path / "out.csv", quiet=True)), AimtError, "disk is full")
refused("run", "a directory that cannot be written", "run", "The place is named.", lambda p: lambda: aimt.train(bad.customers(), target="left", time_limit=1, out="/sys/run", quiet=True), RunError, "/sys", "cannot be written")
refused("run", "a directory with files of somebody else", "run", "Nothing is overwritten.", lambda p: taken(p), RunError, "photos")
refused("run", "out of memory in the training loop", "run", "The error names the batch size and three remedies.", lambda p: trainer(loss=lambda m, b: __import__("torch").empty(2**50)).fit, RunError, "out of memory on cpu at step 1", "batch_size", "accumulation")
recovered("run", "out of memory in one of the models for a table", "train", "This model is dropped and named; the others are used.", lambda p: starved(p), lambda run, p: any(c.get("error") for c in run.read("metrics.json")["candidates"]) and "a recipe failed" in {f["name"] for f in aimt.doctor(run)})
recovered("run", "a loss of NaN in one batch", "run", "Rolled back to the last good state, with the reason; the batch is left out.", lambda p: lambda: trainer(bad_step=41).fit(), lambda h, p: (h.events[0]["step"], h.events[0]["back_to"]) == (41, 40) and [r["step"] for r in h.steps] == list(range(1, 61)), "'x' is not finite in row 0")
refused("run", "data of NaN in all batches", "run", "Three roll-backs, then an error that names the input.", lambda p: trainer(bad_step=-1).fit, DataError, "the data is not finite after 3 roll-backs: 'x'")
refused("run", "a learning rate far too high", "run", "Three roll-backs with half the rate each, then an error with the evidence.", lambda p: trainer(lr=1e30, optimizer="sgd", clip=0, schedule="constant", warmup=0).fit, RunError, "diverges after 3 roll-backs")
recovered("run", "the clock is set back by ten years", "run", "The training and its time limit go on as before.", lambda p: lambda: clock_jump(p).fit(), lambda h, p: h.stopped == "steps" and [r["seconds"] for r in h.steps] == sorted(r["seconds"] for r in h.steps))
refused("run", "two trainings in one directory", "run", "The second is refused; the first goes on.", lambda p: lambda: twice(p), RunError, "another run is training in this directory", "choose another directory")
refused("run", "an unfinished run is opened", "run", "The error says why it ended and how to go on.", lambda p: lambda: unfinished(p), RunError, "--resume", "a bad day")
recovered("run", "a process forked after threads were started", "run", "The child reads, trains and predicts; it does not hang.", lambda p: lambda: forked(p), lambda code, p: code == 0)


def killed(place: Place) -> dict[str, Any]:
    """A training in a process of its own that is killed and goes on, beside one that is left alone."""
    from resume_run import run as run_process

    first = run_process(place.path / "run", kill_at=23, steps=40)
    return {"killed": first.get("exit", 0), "again": run_process(place.path / "run", steps=40), "alone": run_process(place.path / "alone", steps=40)}


def killed_table(place: Place) -> str:
    bad.customers().to_csv(place.path / "t.csv", index=False)
    words = [sys.executable, "-m", "aimt", "train", "t.csv", "--target", "left", "--time-limit", "30", "--out", "run"]
    process = subprocess.Popen(words, cwd=place.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    events, deadline = place.path / "run/events.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not (events.exists() and '"stage": "Train"' in events.read_text()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    try:
        return str(Run.open(place.path / "run").status)
    except RunError as error:
        return str(error)


def limited_size(place: Place, act: Callable[[], Any]) -> Any:
    """Do something while no file may be larger than 20 kB, which stands for a full disk; afterwards nothing half-written is there."""
    import resource

    place.shared.run  # noqa: B018 made before the disk is full
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        return act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        left = [p.name for p in place.path.rglob("*")]
        assert not [name for name in left if ".tmp" in name or name == "out.csv"], left
        if (place.path / "run").exists():
            assert Run.open(place.path / "run", unfinished=True).status == "failed"


def taken(place: Place) -> Callable[[], Any]:
    (place.path / "photos").mkdir()
    (place.path / "photos/beach.jpg").write_bytes(b"mine")
    return lambda: aimt.train(bad.customers(), target="left", time_limit=1, out=place.path / "photos", overwrite=True, quiet=True)


def starved(place: Place) -> pd.DataFrame:
    from aimt.models.table import estimators

    real = estimators.cross_fit

    def fails(candidate: Any, *args: Any, **options: Any) -> Any:
        if candidate.kind != "linear" and "31" in candidate.name:
            raise MemoryError
        return real(candidate, *args, **options)

    place.patch.setattr(estimators, "cross_fit", fails)
    return bad.numbers()


def clock_jump(place: Place) -> Any:
    real = time.time
    t = trainer(place.path / "run", time_limit=60)
    place.patch.setattr(time, "time", lambda: real() - (3e8 if t.step > 25 else 0))
    return t


def twice(place: Place) -> None:
    errors = []

    def second() -> None:
        try:
            trainer(place.path / "run").fit(resume=True)
        except RunError as error:
            errors.append(error)

    assert trainer(place.path / "run", hook=at_step(5, second)).fit().stopped == "steps"
    raise errors[0]


def unfinished(place: Place) -> Run:
    from aimt.core.run import Run as Runs

    run = Runs.create(place.path / "run", settings={"source": "t.csv"})
    run.fail("a bad day")
    return Runs.open(place.path / "run")


def forked(place: Place) -> int:
    place.shared.run.predict(bad.customers(), quiet=True)  # starts the threads of Arrow and of the trees
    bad.customers().to_csv(place.path / "t.csv", index=False)
    code = ("import os, sys, aimt\nrun, table = sys.argv[1:]\nframe = aimt.load_table(table).frame\naimt.predict(run, frame, quiet=True)\n"
            "child = os.fork()\nif child == 0:\n    aimt.load_table(table)\n    aimt.predict(run, frame, quiet=True)\n    os._exit(0)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))")  # fmt: skip
    words = [sys.executable, "-c", code, str(place.shared.run.path), str(place.path / "t.csv")]
    return subprocess.run(words, timeout=60, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "4"}).returncode


# -- artifacts: model files and checkpoints --------------------------------------------------------------------------


def damaged_run(change: Callable[[Path], Any], sealed: bool = False) -> Callable[[Place], Path]:
    """A copy of the run on customers with a change; `sealed` has new checksums, as somebody writes them who means it."""

    def make(place: Place) -> Path:
        run = place.path / "run"
        shutil.copytree(place.shared.run.path, run)
        change(run)
        if sealed:
            bad.seal(run)
        return run

    return make


def each_file(change: Callable[[Path], Any]) -> Callable[[Place], list[Path]]:
    """As many copies of the run as its model has files, each with one of them changed."""

    def make(place: Place) -> list[Path]:
        copies = []
        for name in sorted(p.relative_to(place.shared.run.path) for p in (place.shared.run.path / "model").iterdir())[:4]:
            copies.append(place.path / f"{len(copies)}")
            shutil.copytree(place.shared.run.path, copies[-1])
            change(copies[-1] / name)
        return copies

    return make


def deciles(name: str) -> Callable[[Place], list[Path]]:
    def make(place: Place) -> list[Path]:
        copies = [place.path / f"{tenth}" for tenth in range(10)]
        for tenth, copy in enumerate(copies):
            shutil.copytree(place.shared.run.path, copy)
            os.truncate(copy / name, (copy / name).stat().st_size * tenth // 10)
        return copies

    return make


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_trees(key: str, value: str) -> Callable[[Path], None]:
    """A value of the first tree of a booster is another one."""

    def change(run: Path) -> None:
        path = min((run / "model").glob("member_*.txt*"))
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        text = re.sub(rf"(\n{key}=)\S+", rf"\g<1>{value}", text, count=1)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

    return change


def network(change: Callable[[Path, Place], Any]) -> Callable[[Place], Path]:
    """A copy of the small classifier of texts with a change."""

    def make(place: Place) -> Path:
        shutil.copytree(place.shared.bert, place.path / "bert")
        change(place.path / "bert", place)
        return place.path / "bert"

    return make


def pickled(how: str) -> Callable[[Path, Place], None]:
    """Weights as a pickle that creates a file when it is opened."""

    def change(folder: Path, place: Place) -> None:
        import pickle

        import torch

        (folder / "model.safetensors").unlink()
        trap = bad.Canary(place.path / "sprung")
        if how == "pickle":
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
        else:
            torch.save({"w": torch.ones(2), "trap": trap}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=how == "zip")

    return change


TAMPERED = "Refused before it is parsed."
refused("artifacts", "model file with a flipped bit", "open a run", TAMPERED, each_file(flip), RunError)
refused("artifacts", "model file that is missing", "open a run", "The file is named.", each_file(Path.unlink), RunError)
refused("artifacts", "model.json cut off at each tenth", "open a run", TAMPERED, deciles("model/model.json"), RunError)
refused("artifacts", "run.json cut off at each tenth", "open a run", "The file is named.", deciles("run.json"), RunError, "run.json")
refused("artifacts", "run.json with a changed word", "open a run", TAMPERED, damaged_run(lambda r: (r / "run.json").write_text((r / "run.json").read_text().replace("yes", "no"))), RunError)
refused("artifacts", "run of a newer version", "open a run", "The remedy is an update.", damaged_run(lambda r: bad.edit_json(r / "run.json", lambda s: s.update(format=99))), RunError, "format 99")
refused("artifacts", "run whose folder is missing its model", "open a run", "The file is named.", damaged_run(lambda r: shutil.rmtree(r / "model")), RunError, "model")
refused("artifacts", "run.json of 8 GB", "open a run", "Refused by its size.", damaged_run(lambda r: bad.sparse(r / "run.json", 1 << 33)), RunError, "run.json", "at most")
refused("artifacts", "run.json nested 100,000 deep", "open a run", "The file is named.", damaged_run(lambda r: (r / "run.json").write_text("[" * 100_000)), RunError, "run.json")
for fault, change in {
    "an unknown key": lambda s: s.update(on_load="import os"), "a path out of the folder": lambda s: s["parts"][0].update(file="../../etc/passwd"), "another number of classes": lambda s: s.update(n_classes=3),
    "weights that do not sum to one": lambda s: s["parts"][0].update(weight=5.0), "a newer format": lambda s: s.update(format=99),
}.items():  # fmt: skip
    refused("artifacts", f"model.json with {fault}, and valid checksums", "open a run", "Refused by its structure.", damaged_run(lambda r, change=change: bad.edit_json(r / "model/model.json", change), sealed=True), RunError)
for fault, key, value in (("a column that does not exist", "split_feature", "9999"), ("a child that does not exist", "left_child", "500"), ("a circle", "left_child", "0"), ("a negative leaf", "right_child", "-5000"), ("3 million leaves", "num_leaves", "3000000")):
    refused("artifacts", f"tree with {fault}, and valid checksums", "open a run", "Refused by its structure; LightGBM never reads it.", damaged_run(in_trees(key, value), sealed=True), RunError)
refused("artifacts", "checkpoints that are all damaged", "run", "The error says how many were skipped.", lambda p: spoilt(p, [20, 25]), ModelFormatError, "none of the checkpoints is good")
recovered("artifacts", "checkpoint cut off at each tenth", "run", "Skipped with a warning; the one before is used.", lambda p: [spoilt(p, [25], tenth) for tenth in range(10)], lambda h, p: next(e["step"] for e in h.events if e["kind"] == "resumed") == 20, "damaged")
refused("artifacts", "checkpoint of a newer version", "run", "The remedy is an update.", lambda p: newer(p), ModelFormatError, "format 99", "Update aimt")
CANARY = "Refused by the names in it; nothing is executed."
for kind in ("zip", "old", "pickle"):
    refused("artifacts", {"zip": "PyTorch file that runs code", "old": "PyTorch file of the old format that runs code", "pickle": "plain pickle that runs code"}[kind], "open a network", CANARY, network(pickled(kind)), ModelFormatError, "pickle", "pytorch_model.bin", )
refused("artifacts", "joblib file in place of a table", READ, CANARY, lambda p: joblib_file(p), DataError, "x.csv")
refused("artifacts", "npy file of objects in place of a table", READ, CANARY, lambda p: npy_file(p), DataError, "x.csv")
refused("artifacts", "safetensors cut off at each tenth", "open a network", "The file is named.", lambda p: [network(lambda f, _, k=k: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size * k // 10))(sub(p, k)) for k in range(10)], ModelFormatError, "safetensors")
refused("artifacts", "safetensors with a header that lies", "open a network", LARGE, lambda p: [network(lambda f, _, c=content: (f / "model.safetensors").write_bytes(c))(sub(p, i)) for i, content in enumerate([bad.safetensors([2**40]), bad.safetensors([4], head=2**63), bad.safetensors([4], head=10**9), bad.safetensors([2**40, 2**40])])], ModelFormatError, "safetensors")
refused("artifacts", "network that states a million layers", "open a network", LARGE, network(lambda f, _: bad.edit_json(f / "config.json", lambda s: s.update(num_hidden_layers=10**6))), ModelFormatError)
refused("artifacts", "network settings of another type", "open a network", "The setting is named.", network(lambda f, _: bad.edit_json(f / "config.json", lambda s: s.update(hidden_size="768"))), ModelFormatError, "hidden_size")
refused("artifacts", "tokenizer with ids far apart", "open a network", "Refused before the room is taken.", network(lambda f, _: bad.edit_json(f / "tokenizer.json", lambda s: s["model"]["vocab"].update(z=2**32 - 1))), ModelFormatError)
refused("artifacts", "network without its weights", "open a network", "The file is named.", network(lambda f, _: (f / "model.safetensors").unlink()), ModelFormatError, "model.safetensors is missing")


def sub(place: Place, k: int) -> Place:
    (place.path / str(k)).mkdir()
    return Place(place.path / str(k), place.shared, place.patch)


def spoilt(place: Place, steps: list[int], tenth: int = 5) -> Callable[[], Any]:
    """Resume a run that was stopped at step 25, with damaged checkpoints."""
    folder = place.path / f"run{tenth}"
    t = trainer(folder, hook=lambda t: t.stop() if t.step == 25 else None)
    t.fit()
    for step in steps:
        file = folder / f"step-{step:09d}/tensors.safetensors"
        os.truncate(file, file.stat().st_size * tenth // 10)
    return lambda: trainer(folder, steps=30).fit(resume=True)


def newer(place: Place) -> Callable[[], Any]:
    act = spoilt(place, [])
    bad.edit_json(place.path / "run5/step-000000025/manifest.json", lambda s: s.update(aimt_format=99))
    return act


def joblib_file(place: Place) -> Path:
    import joblib

    joblib.dump(bad.Canary(place.path / "sprung"), place.path / "x.csv")
    return place.path / "x.csv"


def npy_file(place: Place) -> Path:
    with open(place.path / "x.csv", "wb") as f:
        np.save(f, np.array([bad.Canary(place.path / "sprung")]), allow_pickle=True)
    return place.path / "x.csv"


# -- generative: text, images, recordings ----------------------------------------------------------------------------

recovered("generative", "an empty prompt", "generate", "A new text is begun.", lambda p: "", lambda text, p: isinstance(text, str))
recovered("generative", "no prompts", "generate", "No texts.", lambda p: [[]], lambda texts, p: texts == [])
recovered("generative", "a prompt of a million tokens", "generate", "Cut to the context, with a warning that says how much is kept.", lambda p: "word " * 200_000, lambda text, p: isinstance(text, str), "1,000,000 tokens")
recovered("generative", "control tokens in a prompt", "run", "Ordinary text: it ends nothing.", lambda p: lambda: p.shared.writer[1].encode("<|endoftext|> <unk>"), lambda ids, p: p.shared.writer[1].eot_id not in ids and p.shared.writer[1].decode(ids) == "<|endoftext|> <unk>")
refused("generative", "a character that the tokenizer does not know", "run", "The character is named before anything is written.", lambda p: lambda: unknown_character(p), DataError, "'ż'")
for name, content, told in (("random bytes", np.random.default_rng(0).bytes(5000), "binary"), ("only white space", b" \n\t \n", "white space"), ("a PDF", b"%PDF-1.7\n" + b"words " * 100, "PDF"), ("a single character", b"x", "only one character")):
    refused("generative", f"{name} as training text", "read a text", "The error says so.", put(content, "book.txt"), DataError, "book.txt", told)
recovered("generative", "an image of one pixel", "read an image", "Read.", put(bad.picture(size=(1, 1)), "x.png"), lambda a, p: a.shape == (1, 1, 3))
for mode in ("CMYK", "RGBA", "LA", "L", "P", "I;16"):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    recovered("generative", f"an image with colours {mode}", "read an image", "Converted to RGB, 8 bits.", put(bad.picture(kind, mode), "x.png"), lambda a, p: a.shape == (32, 48, 3) and a.dtype == np.uint8)
for name, content, told in (("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"), ("a web page", b"<!DOCTYPE html><p>404", "web page"), ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", "LFS"), ("a video", b"\x00\x00\x00\x18ftypisom\x00\x00", "video"), ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n%%EOF\n", "PostScript")):
    refused("generative", f"{name} called .png", "read an image", "The type is named; no program is started for it.", put(content, "x.png"), DataError, "x.png", told)
refused("generative", "an array of an unknown range", "read an image", "The range is named.", lambda p: [np.full((2, 2), 300), np.full((2, 2), np.nan), np.full((2, 2), -0.5)], DataError)
refused("generative", "a recording of 0 seconds", "read a recording", "The error says so.", put(bad.recording(np.zeros(0)), "x.wav"), DataError, "0 seconds")
refused("generative", "a silent recording", "read a recording", "The error says so.", put(bad.recording(np.zeros(16_000)), "x.wav"), DataError, "silent")
refused("generative", "a recording of NaN", "read a recording", "The error says so.", put(bad.float_recording(np.full(16_000, np.nan)), "x.wav"), DataError, "NaN")
refused("generative", "text called .wav", "read a recording", "The file is named.", put(b"this is no sound at all, just some text", "x.wav"), DataError, "x.wav")
refused("generative", "a recording of two hours", "read a recording", "The error names the option, and how to read it in pieces.", lambda p: put(bad.recording(np.ones(16_000), rate=10), "x.wav")(p), DataError, "x.wav")


def unknown_character(place: Place) -> Any:
    from aimt.data.text.tokenizer import train_tokenizer
    from aimt.generate.text.sampling import generate

    (place.path / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 3)
    return generate(place.shared.writer[0], train_tokenizer(place.path / "a.txt", "char"), "lazy \u017c", max_new_tokens=2)


# -- the test --------------------------------------------------------------------------------------------------------


def fulfil(case: Fault, run: Callable[[Place, Any], Outcome], place: Place) -> list[Outcome]:
    """Make the input, do it, and check what comes out; an `AssertionError` says what is not as required."""
    source = case.make(place)
    return [_fulfil_one(case, run, place, one) for one in (source if isinstance(source, list) else [source])]


def _fulfil_one(case: Fault, run: Callable[[Place, Any], Outcome], place: Place, source: Any) -> Outcome:
    try:
        outcome = run(place, source)
    except AimtError as error:
        assert case.error is not None, f"refused: {error}"
        assert isinstance(error, case.error), f"{type(error).__name__}: {error}"
        line = str(error)
        assert "\n" not in line and len(line) < 600 and error.hint, f"an error is one line with a hint: {line!r}"
        for words in case.says:
            assert words in line, f"{words!r} is not in {line!r}"
        return Outcome(error, [line])
    assert case.error is None, f"accepted: {str(outcome.value)[:300]}; {outcome.said}"
    assert case.holds is None or case.holds(outcome.value, place), f"not the promised result: {str(outcome.value)[:300]}; {outcome.said}"
    for words in case.says:
        assert any(words in line for line in outcome.said), f"{words!r} is not in {outcome.said}"
    return outcome


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Shared:
    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def limited(tmp_path_factory) -> dict[str, str]:
    """What the cases under a limit of memory said, in one process for all of them; nothing of those before which it was killed."""
    folder = tmp_path_factory.mktemp("limited")
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["id"]: line["fault"] for line in told} | {"": done.stderr[-2000:]}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_fault(case: Fault, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    if case.slow and not os.environ.get("AIMT_SLOW"):
        pytest.skip("minutes: set AIMT_SLOW=1")
    if case.limited:
        told = request.getfixturevalue("limited")
        assert case.id in told, f"the process ended before: {told['']}"
        assert not told[case.id], told[case.id]
        return
    for i, run in enumerate(VERBS[case.verb]):
        (tmp_path / str(i)).mkdir()
        with monkeypatch.context() as patch:
            fulfil(case, run, Place(tmp_path / str(i), shared, patch))
    assert not list(tmp_path.rglob("sprung")), "code in a file was executed"


def test_ids_are_unique():
    assert len({case.id for case in CASES}) == len(CASES)


def _run_limited(folder: Path) -> None:
    """Run the cases under a limit of memory, and print what each of them said."""
    import resource

    import openpyxl  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import aimt.data.audio.read  # noqa: F401
    import aimt.data.image.read  # noqa: F401

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (used + (LIMIT_MB << 20), resource.RLIM_INFINITY))
    for case in (case for case in CASES if case.limited):
        fault, start = "", time.perf_counter()
        for run in VERBS[case.verb]:
            place = folder / case.id / run.__name__
            place.mkdir(parents=True)
            try:
                fulfil(case, run, Place(place, Shared(folder), pytest.MonkeyPatch()))
            except BaseException:
                fault = fault or traceback.format_exc()
            shutil.rmtree(place)
        print(json.dumps({"id": case.id, "fault": fault, "seconds": round(time.perf_counter() - start, 1)}), flush=True)


if __name__ == "__main__":
    _run_limited(Path(sys.argv[1]))
