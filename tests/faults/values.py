"""Values of any type and storage: the same predictions whichever way they are stored, and a count where they cannot be used."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aimt.core.run import Run
from aimt.data.io.load import load_table
from faults import inputs as bad
from faults.case import Group, Place, score
from faults.files import READ

values = Group("values")


def same(found: pd.DataFrame, place: Place, rows: slice = slice(None)) -> bool:
    """Whether the predictions are those for the table as it was."""
    return bool(np.allclose(found["probability"][rows], place.shared.expected["probability"][rows], rtol=0, atol=1e-12))


def stored(column: str, how: Callable[[pd.Series], Any]) -> Callable[[Place], pd.DataFrame]:
    return lambda place: bad.customers().assign(**{column: how(bad.customers()[column])})


def in_zones(dates: pd.Series) -> list[str]:
    """The same instants as text, each third one in another time zone."""
    zones = ("UTC", "Asia/Tokyo", "America/Lima")
    return [t.tz_convert(zones[i % 3]).isoformat() for i, t in enumerate(pd.to_datetime(dates, utc=True))]


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
    ("nullable Int64", "age", lambda s: s.astype("Int64")),
    ("float32", "age", lambda s: s.astype("float32")),
    ("int8", "age", lambda s: s.astype("int8")),
    ("Arrow", "charges", lambda s: s.astype("double[pyarrow]")),
    ("Decimal", "charges", lambda s: [Decimal(str(v)) for v in s]),
    ("text", "charges", lambda s: s.astype(str)),
    ("text with spaces", "charges", lambda s: " " + s.astype(str) + " "),
    ("bool objects", "paperless", lambda s: s.astype(bool).astype(object)),
    ("booleans", "paperless", lambda s: s.astype(bool)),
    ("categorical", "plan", lambda s: s.astype("category")),
    ("Arrow text", "plan", lambda s: s.astype("string[pyarrow]")),
    ("bytes", "plan", lambda s: [v.encode() for v in s]),
    ("dates as datetimes", "joined", pd.to_datetime),
    ("dates with a time zone", "joined", lambda s: pd.to_datetime(s).dt.tz_localize("UTC")),
    ("dates in several time zones", "joined", lambda s: in_zones(s)),
):
    values.recovered(f"{column} stored as {kind}", "predict", ALIKE, stored(column, how), same)
values.recovered("numbers with decimal commas in a file", "predict", ALIKE, as_file("new.csv", sep=";", decimal=","), same)
values.recovered("the table as Parquet", "predict", ALIKE, as_file("new.parquet"), same)
values.recovered("an index that is no counter", "predict", ALIKE, lambda p: bad.customers().set_axis([f"r{i}" for i in range(bad.N)]), same)
values.recovered(
    "negative zero",
    "predict",
    "The same predictions as for zero.",
    lambda p: [changed("paperless", slice(9), v)(p) for v in (0.0, -0.0)],
    lambda t, p: t["probability"].tolist() == p.notes.setdefault("zero", t["probability"].tolist()),
)
MISSING = [np.nan, None, "", "NA", "NaN", pd.NA, "  ", "null"]
values.recovered(
    "NaN, None, '', 'NA', 'null' for missing",
    "predict",
    "All are missing, with the same predictions and no warning.",
    lambda p: [changed("charges", slice(20), v)(p) for v in MISSING],
    lambda t, p: t["probability"].tolist() == p.notes.setdefault("missing", t["probability"].tolist()) and same(t, p, slice(20, None)),
)
values.recovered(
    "infinite numbers",
    "predict",
    "Counted as missing, with a warning.",
    lambda p: [changed("charges", slice(20), v)(p) for v in (np.inf, -np.inf)],
    lambda t, p: same(changed_score(p, "charges", np.nan), p, slice(20, None)) and t["probability"].tolist() == p.notes["score"],
    "20 values in 'charges' are infinite",
)
values.recovered(
    "1e308 and denormal numbers",
    "predict",
    "Finite predictions, and a warning that they are far outside.",
    lambda p: [changed("charges", slice(20), v)(p) for v in (1e308, -1e308)],
    lambda t, p: np.isfinite(t["probability"]).all() and same(t, p, slice(20, None)),
    "charges",
)
values.recovered(
    "denormal numbers",
    "predict",
    "Finite predictions.",
    changed("charges", slice(20), 5e-324),
    lambda t, p: np.isfinite(t["probability"]).all() and same(t, p, slice(20, None)),
)
values.recovered(
    "a column without any value",
    "predict",
    "Predicted as missing, with a warning.",
    changed("charges", slice(None), None),
    lambda t, p: np.isfinite(t["probability"]).all(),
    "'charges' has no value in any of these 240 rows",
)
values.recovered(
    "words among numbers",
    "predict",
    "Counted as missing, with a warning and an example.",
    changed("charges", slice(3), "ask Bob"),
    lambda t, p: same(t, p, slice(3, None)),
    "3 values in 'charges' are not readable as number",
)
values.recovered(
    "numbers, text and dates in one column",
    "predict",
    "What is no number is missing, with a count.",
    changed("charges", slice(4), ["12", "x", pd.Timestamp("2024-01-01"), 3 + 4j]),
    lambda t, p: same(t, p, slice(4, None)),
    "3 values in 'charges' are not readable as number",
)
values.recovered(
    "an unknown category",
    "predict",
    "Predicted as any unknown one, with a count.",
    changed("plan", slice(7), "gold\n🙂"),
    lambda t, p: same(t, p, slice(7, None)),
    "7 values in 'plan' are of a category never seen",
)
values.recovered(
    "lists and objects in cells",
    "predict",
    "An unknown category, with a count.",
    changed("plan", slice(2), pd.Series([[1, 2], {"a": 1}]).to_numpy()),
    lambda t, p: same(t, p, slice(2, None)),
    "2 values in 'plan' are of a category never seen",
)
values.recovered(
    "dates before 1678 and after 2261",
    "predict",
    "Counted as missing, with a warning.",
    changed("joined", slice(2), ["0001-01-01", "9999-12-31"]),
    lambda t, p: same(t, p, slice(2, None)),
    "outside",
)
values.recovered(
    "dates before 1900",
    "predict",
    "Read, with a warning that they are outside the range of training.",
    changed("joined", slice(2), ["1850-01-01", "1812-06-24"]),
    lambda t, p: same(t, p, slice(2, None)),
    "joined",
)
values.recovered(
    "every type of a DataFrame",
    READ,
    "Plain types, all documented; bytes that are no text are left out with a note.",
    lambda p: odd_types(),
    lambda t, p: plain_types(t),
    "bytes",
)
values.recovered(
    "every type, in training and in three kinds of files",
    "train",
    "Infinite is missing, with a note; the same predictions from a DataFrame, CSV and Parquet.",
    lambda p: trainable(p),
    lambda run, p: alike_in_files(run, p),
    "infinite",
)


def changed_score(place: Place, column: str, value: Any) -> pd.DataFrame:
    found = score(place, changed(column, slice(20), value)(place)).value
    place.notes["score"] = found["probability"].tolist()
    return found


def odd_types() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "Int64": pd.array([1, None], "Int64"),
            "string": pd.array(["a", None], "string"),
            "category": pd.Categorical([1, 2]),
            "object": pd.Series(["x", None], dtype=object),
            "mixed": pd.Series([1, "x"], dtype=object),
            "bytes": [b"\xff", b"a"],
            "period": pd.period_range("2024-01", periods=2, freq="M"),
            "zone": pd.date_range("2024", periods=2, tz="Asia/Tokyo"),
            "sparse": pd.arrays.SparseArray([0.0, 1.0]),
            "complex": [1j, 2],
            "wait": pd.to_timedelta(["1h", None]),
            "list": [[1], None],
            "arrow": pd.Series([1.5, None], dtype="double[pyarrow]"),
            "truth": pd.Series([True, None], dtype=object),
            "decimal": [Decimal("1.5"), None],
        }
    )
    frame[7] = [1, 2]
    return frame.set_index(pd.Index(["r", "s"], name="key"))


def plain_types(frame: pd.DataFrame) -> bool:
    kinds = set(frame.dtypes.astype(str))
    return (
        kinds <= {"float64", "int64", "str", "boolean", "datetime64[us]", "datetime64[ns]"}
        and "bytes" not in frame
        and frame["decimal"][0] == 1.5
        and list(frame)[-1] == "7"
    )


def trainable(place: Place) -> pd.DataFrame:
    """Customers, and a column of every odd kind."""
    frame, rng = bad.customers(), np.random.default_rng(2)
    odd = {
        "empty": np.nan,
        "infinite": np.where(rng.random(bad.N) < 0.05, np.inf, rng.normal(size=bad.N)),
        "huge": rng.choice([1e308, -1e308, 0.0], bad.N),
        "tiny": rng.choice([5e-324, 1e-310, -0.0], bad.N),
        "mixed": pd.Series(rng.choice(np.array([1, "x", 2.5, None, "2024-01-01"], dtype=object), bad.N)),
        "nested": pd.Series([[1, 2], {"a": 1}, [], "x"] * (bad.N // 4)),
        "nullable": pd.array([1, None, 3] * (bad.N // 3), "Int64"),
        "decimal": [Decimal(i % 7) / 4 for i in range(bad.N)],
        "complex": rng.normal(size=bad.N) + 1j,
        "old": pd.Series(["1812-06-24", "2301-01-01", "1950-05-05"] * (bad.N // 3)),
    }
    place.notes["frame"] = frame.assign(**odd)
    return place.notes["frame"]


def alike_in_files(run: Run, place: Place) -> bool:
    frame = load_table(place.notes["frame"]).frame
    frame.to_csv(place.path / "x.csv", index=False)
    frame.to_parquet(place.path / "x.parquet")
    found = [
        run.predict(source, quiet=True)["probability"].to_numpy()
        for source in (place.notes["frame"], frame, place.path / "x.csv", place.path / "x.parquet")
    ]
    return all(np.allclose(found[0], other, rtol=0, atol=1e-12) for other in found[1:])
