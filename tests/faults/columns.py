"""Columns that tell nothing, that give the target away, or whose names are strange, missing or unknown."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from aimt.core.errors import DataError, ProblemError
from aimt.core.run import Run
from faults import inputs as bad
from faults.case import Group, Place, put
from faults.files import READ
from faults.values import ALIKE, same

columns = Group("columns")


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
columns.recovered("constant", "audit", ASIDE, with_new(lambda d: "Mannheim"), named("constant", aside=True))
columns.recovered("empty", "audit", ASIDE, with_new(lambda d: None), named("empty", aside=True))
columns.recovered("a counter of rows", "audit", ASIDE, with_new(lambda d: np.arange(len(d))), named("id", aside=True))
columns.recovered(
    "keys", "audit", ASIDE, with_new(lambda d: [f"{i * 7919 % 10007:05d}-QX" for i in range(len(d))]), named("id", aside=True)
)
columns.recovered(
    "a copy of another column", "audit", "Reported, with both names.", with_new(lambda d: d["charges"]), named("same columns")
)
columns.recovered(
    "another column in other units",
    "audit",
    "Reported, with both names.",
    with_new(lambda d: d["charges"] / 1.95583),
    named("same columns"),
)
LEAK = "Set aside as a leak, with the score with and without it."
columns.recovered("leak: the target recoded", "audit", LEAK, with_new(lambda d: np.where(LEFT(d), "C", "A")), scored, "leak: new")
columns.recovered(
    "leak: the target with 1 % errors", "audit", LEAK, with_new(lambda d: LEFT(d) ^ (np.arange(len(d)) % 100 == 7)), scored, "leak: new"
)
columns.recovered(
    "leak: a score made from the target",
    "audit",
    LEAK,
    with_new(lambda d: 2 * LEFT(d) + np.random.default_rng(4).normal(0, 0.3, len(d))),
    scored,
    "leak: new",
)
columns.recovered(
    "leak: filled in after the outcome",
    "audit",
    LEAK,
    with_new(lambda d: np.where(LEFT(d), np.random.default_rng(4).integers(10, 99, len(d)), 0)),
    scored,
    "leak: new",
)
columns.recovered(
    "leak: a date that only one outcome has", "audit", LEAK, with_new(lambda d: np.where(LEFT(d), "2024-03-05", None)), scored, "leak: new"
)
columns.recovered(
    "a million categories",
    "other",
    "Encoded in bounded time and memory; the encoder stays small.",
    lambda p: lambda: encode_levels(1_000_000),
    lambda found, p: found["shape"] == (1_000_000, 2) and found["bytes"] < 20_000 and found["cpu_seconds"] < 30,
)
columns.recovered(
    "3,000 columns",
    "other",
    "Encoded in bounded time.",
    lambda p: lambda: encode_columns(3000),
    lambda found, p: found["shape"] == (60, 3000) and found["cpu_seconds"] < 30,
)
columns.recovered(
    "20,000 columns",
    "train",
    "Trained within the time.",
    lambda p: wide(20_000),
    lambda run, p: len(run.predict(wide(20_000).head(3))) == 3,
    slow=True,
)
columns.recovered(
    "duplicate and empty names in a file",
    READ,
    "Made unique, with a warning.",
    put("x,x,,x.2, y ,x\n1,2,3,4,5,6\n"),
    lambda t, p: list(t) == ["x", "x.3", "Unnamed: 2", "x.2", " y ", "x.4"] and t.iloc[0].tolist() == [1, 2, 3, 4, 5, 6],
    "without a name",
)
columns.recovered(
    "duplicate names in a DataFrame",
    READ,
    "Made unique.",
    lambda p: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    lambda t, p: list(t) == ["a", "a.2"],
)
columns.recovered(
    "emoji, line breaks, formulas, SQL and HTML in names, and names that the library uses",
    "train",
    "Trained and predicted; no column is overwritten, and the report contains no foreign markup.",
    lambda p: hostile(),
    lambda run, p: harmless(run),
)
columns.recovered("another order at prediction", "predict", ALIKE, lambda p: bad.customers()[list(reversed(bad.customers().columns))], same)
columns.recovered(
    "an unknown column at prediction",
    "predict",
    "Not used, with a warning.",
    with_new(lambda d: 1),
    same,
    "not known from training and not used: new",
)
columns.refused(
    "a column missing at prediction",
    "predict",
    "The column is named.",
    lambda p: bad.customers().drop(columns="age"),
    DataError,
    "'age' is missing",
)
columns.refused(
    "a misspelt column at prediction",
    "predict",
    "The column and the closest name are named.",
    lambda p: bad.customers().rename(columns={"age": "Age"}),
    DataError,
    "'age' is missing",
    "Did you mean 'Age'?",
)
columns.refused(
    "an option names no column",
    "train",
    "The closest name is named.",
    lambda p: (bad.customers(), {"entity": "plann"}),
    ProblemError,
    "Did you mean 'plan'?",
)
columns.refused(
    "only keys are left",
    "train",
    "The error names the option that keeps them.",
    lambda p: pd.DataFrame({"key": [f"K{i}" for i in range(100)], "left": ["yes", "no"] * 50}),
    DataError,
    "--keep",
)


def encode_levels(n: int) -> dict[str, Any]:
    from aimt.data.table.features import FeatureEncoder
    from aimt.data.table.infer_schema import infer_schema

    start = time.process_time()
    frame = pd.DataFrame({"user": pd.Series([f"user {k}" for k in range(n)], dtype="str"), "x": np.arange(n) % 17})
    encoder = FeatureEncoder(infer_schema(frame), ["user", "x"]).fit(frame)
    return {
        "shape": encoder.transform(frame).shape,
        "bytes": len(json.dumps(encoder.to_state()[0])),
        "cpu_seconds": time.process_time() - start,
    }


def wide(n: int) -> pd.DataFrame:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, n)).astype("float32"), columns=[f"c{i}" for i in range(n)])
    return pd.concat([frame, pd.Series(np.where(frame["c7"] > 0, "yes", "no"), name="left")], axis=1)


def encode_columns(n: int) -> dict[str, Any]:
    from aimt.data.table.features import FeatureEncoder, dense
    from aimt.data.table.infer_problem import define_problem
    from aimt.data.table.infer_schema import infer_schema

    start, frame = time.process_time(), wide(n)
    problem, _ = define_problem(frame, target="left")
    encoder = FeatureEncoder(infer_schema(frame), problem.inputs).fit(frame)
    X = encoder.transform(frame)
    dense(encoder).fit(X).transform(X)
    return {"shape": X.shape, "cpu_seconds": time.process_time() - start}


NAMES = ["🙂 mood\n(today)", "=SUM(A1:A9)", "<script>alert(1)</script>", "x'; DROP TABLE t; --", "\u202eabc\x1b[31m", "left"]
OWN = ["(base)", "prediction", "probability", "decision", "row", "split", "index", "weight"]


def hostile() -> pd.DataFrame:
    frame = bad.customers().set_axis(NAMES, axis=1)
    return frame.assign(**{name: np.random.default_rng(i).integers(0, 9, bad.N) for i, name in enumerate(OWN)})


def harmless(run: Run) -> bool:
    page, given = run.file("report.html").read_text(), hostile()
    found = run.predict(given, quiet=True)
    kept = all(found[name].tolist() == given[name].tolist() for name in given)
    return kept and "<script>alert" not in page and "\x1b" not in page
