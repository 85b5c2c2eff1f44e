"""A query can come from anybody: it reads one table, and nothing else happens, to the database or beside it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aimt.core.errors import AimtError, DataError
from aimt.data.io.load import load_table
from aimt.data.io.sql import check_reads, read_sql

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a SQLite and a DuckDB database, a CSV file and a secret."""
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("shop.db")) as base:
        base.executescript("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'); CREATE VIEW v AS SELECT a FROM t")
    with closing(duckdb.connect("shop.duckdb")) as base:
        base.execute("CREATE TABLE t AS SELECT 1 AS a UNION ALL SELECT 2; CREATE VIEW peek AS SELECT * FROM read_text('secret.txt')")
    Path("t.csv").write_text("a,b\n1,2\n")
    Path("secret.txt").write_text("secret")
    return tmp_path


def state(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


READS = {
    "sqlite:///shop.db": [
        "t",
        "v",
        "SELECT * FROM t",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x;",
        "VALUES (1)",
        "PRAGMA table_info('t')",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT upper('a'), i FROM n",
    ],
    "duckdb:///shop.duckdb": [
        "t",
        "SELECT * FROM t",
        "FROM t",
        "SHOW TABLES",
        "DESCRIBE t",
        "PRAGMA table_info('t')",
        "VALUES (1)",
        "SELECT * FROM range(3);",
    ],
    "duckdb://?files=.": ["SELECT * FROM 't.csv'", "SELECT * FROM read_csv('t.csv')", "SELECT 1 AS a"],
}
WRITES = {
    "sqlite:///shop.db": [
        "ATTACH 'new.db' AS x",
        "VACUUM INTO 'new.db'",
        "SELECT 1; DROP TABLE t",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = 1",
        "PRAGMA user_version = 3",
        "SELECT load_extension('x')",
        "-- \nATTACH 'new.db' AS x",
        "/* */ INSERT INTO t VALUES (1, 2)",
        "CREATE TEMP TABLE x AS SELECT 1",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 2",
        "REPLACE INTO t VALUES (1, 2)",
    ],
    "duckdb:///shop.duckdb": [
        "COPY t TO 'new.csv'",
        "SELECT 1; COPY t TO 'new.csv'",
        "ATTACH 'new.db'",
        "EXPORT DATABASE 'new'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM 't.csv'",
        "SELECT * FROM read_text('secret.txt')",
        "FROM read_blob('secret.txt')",
        "SELECT * FROM glob('*')",
        "SELECT * FROM peek",
        "PRAGMA import_database('new')",
        "SELECT * FROM read_csv('https://example.org/t.csv')",
        "SELECT * FROM read_csv('s3://bucket/t.csv')",
        "EXPLAIN ANALYZE COPY t TO 'new.csv'",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT 3",
        "CALL enable_logging()",
        "SELECT * FROM enable_logging(storage='file', storage_config={'path': 'new'})",
        "CREATE TABLE x AS SELECT 1",
        "SELECT * FROM query('COPY t TO ''new.csv''')",
        "PRAGMA enable_profiling",
    ],
    "duckdb://?files=sub": [
        "SELECT * FROM read_text('secret.txt')",
        "SELECT * FROM read_text('sub/../secret.txt')",
        "SELECT * FROM '/etc/hosts'",
    ],
    "duckdb://?files=.": [
        "COPY (SELECT 1) TO 'new.csv'",
        "SELECT 1; COPY (SELECT 1) TO 'new.csv'",
        "ATTACH 'new.db'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM enable_logging(storage='file', storage_config={'path': 'new'})",
        "LOAD httpfs",
    ],
}


@pytest.mark.parametrize(("url", "query"), [(u, q) for u, queries in READS.items() for q in queries])
def test_what_reads_is_answered_and_leaves_no_trace(place, url, query):
    before = state(place)
    assert read_sql(query, url)[0].num_rows >= 1
    assert state(place) == before


@pytest.mark.parametrize(("url", "query"), [(u, q) for u, queries in WRITES.items() for q in queries])
def test_what_does_more_is_refused_and_leaves_no_trace(place, url, query):
    (place / "sub").mkdir()
    before = state(place)
    with pytest.raises(DataError) as error:
        read_sql(query, url)
    assert "\n" not in str(error.value) and "secret" not in str(error.value).replace("secret.txt", "")
    assert state(place) == before


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///slip.db",
        "sqlite+pysqlite:///slip.db",
        "SQLITE:///slip.db",
        "sqlite://slip.db",
        "sqlite:slip.db",
        "slip.db",
        "sqlite:////no/such/slip.db",
        "sqlite:///slip.db?mode=rwc",
        "sqlite:///file:slip.db?mode=rwc&uri=true",
        "duckdb:///slip.db",
        "DuckDB:///slip.db",
        "duckdb+x:///slip.db",
        "duckdb:///slip.db?access_mode=READ_WRITE",
    ],
)
def test_a_slip_in_an_address_creates_nothing(place, url):
    before = state(place)
    with pytest.raises(AimtError):
        load_table("SELECT 1 AS a", sql=url)
    assert state(place) == before


def test_a_reader_leaves_nothing_beside_a_database_in_wal_mode(place):
    with closing(sqlite3.connect("shop.db")) as base:
        base.execute("PRAGMA journal_mode = WAL")
    assert read_sql("SELECT a FROM t", "sqlite:///shop.db")[0].num_rows == 2
    assert not list(place.glob("shop.db-*"))
    with closing(sqlite3.connect("shop.db")) as base:  # a writer is at work: what it has committed is seen
        base.execute("INSERT INTO t VALUES (3, 'z')")
        base.commit()
        assert read_sql("SELECT a FROM t", "sqlite:///shop.db")[0].num_rows == 3


def test_duckdb_sees_no_variable_and_spills_into_no_folder_of_the_person(place):
    hidden = {"a": [1]}  # noqa: F841
    with pytest.raises(DataError):
        read_sql("SELECT * FROM hidden", "duckdb://")
    query = "SELECT count(DISTINCT (i * 7919) % 1000003) AS n FROM range(3000000) t(i)"
    assert read_sql(query, "duckdb://")[0].num_rows == 1
    assert not (place / ".tmp").exists()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; DROP TABLE t",
        "SELECT 1;;DROP TABLE t",
        "SELECT 'a\\'; DROP TABLE t; -- '",
        "SELECT 1 /*!; DROP TABLE t */",
        "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
        "SELECT a INTO OUTFILE 'x' FROM t",
        "SELECT a FROM t FOR UPDATE",
        "SELECT 1 AS $$; DROP TABLE t; SELECT 2 AS $$",
        "SELECT 1 --1; DROP TABLE t",
        "SELECT 1 /* /* */ ; DROP TABLE t */",
    ],
)
@pytest.mark.parametrize("dialect", ["mysql", "mssql", "oracle", ""])
def test_servers_get_one_statement_that_reads(query, dialect):
    with pytest.raises(DataError):
        check_reads(query, dialect)


@pytest.mark.parametrize(
    ("query", "dialect"),
    [
        ("SELECT ';' AS a, \"update\", replace(b, 'delete', '') FROM t WHERE c = 'it''s; into' -- ; drop\n;", "postgresql"),
        ("SELECT $x$;drop$x$, `insert` FROM t", "postgresql"),
        ("SELECT [delete], a FROM t", "mssql"),
        ("SELECT updated_at, dropped FROM t", "mssql"),
    ],
)
def test_honest_queries_are_let_through(query, dialect):
    check_reads(query, dialect)


def test_sqlalchemy_reads_and_closes(place):
    pytest.importorskip("sqlalchemy")
    from aimt.data.io.sql import _read_sqlalchemy

    url = f"sqlite:///{place}/shop.db"
    assert _read_sqlalchemy("SELECT a FROM t WHERE b <> ':x %s'", url).to_pylist() == [{"a": 1}, {"a": 2}]
    assert _read_sqlalchemy("v", url).num_rows == 2
    for query in ("SELECT 1; DROP TABLE t", "SELECT 1 DROP TABLE t"):
        with pytest.raises(DataError):
            _read_sqlalchemy(query, url)


@pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
def test_a_database_that_may_not_be_written_is_read(place):
    (place / "shop.db").chmod(0o400)
    (place / "shop.duckdb").chmod(0o400)
    for url in ("sqlite:///shop.db", "duckdb:///shop.duckdb"):
        assert read_sql("SELECT a FROM t", url)[0].num_rows == 2


def test_a_query_with_a_password_is_shown_without_it(place):
    table = load_table(
        "SELECT a, 'token=abcdefgh' AS b FROM t WHERE 'postgresql://u:s3cretpw@h/x' <> ''", sql="sqlite:///shop.db?password=s3cretpw"
    )
    assert "s3cretpw" not in table.source


@pytest.mark.parametrize("password", ["tr@de-secret", "se@cr@et-word", "half/other-half", "half:other-half", "first#second", "a@b"])
def test_a_driver_that_cuts_a_password_shows_no_piece_of_it(password):
    """A sign that ought to be encoded ends the password for some drivers, and the rest counts as the host, which they name."""
    from aimt.data.io.sql import _query_error

    for cut in "@/:#":
        for piece in password.split(cut):
            for text in (f"failed to resolve host '{piece}@10.0.0.1'", f'could not translate host name "{piece}" to address'):
                said = str(_query_error(OSError(text), f"postgresql://me:{password}@10.0.0.1:5432/shop"))
                assert piece not in said.replace("10.0.0.1", "").replace("failed", "").replace("address", "") or len(piece) < 4, said
                assert f"{piece}@" not in said
