"""Rows that belong together, and must not be on both sides of a split."""

from typing import Any

import numpy as np
import pandas as pd

from aimt.core.errors import AimtError, DataError
from faults import inputs as bad
from faults.case import Group

splits = Group("splits")

splits.refused(
    "fewer groups than parts",
    "train",
    "The column and the number of its values are named.",
    lambda p: (bad.numbers().assign(who=np.repeat(["a", "b"], bad.N // 2)), {"entity": "who"}),
    DataError,
    "'who' has 2 different values",
)
splits.refused(
    "every row at the same time",
    "train",
    "The error says so.",
    lambda p: (bad.numbers().assign(day="2024-05-01"), {"time": "day"}),
    AimtError,
    "only 1 different times",
)
splits.recovered(
    "times that are tied",
    "other",
    "Rows of the same time stay on the same side.",
    lambda p: lambda: divided(tied(), time="day"),
    lambda s, p: not set(tied()["day"][s.part == "test"]) & set(tied()["day"][s.part == "train"]),
)
splits.recovered(
    "times in several zones",
    "other",
    "Ordered by the instant, not by the text.",
    lambda p: lambda: divided(zoned(), time="at"),
    lambda s, p: (
        pd.to_datetime(zoned()["at"], utc=True)[s.part == "test"].min() >= pd.to_datetime(zoned()["at"], utc=True)[s.part == "train"].max()
    ),
)
splits.recovered(
    "rows that occur several times",
    "audit",
    "Counted, with rows to look at and what to do.",
    lambda p: pd.concat([bad.customers(), bad.customers().iloc[20:60]], ignore_index=True),
    lambda found, p: True,
    "duplicate rows",
)
splits.recovered(
    "copies of training rows in the test part",
    "other",
    "Counted, beyond what chance brings.",
    lambda p: overlapping,
    lambda found, p: found["n_twins"] > 20 and found["share"] > 0.5 and "have an exact copy in the training part" in found["text"],
)
splits.recovered(
    "rows with slight changes across the split", "other", "Counted as near-duplicates.", lambda p: nearly, lambda share, p: share > 0.5
)
splits.recovered(
    "persons with several rows, and an id",
    "other",
    "All rows of a person stay on the same side.",
    lambda p: lambda: divided(bad.numbers().assign(who=np.arange(bad.N) % 60), entity="who"),
    lambda s, p: not set((np.arange(bad.N) % 60)[s.test]) & set((np.arange(bad.N) % 60)[s.train]),
)
splits.recovered(
    "persons with several rows, and no id",
    "audit",
    "Reported, with the option that keeps them together.",
    lambda p: bad.customers().assign(person_id=np.random.default_rng(0).integers(0, 60, bad.N)),
    lambda found, p: True,
    "repeated id: person_id",
)
splits.recovered(
    "an id of groups that gives the target away, and no entity",
    "train",
    "Set aside as an id, or verdict NOT YET or HOLD: the groups of the test were seen in training.",
    lambda p: grouped(),
    lambda run, p: run.read("metrics.json")["verdict"]["verdict"] != "SHIP" and told_of(run, "batch"),
)
splits.recovered(
    "the same pictures, some of them smaller or brighter",
    "other",
    "Counted; a picture and its changed copy stay in the same part.",
    lambda p: pictures_again,
    lambda split, p: not crossing(split) and any("40 of 120 pictures are near-duplicates" in note for note in split.notes),
)
splits.recovered(
    "the same text or image for several examples",
    "other",
    "All examples with an input stay in the same part.",
    lambda p: paired,
    lambda parts, p: not set(parts["train"]["input"]) & set(parts["test"]["input"]),
)


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
    from aimt.data.table.infer_schema import infer_schema

    frame = bad.numbers(columns=6)
    frame = pd.concat([frame, frame.assign(x0=frame["x0"] + 1e-4)], ignore_index=True)
    split = divided(frame)
    return near_twins(frame, infer_schema(frame), [f"x{i}" for i in range(6)], split.train, split.test, seed=0).to_dict()["share"]


def paired() -> dict[str, pd.DataFrame]:
    from aimt.jobs.families.base import split_pairs

    texts = [f"The {('parcel', 'letter', 'box')[i % 3]} number {i // 4}" for i in range(80)]
    return split_pairs(pd.DataFrame({"input": texts, "target": ["late", "lost"] * 40}), classes=True)


def grouped() -> pd.DataFrame:
    """Batches of twelve rows that end alike, under a name that says nothing."""
    frame = bad.numbers(480)
    rng = np.random.default_rng(0)
    ends = rng.permutation(np.arange(40) % 2)
    batch = rng.permutation(np.arange(480) % 40)
    return frame.assign(batch=[f"B{7919 * (b + 1) % 10_007}" for b in batch], left=ends[batch])


def told_of(run: Any, column: str) -> bool:
    return any(column in f["columns"] for f in run.read("audit.json")["findings"])


def pictures_again() -> Any:
    """80 pictures, and 40 of them again: a little brighter, or made smaller and large again."""
    from PIL import Image

    from aimt.data.image.folder import Pictures
    from aimt.data.image.picture_split import split_pictures

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (80, 6, 6, 3), dtype=np.uint8)
    whole = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in coarse])
    brighter = np.clip(whole[:20].astype(int) + 2, 0, 255).astype(np.uint8)
    small = [np.asarray(Image.fromarray(x).resize((24, 24)).resize((32, 32))) for x in whole[20:40]]
    return split_pictures(Pictures(np.concatenate([whole, brighter, small]), tuple(map(str, range(120)))))


def crossing(split: Any) -> bool:
    """Whether one of the copies is in another part than its picture."""
    part = {int(i): name for name in ("train", "valid", "test") for i in getattr(split, name)}
    return any(part[i] != part[80 + i] for i in range(40))
