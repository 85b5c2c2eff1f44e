"""Each verb reads each form of a table in memory through one function, and names the type of anything else."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import aimt
from aimt.core.errors import AimtError, DataError
from aimt.core.run import Run
from aimt.data.io.append_columns import extend_table
from aimt.data.io.chunks import read_chunks
from aimt.data.io.load import load_table
from aimt.data.io.memory import as_frame
from aimt.evaluate.table.population_weights import read_population
from aimt.jobs.families.base import find_family
from aimt.jobs.shared import pipeline
from aimt.jobs.steps.series import forecast_ahead

pytestmark = pytest.mark.usefixtures("no_drawing")


class OnlyArrow:
    """A library that offers nothing but the Arrow PyCapsule interface."""

    def __init__(self, table: pa.Table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class OnlyInterchange:
    """A library that offers nothing but the dataframe interchange protocol."""

    def __init__(self, table: pa.Table):
        self.table = table

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True):
        return self.table.__dataframe__(nan_as_null, allow_copy)


def rows(n: int = 160, seed: int = 0) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    x, city = rng.normal(size=n), rng.choice(["Bonn", "Köln", "Ulm"], n)
    bought = np.where(x + (city == "Ulm") + rng.normal(scale=0.5, size=n) > 0.3, "yes", "no")
    return {"x": x.tolist(), "city": city.tolist(), "visits": rng.integers(0, 9, n).tolist(), "bought": bought.tolist()}


FORMS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "polars lazy": lambda columns: pl.DataFrame(columns).lazy(),
    "arrow table": pa.table,
    "arrow batch": lambda columns: pa.RecordBatch.from_pydict(columns),
    "arrow stream": lambda columns: pa.table(columns).to_reader(),
    "capsule": lambda columns: OnlyArrow(pa.table(columns)),
    "interchange": lambda columns: OnlyInterchange(pa.table(columns)),
    "duckdb": lambda columns: _duckdb(pa.table(columns)),
    "columns": dict,
    "arrays": lambda columns: {name: np.array(values) for name, values in columns.items()},
    "records": lambda columns: pa.table(columns).to_pylist(),
}
WRONG: dict[str, tuple[Any, str]] = {
    "number": (5, "int"),
    "bytes": (b"table.csv", "bytes"),
    "array": (np.zeros((3, 2)), "numpy.ndarray"),
    "series": (pd.Series([1, 2]), "pandas.Series"),
    "polars series": (pl.Series([1, 2]), "polars.Series"),
    "rows": ([[1, 2], [3, 4]], "list"),
    "generator": (iter([{"a": 1}]), "list_iterator"),
}
form = pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
wrong = pytest.mark.parametrize(("source", "named"), WRONG.values(), ids=WRONG)


def _duckdb(table: pa.Table) -> Any:
    return duckdb.connect().from_arrow(table)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    place = tmp_path_factory.mktemp("run") / "run"
    return aimt.train(pl.DataFrame(rows()), target="bought", out=place, time_limit=1, quiet=True)


# --- each form --------------------------------------------------------------------------------------------------------


@form
def test_the_same_table(make, tmp_path):
    table = load_table(make(rows()))
    expected = load_table(pd.DataFrame(rows()))
    pd.testing.assert_frame_equal(table.frame, expected.frame)
    assert (table.fingerprint, table.format) == (expected.fingerprint, "frame")
    pd.testing.assert_frame_equal(pd.concat(read_chunks(make(rows()), rows=70), ignore_index=True), expected.frame)
    assert extend_table(make(rows()), tmp_path / "out.csv", lambda frame: {"new": frame["x"] * 2}) == 160


def used(run: Run, make, out) -> dict[str, Any]:
    """What the verbs that use a run say of one form."""
    new = rows(40, seed=1)
    written = run.predict(make(new), out=out, quiet=True)
    return {
        "predict": aimt.predict(run, make(new), quiet=True).to_dict(),
        "written": written.read_text(encoding="utf-8"),
        "evaluate": aimt.evaluate(run, make(new))["table"],
        "explain": aimt.explain(run, make(new), rows="0,3"),
    }


def looked_at(make, out) -> dict[str, Any]:
    """What the verbs that need no run say of one form."""
    scored = rows() | {"p": [0.9 if b == "yes" else 0.2 for b in rows()["bought"]]}
    judged = aimt.judge(make(scored), actual="bought", probability="p", training=make(rows(seed=1)), out=out, quiet=True)
    return {
        "audit": aimt.audit(make(rows()), target="bought", quiet=True)["findings"],
        "judge": (judged.info["data"]["fingerprint"], judged.read("metrics.json")["verdict"]),
    }


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory) -> dict[str, Any]:
    """What they say of a pandas DataFrame."""
    folder = tmp_path_factory.mktemp("expected")
    return used(run, pd.DataFrame, folder / "out.csv") | looked_at(pd.DataFrame, folder / "judged")


@form
def test_verbs_that_use_a_run(make, run, expected, tmp_path):
    found = used(run, make, tmp_path / "out.csv")
    assert found == {name: expected[name] for name in found}


@form
def test_verbs_that_need_no_run(make, expected, tmp_path):
    found = looked_at(make, tmp_path / "judged")
    assert found == {name: expected[name] for name in found}


@form
@pytest.mark.parametrize("kind", ["table", "series", "finetune", "judge"])
def test_kinds_are_given_a_dataframe(make, kind, monkeypatch):
    taken = []
    monkeypatch.setattr(pipeline, "train_kind", lambda kind, source, options: taken.append((kind.name, source)))
    aimt.train(make(rows()), kind=kind)
    assert taken[0][0] == kind
    pd.testing.assert_frame_equal(taken[0][1], pd.DataFrame(rows()))


@form
def test_other_tables(make):
    texts = {"text": ["good", "bad"] * 5, "label": ["yes", "no"] * 5}
    pairs = find_family("bert").read(make(texts))
    assert pairs["target"].tolist() == texts["label"]
    shares = {"column": ["city"] * 2, "value": ["Bonn", "Ulm"], "share": [0.25, 0.75]}
    if not isinstance(make(shares), dict):  # a dict says column -> value -> share
        assert read_population(make(shares)) == {"city": {"Bonn": 0.25, "Ulm": 0.75}}


def test_compact_takes_the_table_again(run, tmp_path):
    assert aimt.compact(run, data=pl.DataFrame(rows()).lazy(), members=1, out=tmp_path / "small", quiet=True).status == "done"


def test_forecast_and_what_is_known_ahead(tmp_path):
    n = 80
    table = {"day": [str(d.date()) for d in pd.date_range("2024-01-01", periods=n)], "price": [float(i % 7) for i in range(n)]}
    table["sold"] = [20 + 3 * p + (i % 5) for i, p in enumerate(table["price"])]
    done = aimt.train(
        pl.DataFrame(table),
        kind="series",
        target="sold",
        time="day",
        known_covariates="price",
        horizon=3,
        out=tmp_path / "run",
        time_limit=5,
        quiet=True,
    )
    ahead = {"day": [str(d.date()) for d in pd.date_range("2024-03-21", periods=3)], "price": [1.0, 2.0, 3.0]}
    expected = forecast_ahead(done, future=pd.DataFrame(ahead))
    for make in (pl.DataFrame, pa.table, dict):
        pd.testing.assert_frame_equal(forecast_ahead(done, future=make(ahead)), expected)
        assert len(aimt.predict(done, make(ahead), quiet=True)) == 3


def test_an_estimator_knows_the_names_of_the_columns():
    columns = rows()
    y = columns.pop("bought")
    model = aimt.TabularClassifier(time_limit=1, n_repeats=1).fit(pl.DataFrame(columns), y)
    assert list(model.feature_names_in_) == list(columns)
    np.testing.assert_array_equal(model.predict(pa.table(columns)), model.predict(pd.DataFrame(columns)))


# --- what a table may hold --------------------------------------------------------------------------------------------


def test_types_of_polars():
    frame = pl.DataFrame(
        {
            "whole": [1, None],
            "day": pd.to_datetime(["2024-01-01", "2024-02-01"]),
            "level": pl.Series(["a", "b"], dtype=pl.Categorical),
            "size": pl.Series(["s", "l"], dtype=pl.Enum(["s", "l"])),
            "list": [[1, 2], [3]],
            "text": ["Ä", None],
            "true": [True, None],
            "price": pl.Series(["1.50", "2.25"]).cast(pl.Decimal(10, 2)),
        }
    )
    found = load_table(frame).frame
    expected = load_table(frame.to_arrow().to_pandas()).frame
    assert found["level"].tolist() == ["a", "b"] and found["size"].tolist() == ["s", "l"] and found["price"].tolist() == [1.5, 2.25]
    assert found["list"].tolist() == ["[1, 2]", "[3]"] and found["whole"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(found.drop(columns="list"), expected.drop(columns="list"), check_dtype=False)


def test_what_is_changed_is_reported():
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([b"\xff"])], names=["a", "a", "raw"])
    told = " ".join(load_table(twice).warnings)
    assert "'a.2'" in told and "raw bytes: 'raw'" in told


def test_identifiers_stay_whole():
    found = load_table([{"who": 2**60 + 1}, {"who": 2**60 + 2}, {}]).frame["who"]
    assert found[0] != found[1] and found.isna()[2]


def test_a_lazy_query_runs_once():
    seen = []
    lazy = pl.DataFrame(rows()).lazy().map_batches(lambda frame: seen.append(1) or frame)
    aimt.audit(lazy, quiet=True)
    assert len(seen) == 1


def test_polars_is_not_imported():
    code = "import sys, aimt; aimt.load_table({'a': [1]}); print('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# --- anything else ----------------------------------------------------------------------------------------------------


@wrong
def test_the_type_is_named(source, named, run, tmp_path):
    out = {"out": tmp_path / "never", "quiet": True}
    verbs = [
        lambda: aimt.train(source, **out),
        lambda: aimt.train(source, kind="text", **out),
        lambda: aimt.train(source, kind="series", **out),
        lambda: aimt.finetune("bert", source, model=tmp_path, **out),
        lambda: aimt.judge(source, actual="bought", probability="p", **out),
        lambda: aimt.judge(pd.DataFrame(rows()), actual="bought", prediction="city", training=source, **out),
        lambda: aimt.audit(source, quiet=True),
        lambda: aimt.predict(run, source),
        lambda: aimt.evaluate(run, source),
        lambda: aimt.explain(run, source),
        lambda: aimt.compact(run, data=source, members=1, **out),
        lambda: aimt.plan(source),
        lambda: aimt.load_table(source),
        lambda: run.predict(source),
    ]
    for verb in verbs:
        with pytest.raises(DataError, match=named):
            verb()
    for verb in (lambda: aimt.compare(run, source), lambda: aimt.predict(source, rows())):
        with pytest.raises(AimtError, match=named.rpartition(".")[2]):
            verb()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"a": [1, 2], "b": [1]}, "'b' has 1 rows, and 'a' has 2"),
        ({"a": 1, "b": "x"}, "'a' is of type int"),
        ({}, "no columns"),
        ([], "no columns"),
        ([{}], "no columns"),
        (pl.DataFrame({"a": []}), "no rows"),
        (pl.DataFrame({"a": [1]}).lazy().select("b"), "polars.LazyFrame cannot be read"),
    ],
)
def test_tables_that_cannot_be_read(source, said):
    with pytest.raises(DataError, match=said):
        load_table(source)


def test_a_text_is_not_a_table():
    for verb in (aimt.plan, lambda source: aimt.train(source, kind="text", quiet=True)):
        with pytest.raises(AimtError, match="is not a text|a text model needs a text file"):
            verb(pl.DataFrame(rows()))


def test_a_dataframe_is_not_copied():
    frame = pd.DataFrame(rows())
    assert as_frame(frame) is frame
