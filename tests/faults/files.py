"""Files that are missing, cut off, damaged, of another kind, or far larger than they look."""

import codecs
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from aimt.core.errors import DataError
from aimt.data.io.chunks import read_chunks
from faults import inputs as bad
from faults.case import Group, Place, put

files = Group("files")

TABLE = b"a,b\n1,x\n2,y\n"
PEOPLE = "name,city,sum\n" + "".join(f"Zoë {i},Köln,{i}\n" for i in range(20))
READ, AGAIN = "read a table", "The error says to copy, download or export it again."


def people(table: pd.DataFrame, place: Place) -> bool:
    return list(table) == ["name", "city", "sum"] and table["city"].eq("Köln").all() and table["sum"].tolist() == list(range(20))


for name, verb in {
    "csv": READ,
    "parquet": READ,
    "jsonl": READ,
    "json": READ,
    "xlsx": READ,
    "png": "read an image",
    "wav": "read a recording",
    "txt": "read a text",
}.items():
    files.refused(
        f"0 bytes ({name})", verb, "An error says that the file is empty.", put(b"", f"x.{name}"), DataError, f"x.{name}", "empty"
    )
files.refused("blank lines only", READ, "An error says that there is no table.", put("\n\n   \n"), DataError, "no table")
files.refused(
    "a header without rows",
    READ,
    "An error says that there are no rows.",
    put([b"a,b,c", b"a,b,c\n", b"a,b,c\r\n"]),
    DataError,
    "header but no rows",
)
files.refused(
    "gzip cut off",
    READ,
    AGAIN,
    put(bad.cut(gzip.compress(bad.customers().to_csv().encode()), 0.2, 0.5, 0.9, 0.999), "x.csv.gz"),
    DataError,
    "cut off",
    "again",
)
files.refused(
    "gzip with a damaged byte",
    READ,
    AGAIN,
    put(bad.flipped(gzip.compress(bad.customers().to_csv().encode())), "x.csv.gz"),
    DataError,
    "x.csv.gz",
    "again",
)
files.refused(
    "Parquet cut off", READ, AGAIN, put(bad.cut(bad.parquet(), 0.01, 0.1, 0.5, 0.9, 0.999), "x.parquet"), DataError, "damaged", "again"
)
files.refused(
    "Excel workbook cut off",
    READ,
    AGAIN,
    put(bad.cut(bad.workbook(bad.column_of_cells(50))), "x.xlsx"),
    DataError,
    "damaged or cut off",
    "again",
)
files.refused("JSON Lines cut off", READ, "The line is named.", put(bad.lines()[:-20], "x.jsonl"), DataError, f"line {bad.N}", "again")
files.refused("JSON cut off", READ, AGAIN, put('[{"a": 1}, {"a"', "x.json"), DataError, "not valid JSON", "again")
files.refused(
    "CSV cut off within a row",
    READ,
    "The line is named, with the number of its fields.",
    put(TABLE + b"3"),
    DataError,
    "line 4 has 1 field, the header has 2",
)
files.refused(
    "image cut off (PNG, JPEG, GIF, BMP, TIFF, WebP, PPM)",
    "read an image",
    "The file is named.",
    put(
        [part for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM") for part in bad.cut(bad.picture(kind), 0.02, 0.3, 0.6)], "x"
    ),
    DataError,
    "-x",
)
files.refused(
    "recording cut off in its header",
    "read a recording",
    AGAIN,
    put(bad.recording()[:20], "x.wav"),
    DataError,
    "x.wav",
    "ends before its sound",
)
files.recovered(
    "recording cut off in its samples",
    "read a recording",
    "What is there is read.",
    put(bad.recording()[:16_044], "x.wav"),
    lambda x, _: len(x) == 8000,
)
files.refused(
    "npz and zip archives, also cut off",
    READ,
    "The error says that it is an archive.",
    put([bad.npz(), bad.archive(x=TABLE), *bad.cut(bad.npz())], "x.csv"),
    DataError,
    "x.csv",
)
files.recovered("a byte order mark", READ, "It is not part of the first name.", put(codecs.BOM_UTF8 + PEOPLE.encode()), people)
for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"):
    told = () if encoding in ("utf-16", "utf-32") else ("UTF-",)
    files.recovered(f"encoding {encoding}", READ, "Found out; a guess is reported.", put(PEOPLE.encode(encoding)), people, *told)
files.recovered(
    "mixed encodings",
    READ,
    "Read as UTF-8; other bytes are counted and replaced, and the first line with one is named.",
    put(PEOPLE.encode() + b"Anna,K\xfcln,1\n"),
    lambda t, _: t["city"].iloc[-1] == "K\ufffdln" and t["city"].iloc[0] == "Köln",
    "1 byte not in UTF-8, the first on line 22",
)
files.recovered(
    "NUL bytes",
    READ,
    "Removed and counted.",
    put(b"a,b\n" + b"1,x\n" * 300 + b"2\0,y\0\n"),
    lambda t, _: t["a"].iloc[-1] == 2 and t["b"].iloc[-1] == "y",
    "2 NUL bytes",
)
files.refused("NUL bytes only", READ, "An error says so.", put(bytes(5000)), DataError, "NUL")
for name, delimiter in {"semicolons": ";", "tabs": "\t", "bars": "|"}.items():
    files.recovered(f"{name} in place of commas", READ, "Found out.", put(PEOPLE.replace(",", delimiter)), people)
files.recovered(
    "spaces as delimiter",
    READ,
    "One column, and a warning that names the option.",
    put("a b c\n1 2 3\n4 5 6\n"),
    lambda t, _: t.shape == (2, 1),
    "space",
)
files.recovered(
    "Parquet called .csv",
    READ,
    "Read by its content, with a warning.",
    put(bad.parquet(), "x.csv"),
    lambda t, _: t.shape == bad.customers().shape,
    "parquet by its content",
)
files.recovered(
    "CSV called .parquet",
    READ,
    "Read by its content, with a warning.",
    put(TABLE, "x.parquet"),
    lambda t, _: t.shape == (2, 2),
    "this is text",
)
for kind, start, told in (
    ("PDF", b"%PDF-1.7", "PDF"),
    ("old Excel workbook", b"\xd0\xcf\x11\xe0", ".xlsx"),
    ("pickle", b"\x80\x04\x95", "run code"),
    ("image", b"\x89PNG", "picture"),
    ("Arrow file", b"ARROW1", "Parquet"),
    ("SQLite database", b"SQLite format 3\0", "--sql"),
):
    files.refused(f"{kind} called .csv", READ, "The type is named, and what to do.", put(start + bytes(200), "x.csv"), DataError, told)
files.refused(
    "a quote that is never closed",
    READ,
    "The line is named.",
    put(b"a,b\n" + b"1,x\n" * 5000 + b'2,"y\n' + b"3,z\n" * 5000),
    DataError,
    "line 5002",
    "never closed",
)
files.refused(
    "rows with too few or too many fields",
    READ,
    "The first line is named, with its fields.",
    put([b"a,b\n" + b"1,2\n" * 100_000 + row + b"3,4\n" * n for row in (b"9\n", b"9,9,9\n") for n in (1, 100_000)]),
    DataError,
    "line 100002 has",
    "the header has 2",
)
files.recovered(
    "one line of 9 MB",
    READ,
    "Read whole.",
    put(b"a,b\n1," + b"x" * 9_000_000 + b"\n2,y\n"),
    lambda t, _: t["b"].str.len().tolist() == [9_000_000, 1],
)
files.refused(
    "a line of 200 MB",
    READ,
    "Refused within bounded memory; the line is named.",
    lambda p: _one_line(p, 200 << 20),
    DataError,
    "x.csv",
    "line 2 has more than 64 MB",
    limited=True,
)
files.refused(
    "gzip that unpacks to a line of 200 MB",
    READ,
    "Refused within bounded memory; the line is named.",
    lambda p: _bomb(p, 200 << 20),
    DataError,
    "x.csv.gz",
    "line 2 has more than 64 MB",
    limited=True,
)
files.refused(
    "8 GB of zeros",
    READ,
    "Refused within bounded memory.",
    lambda p: _sparse(p, "x.csv", 8 << 30),
    DataError,
    "x.csv",
    "64 MB",
    limited=True,
)
files.refused(
    "JSON Lines without line ends",
    READ,
    "Refused within bounded memory; the line is named.",
    lambda p: _sparse(p, "x.jsonl", 100 << 20, b'{"a": 1}\n{"a": "'),
    DataError,
    "x.jsonl",
    "line 2 has more than 64 MB",
    limited=True,
)
files.refused(
    "JSON of 1.2 GB",
    READ,
    "The error says that it does not fit into memory, and what does.",
    lambda p: _sparse(p, "x.json", 1200 << 20, b'[{"a": "'),
    DataError,
    "x.json",
    "does not fit into memory",
    "JSON Lines",
    limited=True,
)


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


files.refused(
    "no such file", READ, "The file with the closest name is named.", _misspelt, DataError, "no such file", "Did you mean 'customers.csv'?"
)
files.refused(
    "no such directory",
    READ,
    "The error says so.",
    lambda p: p.path / "nowhere" / "x.csv",
    DataError,
    "no such file",
    "There is no such directory",
)
files.refused("a directory", READ, "The tables in it are named.", lambda p: put(TABLE)(p).parent, DataError, "directory", "shop.csv")
files.refused("a link to itself", READ, "The link is named.", _loop, DataError, "loop.csv", posix=True)
files.refused("a named pipe", READ, "Refused; reading does not hang.", _pipe, DataError, "not a regular file", posix=True)
files.refused("no permission", READ, "The file is named.", _forbidden, DataError, "Permission denied", "Check its permissions")
files.refused(
    "cut off while it is read",
    "other",
    "The error says so; no rows are lost silently.",
    lambda p: _changing(p, lambda f: f.truncate(3_000_000)),
    DataError,
    "shop.csv",
    "changed",
)
files.refused(
    "replaced while it is read",
    "other",
    "The error says so; rows of two files are never mixed.",
    lambda p: _changing(p, lambda f: (f.seek(0), f.write(b"9" * 4_000_000))),
    DataError,
    "shop.csv",
    "changed",
)


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
files.refused(
    "Excel: one cell far away",
    READ,
    LARGE,
    put([bad.workbook(cells) for cells in (bad.column_of_cells(1000) | {"XFD1048576": 7}, {"A1": 1, "A4000000000": 7})], "x.xlsx"),
    DataError,
    "too far apart",
    "stray cell",
    limited=True,
)
files.refused(
    "Excel: unpacks to 500 MB",
    READ,
    LARGE,
    lambda p: put(bad.workbook({"A1": 1, "A2": 2}, padding_mb=500), "x.xlsx")(p),
    DataError,
    "unpacks to",
    limited=True,
)
files.recovered(
    "Excel: states a size of 17 billion cells",
    READ,
    "The stated size is ignored.",
    put(bad.workbook(bad.column_of_cells(30), dimension="A1:XFD1048576"), "x.xlsx"),
    lambda t, _: t.shape == (28, 1),
    limited=True,
)
files.refused(
    "PNG: states 30,000 x 30,000 pixels",
    "read an image",
    LARGE,
    put([bad.png_header(30_000, 30_000), bad.png_header(2**31 - 1, 2**31 - 1)], "x.png"),
    DataError,
    "x.png",
    limited=True,
)
files.refused(
    "WAV: states an absurd rate or number of channels",
    "read a recording",
    LARGE,
    put([bad.wav_header(r, c) for r, c in ((2**32 - 1, 1), (0, 1), (50_000_017, 1), (400_001, 1), (16_000, 65_535), (16_000, 0))], "x.wav"),
    DataError,
    "x.wav",
    limited=True,
)
files.recovered(
    "WAV: states 4 GB of sound",
    "read a recording",
    "What is there is read.",
    put(bad.wav_header(16_000, stated=2**32 - 1), "x.wav"),
    lambda x, _: len(x) == 200,
    limited=True,
)
