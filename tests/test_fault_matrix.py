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


def test_ids_are_unique():
    assert len({case.id for case in CASES}) == len(CASES)


def _run_limited(folder: Path) -> None:
    """Run the cases under a limit of memory, and print what each of them said."""
    import resource

    import PIL.Image  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import openpyxl  # noqa: F401

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
