"""Files that are missing, broken or strange: each is refused in one line that says what, where and what to do, or read
with a warning. Every case is a real file, read whole and in pieces."""

import codecs
import gzip
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimt.core.errors import AimtError, DataError, MissingExtraError
from aimt.data.sources.catalog import DATASETS, dataset_path, load_dataset
from aimt.data.io.load import load_table
from aimt.data.io.chunks import open_writer, read_chunks


@pytest.fixture
def write(tmp_path):
    """Write a file and give its path."""

    def put(content: str | bytes, name: str = "shop.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def refused(source, *parts: str, **options) -> None:
    """Reading fails, whole and in pieces, with one line that holds all the parts."""
    for read in (lambda: load_table(source, **options), lambda: list(read_chunks(source, **options))):
        with pytest.raises(AimtError) as info:
            read()
        message = str(info.value)
        assert "\n" not in message and len(message) < 500
        for part in parts:
            assert part in message, message


def both(path, **options):
    """The table read whole, checked to be the same in pieces of 7 rows."""
    table = load_table(path, **options)
    pieces = list(read_chunks(path, rows=7, **options))
    assert sum(map(len, pieces)) == table.rows
    text = pd.concat([p.astype(object) for p in pieces], ignore_index=True)
    for name in table.frame:
        for whole, piece in zip(table.frame[name], text[name], strict=True):
            assert (pd.isna(whole) and pd.isna(piece)) or whole == piece or str(whole) == str(piece), (name, whole, piece)
    return table


# -- no table there --------------------------------------------------------------------------------


def test_one_row(write):
    table = both(write("a,b\n1,x"))
    assert table.frame.to_dict("list") == {"a": [1], "b": ["x"]}


def test_addresses_and_nothing():
    refused("https://example.org/x.csv", "address")
    with pytest.raises(DataError, match="no table was given"):
        load_table(None)


def test_no_rows_or_columns():
    for frame in (pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=range(3))):
        with pytest.raises(DataError, match="no rows|no columns"):
            load_table(frame)


# -- delimiters and encodings ----------------------------------------------------------------------

PEOPLE = "name{0}city{0}sum\n" + "".join(f"Zoë {i}{{0}}Köln{{0}}{i}\n" for i in range(20))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["shop.csv", "shop.txt"])
def test_delimiter_is_found(write, delimiter, name):
    table = both(write(PEOPLE.format(delimiter), name))
    assert table.delimiter == delimiter
    assert list(table.frame) == ["name", "city", "sum"]
    assert table.frame["sum"].tolist() == list(range(20))


def test_delimiter_that_nobody_expects(write):
    path = write("a b c\n1 2 3\n4 5 6\n")
    assert any("space" in w for w in load_table(path).warnings)
    assert both(path, delimiter=" ").frame.shape == (2, 3)


def test_big_endian_mark(write):
    assert both(write(codecs.BOM_UTF16_BE + PEOPLE.format(",").encode("utf-16-be"))).rows == 20


def test_latin_1_far_down(write):
    lines = ["id,name\n"] + [f"{i},Anna\n" for i in range(400_000)]
    table = load_table(write("".join(lines).encode() + "7,José\n".encode("latin-1")))
    assert table.frame["name"].iloc[-1] == "José"
    assert any("line 400002" in w for w in table.warnings)


def test_given_encoding_is_used(write):
    path = write("имя,n\nЖанна,1\n".encode("cp1251"))
    assert load_table(path, encoding="cp1251").frame["имя"].tolist() == ["Жанна"]


def test_decimal_commas(write):
    table = both(write("preis;menge;ort;plz\n1.234,50;1;Ulm;01067\n-0,5;2;Bonn;53111\n;3;;10115\n"))
    assert table.frame["preis"].tolist()[:2] == [1234.5, -0.5] and np.isnan(table.frame["preis"][2])
    assert table.frame["plz"].tolist() == ["01067", "53111", "10115"]


# -- rows that do not fit --------------------------------------------------------------------------


def test_title_above_the_header(write):
    refused(write("Sales of May\na,b\n1,2\n"), "title above the header")


def test_delimiter_at_the_end_of_each_line(write):
    table = both(write("a,b\n1,2,\n3,4,\n"))
    assert list(table.frame) == ["a", "b", "Unnamed: 2"] and table.frame["a"].tolist() == [1, 3]


def test_row_names_of_r(write):
    table = both(write('"mpg","cyl"\n"Mazda",21,6\n"Fiat",32.4,4\n'))
    assert list(table.frame) == ["Unnamed: 0", "mpg", "cyl"] and table.frame["mpg"].tolist() == [21, 32.4]
    assert any("without a name" in w for w in table.warnings)


def test_unclosed_quote(write):
    refused(write('a,b\n1,"x\n2,y\n3,z\n'), "line 2", "never closed")
    refused(write('a,b\n1,"x\n2,y\n"3,z\n'), "line 2 has")
    big = "a,b\n" + "1,x\n" * 50_000 + '2,"y\n' + "3,z\n" * 50_000
    refused(write(big), "line 50002", "never closed")


def test_stray_quote_is_kept_and_told(write):
    table = both(write('size,n\n5" pipe,1\n6 inch,2\n'))
    assert table.frame["size"][0] == '5" pipe' and any("odd number of quotes" in w for w in table.warnings)


def test_quotes_and_line_breaks(write):
    table = both(write('a,"b ""x"""\r\n"one\r\ntwo","y,z"\r\n"""",2\r\n'))
    assert list(table.frame) == ["a", 'b "x"']
    assert table.frame["a"].tolist() == ["one\r\ntwo", '"']


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(write, end):
    table = both(write(end.join(["a,b", "1,2", "", "3,4", ""])))
    assert table.frame.to_dict("list") == {"a": [1, 3], "b": [2, 4]}


# -- names -----------------------------------------------------------------------------------------


def test_strange_names_and_values(write):
    path = write('😀,"two\nlines",=SUM(A1),@x,select\n🎉,"a\nb",=1+1,-2+3,"DROP TABLE x; --"\n')
    table = both(path)
    assert list(table.frame) == ["😀", "two\nlines", "=SUM(A1)", "@x", "select"]
    assert table.frame.iloc[0].tolist() == ["🎉", "a\nb", "=1+1", "-2+3", "DROP TABLE x; --"]


def test_header_that_is_data(write):
    assert any("looks like data" in w for w in load_table(write("1,2\n3,4\n")).warnings)


def test_5000_columns(write):
    names = [f"column number {i}" for i in range(5000)]
    frame = pd.DataFrame(np.arange(250_000).reshape(50, 5000) % 97, columns=names)
    frame[names[4999]] = "x"
    pd.testing.assert_frame_equal(both(write(frame.to_csv(index=False))).frame, frame)


# -- types -----------------------------------------------------------------------------------------


def test_missing_words(write):
    words = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "<NA>", "#N/A"]
    table = both(write("a,b\n1,x\n" + "".join(f'{w},"{w}"\n' for w in words)))
    assert table.frame["a"].dtype == np.float64
    assert table.frame.iloc[1:].isna().all(axis=None)
    assert load_table(write("a,b\nnone,no\nNo,-\n")).frame.notna().all(axis=None)


def test_types(write):
    table = both(
        write(
            "whole,half,word,truth,day,time,code,long,void,inf\n"
            "1,.5,x,true,2024-01-31,12:30:00,007,12345678901234567890,,inf\n"
            "-2,1e3,1,false,1900-01-01,08:00:00,010,1,,-inf\n"
        )
    )
    kinds = table.frame.dtypes.astype(str).to_dict()
    assert kinds == {
        "whole": "int64",
        "half": "float64",
        "word": "str",
        "truth": "str",
        "day": "str",
        "time": "str",
        "code": "str",
        "long": "str",
        "void": "float64",
        "inf": "float64",
    }
    assert table.frame["day"].tolist() == ["2024-01-31", "1900-01-01"]  # as written


def test_long_whole_numbers_with_gaps_stay_exact(write):
    table = both(write("id,n\n9007199254740993,1\n,\n1,3\n"))
    assert table.frame["id"].tolist()[0] == "9007199254740993" and table.frame["n"].dtype == np.float64


@pytest.mark.parametrize("late", ["unknown", "2.5", "true", "2024-01-31", "99999999999999999999"])
def test_mixed_types_late_in_a_big_file(write, late):
    n = 300_000
    path = write("a,b,c\n" + "".join(f"{i},{i % 3},\n" for i in range(n)) + f"{n},{late},{late}\n")
    table = load_table(path)
    number = late in ("2.5", "99999999999999999999")
    assert [pd.api.types.is_float_dtype(table.frame[c]) for c in "bc"] == [number] * 2
    assert str(table.frame["c"].iloc[-1]) == (str(float(late)) if number else late)
    pieces = list(read_chunks(path, rows=100_000))
    assert [len(p) for p in pieces] == [100_000, 100_000, 100_000, 1]
    assert pieces[1]["b"].dtype.kind in "if" and str(pieces[-1]["c"].iloc[0]) == str(table.frame["c"].iloc[-1])
    assert pd.concat([p["a"] for p in pieces]).tolist() == list(range(n + 1))


def test_restless_columns_in_pieces(write):
    rows = [",".join(str(i % 5) for _ in range(8)) for i in range(60_000)]
    for k in range(8):
        row = ["1"] * 8
        row[k] = "word"
        rows[20_000 + 5000 * k] = ",".join(row)
    path = write("\n".join([",".join("abcdefgh"), *rows, ""]))
    whole = load_table(path).frame
    pieces = pd.concat([p.astype(object) for p in read_chunks(path, rows=9_999)], ignore_index=True)
    assert (pieces.astype(str) == whole.astype(str)).all(axis=None)


def test_text_as_written(write):
    path = write("code,n\n" + "5,1\n" * 500)
    assert {p["code"].dtype.name for p in read_chunks(path, rows=100, text=["code", "absent"])} == {"str"}


# -- compressed files and other formats ------------------------------------------------------------


def test_gzip(write):
    table = both(write(gzip.compress(b"a,b\n1,2\n"), "x.csv.gz"))
    assert table.name == "x" and table.format == "csv"
    assert both(write(gzip.compress(b"a,b\n1,2\n"), "wrong.csv")).rows == 1


def test_truncated_parquet(write, tmp_path):
    pq.write_table(pa.table({"a": range(1000)}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    for keep in (4, len(whole) // 2, len(whole) - 1):
        refused(write(whole[:keep], "y.parquet"), "damaged or cut off")
    hurt = bytearray(whole)
    hurt[20:200] = bytes(180)
    path = write(bytes(hurt), "z.parquet")
    with pytest.raises(DataError):
        load_table(path)


def test_parquet_types(tmp_path):
    import datetime as dt
    from decimal import Decimal

    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table(
            {
                "day": pa.array([dt.date(2024, 1, 31), dt.date(9999, 12, 31)]),
                "at": pa.array([dt.datetime(2024, 1, 1)] * 2, pa.timestamp("us", "UTC")),
                "time": pa.array([dt.time(8, 30)] * 2),
                "wait": pa.array([dt.timedelta(hours=1)] * 2),
                "sum": pa.array([Decimal("1.50"), None]),
                "list": pa.array([[1, 2], None]),
                "kind": pa.array(["a", "b"]).dictionary_encode(),
                "ok": pa.array([True, None]),
                "void": pa.nulls(2),
                "half": pa.array(np.array([1.5, 2], np.float16)),
                "raw": pa.array([b"\xff\xfe", b"\x80"]),
                "big": pa.array([2**60 + 1, None]),
            }
        ),
        path,
    )
    table = both(path)
    frame = table.frame
    assert frame["day"].dtype.kind == frame["at"].dtype.kind == "M" and frame["day"][1].year == 9999
    assert frame["wait"].tolist() == [3600.0, 3600.0] and frame["sum"][0] == 1.5 and frame["list"][0] == "[1, 2]"
    assert frame["kind"].dtype == frame["time"].dtype == "str" and str(frame["ok"].dtype) == "boolean"
    assert frame["void"].isna().all() and frame["big"][0] == str(2**60 + 1)
    assert "raw" not in frame and any("raw bytes" in w for w in table.warnings)


def test_json(write):
    rows = [{"a": 1, "b": "x"}, {"a": 2.5, "c": [1]}, {"b": None, "c": {"k": 1}}] * 5
    lines = "\n".join(map(json.dumps, rows))
    tables = [both(write(lines, "x.jsonl")), both(write(json.dumps(rows), "x.json")), both(write(lines, "y.json"))]
    for table in tables:
        pd.testing.assert_frame_equal(table.frame, tables[0].frame)
    assert tables[0].frame["c"].tolist()[1:3] == ["[1]", '{"k": 1}']
    assert both(write('{"a": [1, 2], "b": ["x", "y"]}', "z.json")).rows == 2
    refused(write('{"a": 1}\n{"a"\n', "x.jsonl"), "line 2")
    refused(write('{"a": 1}\n7\n', "x.jsonl"), "line 2")
    refused(write("[1, 2", "x.json"), "not valid JSON")
    refused(write('{"a": {"b": 1}}', "x.json"), "not a table")


def test_excel(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "x.xlsx"
    frame = pd.DataFrame(
        {"n": [1.5, None], "when": pd.to_datetime(["2024-01-31", "2024-02-29"]), "mix": [1, "two"], "gone": ["NA", "#REF!"]}
    )
    with pd.ExcelWriter(path) as book:
        frame.to_excel(book, sheet_name="one", index=False, startrow=2)
        frame[:1].to_excel(book, sheet_name="two", index=False)
        pd.DataFrame({"a": []}).to_excel(book, sheet_name="none", index=False)
    table = both(path)
    assert table.frame["n"][0] == 1.5 and table.frame["when"].dtype.kind == "M"
    assert table.frame["mix"].tolist() == ["1", "two"] and table.frame["gone"].isna().all()
    assert any("3 sheets" in w for w in table.warnings)
    assert load_table(path, sheet="two").rows == load_table(path, sheet=1).rows == 1
    refused(path, "no sheet 'tow'", "two", sheet="tow")
    refused(path, "no rows", sheet="none")


# -- databases -------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "duckdb", "sqlalchemy"])
def database(request, tmp_path):
    """A database with one table, as a URL."""
    frame = pd.DataFrame({"id": [1, 2, 3], "name": ["Ada", "Bob's", None], "sum": [1.5, None, 3.0]})
    path = tmp_path / "shop.db"
    if request.param == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        with closing(duckdb.connect(str(path))) as base:
            base.execute('CREATE TABLE "the sales" AS SELECT * FROM frame')
    else:
        with closing(sqlite3.connect(path)) as base:
            frame.to_sql("the sales", base, index=False)
    if request.param == "sqlalchemy":
        pytest.importorskip("sqlalchemy")
        return f"sqlite+pysqlite:///{path}", frame
    return f"{request.param}:///{path}", frame


def test_sql(database):
    url, frame = database
    for source in ("the sales", 'SELECT * FROM "the sales"', 'with t as (select * from "the sales") select * from t'):
        table = load_table(source, sql=url)
        pd.testing.assert_frame_equal(table.frame, frame)
    assert table.format == "sql" and table.fingerprint == load_table("the sales", sql=url).fingerprint
    assert [len(p) for p in read_chunks("the sales", sql=url, rows=2)] == [2, 1]
    refused("the sale", "no table 'the sale'", "Did you mean 'the sales'?", sql=url)
    refused('SELECT nothing FROM "the sales"', "the query failed", sql=url)
    refused('SELECT * FROM "the sales" WHERE id > 5', "no rows", sql=url)
    refused("", "no query", sql=url)


def test_sql_files_are_never_changed(database):
    url, _ = database
    path = Path(url.split(":///")[1])
    before = path.read_bytes()
    refused('DELETE FROM "the sales"', "would change", sql=url)
    refused('WITH t AS (SELECT 1) DELETE FROM "the sales"', sql=url)
    assert path.read_bytes() == before


def test_sql_urls(tmp_path, write):
    refused("t", "no such file", sql=f"sqlite:///{tmp_path / 'none.db'}")
    refused("t", "database", sql=str(write("a,b\n1,2\n")))
    refused("t", sql="nonsense://x/y")
    with pytest.raises(AimtError) as info:
        load_table("t", sql="postgresql://ada:secret@localhost:1/shop")
    assert "secret" not in str(info.value)
    with closing(sqlite3.connect(tmp_path / "x.db")) as base:
        base.execute("CREATE TABLE t AS SELECT 1 AS a")
        base.commit()
    assert load_table("t", sql=str(tmp_path / "x.db")).rows == 1
    refused(tmp_path / "x.db", "--sql")


def test_duckdb_reads_files_by_query(write):
    pytest.importorskip("duckdb")
    path = write("a,b\n1,2\n3,4\n")
    assert load_table(f"SELECT sum(a) AS s FROM '{path}'", sql=f"duckdb://?files={path.parent}").frame["s"].tolist() == [4]


def test_missing_extra_is_named(monkeypatch, tmp_path, write):
    import sys

    path = tmp_path / "x.xlsx"
    pytest.importorskip("openpyxl")
    pd.DataFrame({"a": [1]}).to_excel(path, index=False)
    for module in ("openpyxl", "duckdb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"aimt\[excel\]"):
        load_table(path)
    with pytest.raises(MissingExtraError, match=r"aimt\[sql\]"):
        load_table("SELECT 1", sql="duckdb://")


# -- DataFrames ------------------------------------------------------------------------------------


def test_frame_is_not_changed():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    table = load_table(frame)
    table.frame.loc[0, "a"] = 99
    assert frame["a"].tolist() == [1, 2]


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.csv.gz", "out.parquet", "out.jsonl"])
def test_nothing_half_written(tmp_path, name):
    frame = pd.DataFrame({"a": [1, 2]})
    with pytest.raises(KeyboardInterrupt):
        with open_writer(tmp_path / name) as out:
            out.write(frame)
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with open_writer(tmp_path / name) as out:
        out.write(frame)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert load_table(tmp_path / name).frame["a"].tolist() == [1, 2]


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, part in (
        (tmp_path / "x.docx", "cannot be written"),
        (tmp_path, "cannot be written"),
        (tmp_path / "file" / "x.csv", "in the way"),
    ):
        with pytest.raises(AimtError, match=part):
            open_writer(path)


@pytest.mark.skipif(os.name == "nt", reason="no limits on file size there")
@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet", "out.jsonl"])
def test_full_disk(tmp_path, name):
    import resource
    import signal

    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=200_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(AimtError, match="disk is full"):
            with open_writer(tmp_path / name) as out:
                for _ in range(3):
                    out.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


# -- data sets -------------------------------------------------------------------------------------


def test_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("AIMT_DATA", str(tmp_path))
    for name, entry in DATASETS.items():
        table = load_dataset(name)
        assert table.frame.shape == (entry.rows, entry.columns) and entry.licence and entry.source
        assert entry.problem["target"] in table.frame
    assert dataset_path("wine").parent == tmp_path
    (tmp_path / "wine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="Delete the file"):
        load_dataset("wine")
