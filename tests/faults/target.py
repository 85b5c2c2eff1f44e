"""Targets that cannot be learned, or only in part."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from aimt.core.errors import AimtError, DataError, ProblemError
from faults import inputs as bad
from faults.case import Group, Place

target = Group("target")


def with_target(values: Any, **options: Any) -> Callable[[Place], Any]:
    return lambda place: (bad.numbers().assign(left=values), options)


target.refused(
    "not there",
    "train",
    "The closest name is named.",
    lambda p: (bad.customers(), {"target": "lefft"}),
    ProblemError,
    "no column 'lefft'",
    "Did you mean 'left'?",
)
target.refused("one class", "train", "The value is named.", with_target("no"), ProblemError, "same value in every row: 'no'")
target.refused(
    "no value",
    "train",
    "An error says so.",
    lambda p: [with_target(v)(p) for v in (None, np.nan, " ")],
    ProblemError,
    "no value in any row",
)
target.refused("0 rows", "train", "An error says so.", lambda p: bad.customers().head(0), AimtError, "no rows")
target.refused("1 row", "train", "The number of rows is named.", lambda p: bad.customers().head(1), AimtError, "1 row")
target.refused(
    "a class with a single row, of two",
    "train",
    "The class is named.",
    with_target(["yes"] + ["no"] * (bad.N - 1)),
    AimtError,
    "'yes'",
    "1 row",
)
target.recovered(
    "a class with a single row, of four",
    "define",
    "Left out with a note.",
    with_target(["red", "green", "blue"] * (bad.N // 3 - 1) + ["red", "green", "mauve"]),
    lambda found, p: found["problem"].labels == ["blue", "green", "red"] and found["kept"].sum() == bad.N - 1,
    "'mauve'",
)
target.refused(
    "a different text in every row",
    "train",
    "The number of texts is named.",
    with_target([f"C{k:05d}" for k in range(bad.N)]),
    AimtError,
    "240 different texts",
)
target.refused(
    "10,000 classes",
    "train",
    "The number of classes is named.",
    lambda p: bad.numbers(20_000).assign(left=[f"k{i % 10_000}" for i in range(20_000)]),
    AimtError,
    "10,000",
)
target.refused("a date", "train", "An error says so.", lambda p: (bad.customers(), {"target": "joined"}), ProblemError, "is a date")
target.recovered(
    "8 positive rows of 3,000",
    "train",
    "Trained; the audit reports that the class is rare.",
    lambda p: rare(),
    lambda run, p: "few of a class" in {f["check"] for f in run.read("audit.json")["findings"]} and len(run.predict(rare().head(5))) == 5,
)
target.refused(
    "1 positive row of 1,000,000",
    "train",
    "Refused: a class with one row can be learned or tested, not both.",
    lambda p: one_in_a_million(1_000_000),
    AimtError,
    slow=True,
)
target.recovered(
    "4 positive rows of 4,000,000",
    "train",
    "Trained; verdict NOT YET or HOLD, because so few cannot prove anything; the audit reports that the class is rare.",
    lambda p: (one_in_a_million(4_000_000), {"time_limit": 60}),
    lambda run, p: (
        run.read("metrics.json")["verdict"]["verdict"] != "SHIP"
        and "few of a class" in {f["check"] for f in run.read("audit.json")["findings"]}
    ),
    slow=True,
)
target.recovered(
    "some values missing",
    "define",
    "These rows are left out, with a count.",
    with_target(np.where(np.arange(bad.N) < 9, None, bad.numbers()["left"])),
    lambda found, p: len(found["y"]) == bad.N - 9,
    "9 of 240 rows",
)
target.recovered(
    "classes that are fractions",
    "define",
    "Classes, if the task says so.",
    with_target((bad.numbers()["x0"] * 1.2).round().clip(-1, 1) + 1.5, task="multiclass"),
    lambda found, p: set(found["problem"].labels) == {"0.5", "1.5", "2.5"},
)
target.recovered(
    "numbers as text, one of them unreadable",
    "define",
    "Regression; the row is left out, with a count.",
    with_target(["n/a, ask Bob", *bad.numbers()["x0"].round(3).astype(str)[1:]], task="regression"),
    lambda found, p: found["problem"].task == "regression" and found["kept"].sum() == bad.N - 1,
    "1 of 240 rows",
)
target.refused(
    "all rows alike",
    "train",
    "The error says that no column is left.",
    lambda p: pd.DataFrame({"x": np.ones(200), "z": ["a"] * 200, "left": [0, 1] * 100}),
    DataError,
    "no column is left",
)
target.recovered(
    "contradictory copies of a few rows",
    "train",
    "Verdict HOLD or NOT YET; the audit counts the rows.",
    lambda p: contradictory(),
    lambda run, p: (
        run.read("metrics.json")["verdict"]["verdict"] != "SHIP"
        and any("contradict" in f["check"] + f["evidence"] for f in run.read("audit.json")["findings"])
    ),
)
target.recovered(
    "an unknown class at evaluation",
    "evaluate",
    "These rows are left out, with a count.",
    lambda p: bad.customers().assign(left=np.where(np.arange(bad.N) < 7, "perhaps", bad.customers()["left"])),
    lambda found, p: found["rows"]["scored"] == bad.N - 7 and found["rows"]["unknown"] == {"perhaps": 7},
)
target.refused(
    "not there at evaluation", "evaluate", "The column is named.", lambda p: bad.customers().drop(columns="left"), AimtError, "'left'"
)


def rare() -> pd.DataFrame:
    frame = bad.numbers(3_000, 2)
    positive = np.argsort(-frame["x0"].to_numpy())[:8]
    return frame.assign(left=np.where(np.isin(np.arange(3_000), positive), "yes", "no"))


def contradictory() -> pd.DataFrame:
    few = pd.DataFrame({"a": np.arange(12) % 4, "b": np.arange(12) // 4, "c": np.arange(12) % 3})
    frame = pd.concat([few] * 20, ignore_index=True)
    return frame.assign(left=np.random.default_rng(0).choice(["yes", "no"], len(frame)))


def one_in_a_million(n: int) -> pd.DataFrame:
    frame = pd.DataFrame({"x0": np.random.default_rng(0).normal(size=n).astype(np.float32), "x1": np.arange(n) % 97})
    return frame.assign(left=np.where(np.arange(n) % 1_000_000 == 499_999, "yes", "no"))
