"""Scenarios of the verdict benchmark: a real table as it is, or with a planted fault, and the rows that are kept back to judge the run.

`SCENARIOS` names them. Each takes a `Pool`, a table whose rows are in random order, and makes a `Trial`; or none, when it does not fit
the table. Faults get no groups and no costs, unless they are about them, so that no further gate can stop them by chance; honest tables
get costs, and where nothing else is given groups as well, so that each gate can hold them wrongly.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from leaks import CLASSES, NUMBERS, drifting, near_copies, target_means

from aimt.core.problem import FAIRNESS, Problem
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.infer_schema import infer_schema

REPEATS, MOST_RESERVE = 4, 4_000  # Rows of an entity; rows of a reserve


@dataclass(frozen=True)
class Pool:
    """A table whose rows are in random order: the first `size` are given to aimt, the others are the reserve."""

    frame: pd.DataFrame
    target: str
    size: int
    problem: Problem
    y: np.ndarray  # Coded target
    rng: np.random.Generator

    @property
    def labels(self) -> np.ndarray:
        """The target as numbers, or as the labels themselves."""
        return self.frame[self.target].to_numpy()

    def planted(self, target: Any = None, **columns: Any) -> pd.DataFrame:
        """The table with other targets, or with further columns."""
        changed = {} if target is None else {self.target: np.asarray(target)}
        return self.frame.assign(**changed, **{name: np.asarray(values) for name, values in columns.items()})


def pool_of(name: str, frame: pd.DataFrame, target: str, rows: int, seed: int, scenario: str) -> Pool:
    """The rows of a table in an order of their own for each scenario and seed, so that trials share no split."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{scenario}".encode())])
    size = min(rows, len(frame) // 2) if len(frame) >= 1.5 * rows else min(rows, len(frame))
    frame = frame.iloc[rng.permutation(len(frame))[: size + MOST_RESERVE]].reset_index(drop=True)
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=target, sensitive_features="none")
    y, _ = encode_target(frame, problem, schema)
    return Pool(frame, target, size, problem, y, rng)


@dataclass(frozen=True)
class Trial:
    """What is given to aimt, and what is kept back."""

    given: pd.DataFrame
    reserve: pd.DataFrame | None = None
    options: dict[str, Any] = field(default_factory=dict)
    planted: str | None = None  # Column that is a fault only while it is in use


def parts(pool: Pool, frame: pd.DataFrame, planted: str | None = None, **options: Any) -> Trial:
    """The first rows, and the rest as a reserve where it is large enough."""
    rest = frame.iloc[pool.size : pool.size + MOST_RESERVE]
    return Trial(frame.iloc[: pool.size], rest if len(rest) >= pool.size else None, {"sensitive_features": "none"} | options, planted)


def priced(pool: Pool) -> dict[str, Any]:
    """For a decision, costs that make a miss as dear as its class is rare."""
    if pool.problem.task != "binary":
        return {}
    positives = pool.y.mean()
    return {"cost": {"fn": round(float((1 - positives) / positives), 2), "fp": 1.0}}


def honest(pool: Pool) -> Trial:
    """The table as it is, with two random groups."""
    frame = pool.planted(branch=pool.rng.choice(["north", "south"], len(pool.frame)))
    return parts(pool, frame, sensitive_features="branch", drop="branch", fairness=FAIRNESS[pool.problem.task][0], **priced(pool))


def shuffled(pool: Pool) -> Trial:
    """Nothing to learn: targets of other rows."""
    return parts(pool, pool.planted(pool.rng.permutation(pool.labels)))


def many_classes(pool: Pool) -> Trial | None:
    """Nothing to learn, in twenty classes of unequal size."""
    if pool.problem.task == "regression":
        return None
    share = 1 / np.arange(2, 22)
    return parts(
        pool, pool.planted(pool.rng.choice([f"class {c}" for c in "abcdefghijklmnopqrst"], len(pool.frame), p=share / share.sum()))
    )


def leak(pool: Pool, classes: str, numbers: str) -> Trial:
    plant = CLASSES[classes] if pool.problem.classification else NUMBERS[numbers]
    return parts(pool, pool.planted(planted=plant(pool.y, pool.rng)), planted="planted")


def leak_mean(pool: Pool) -> Trial | None:
    found = target_means(pool.frame, pool.target, pool.y, pool.rng).get("target mean, 5 % noise")
    return None if found is None else parts(pool, pool.planted(planted=found), planted="planted")


def near_duplicates(pool: Pool) -> Trial:
    """A sixth of the rows repeats another one with 1 % noise."""
    return Trial(
        near_copies(pool.frame.iloc[: pool.size * 5 // 6], pool.target, pool.rng, cell=False), options={"sensitive_features": "none"}
    )


def hidden_order(pool: Pool) -> Trial | None:
    """The rule turns from the first row to the last, and nobody says that the rows are in the order of time."""
    made = drifting(pool.frame.iloc[: pool.size], pool.target, pool.rng, betrayed=False)
    return None if made is None else Trial(made, options={"sensitive_features": "none"})


def given_time(pool: Pool) -> Trial:
    """Labels decay: in the end three in ten are those of another row. The time is given, and the reserve is of the later period."""
    n, late = len(pool.frame), pool.size // 4
    when = pool.rng.uniform(0.75, 1, n)
    when[: pool.size - late] = pool.rng.uniform(0, 0.75, pool.size - late)
    lost = pool.rng.random(n) < 0.3 * when
    target = np.where(lost, pool.rng.permutation(pool.labels), pool.labels)
    return parts(pool, pool.planted(target, when=1000 * when), time="when", **priced(pool))


def entities(pool: Pool, given: bool) -> Trial | None:
    """Four rows of each entity, alike but for 1 % noise; the entities of the reserve are others."""
    k = pool.size // REPEATS
    if len(pool.frame) < 5 * k:
        return None
    rows = np.repeat(np.arange(5 * k), REPEATS)
    frame = pool.frame.iloc[rows].reset_index(drop=True)
    numbers = [c for c in frame if c != pool.target and pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 20]
    frame = frame.assign(**{c: frame[c] + pool.rng.normal(0, 0.01 * frame[c].std(), len(frame)) for c in numbers}, person=rows)
    known, rest = frame[rows < k], frame[rows >= k]
    known = known.iloc[pool.rng.permutation(len(known))]
    if not given:
        return Trial(known.drop(columns="person"), options={"sensitive_features": "none"})
    return Trial(known, rest, {"sensitive_features": "none", "entity": "person"} | priced(pool))


def group_gap(pool: Pool) -> Trial:
    """In three of ten rows targets are wrong: half of the commonest class are named as the rarest, or numbers are a deviation higher."""
    south, labels = pool.rng.random(len(pool.frame)) < 0.3, pool.labels
    if pool.problem.classification:
        names, counts = np.unique(labels, return_counts=True)
        wrong = south & (labels == names[counts.argmax()]) & (pool.rng.random(len(labels)) < 0.5)
        target = np.where(wrong, names[counts.argmin()], labels)
    else:
        target = labels + south * np.std(labels)
    frame = pool.planted(target, branch=np.where(south, "south", "north"))
    return parts(pool, frame, sensitive_features="branch", drop="branch", fairness=FAIRNESS[pool.problem.task][0])


def flipped_labels(pool: Pool) -> Trial:
    """One label in four is another class, or one number in four is that of another row."""
    wrong = pool.rng.random(len(pool.frame)) < 0.25
    if pool.problem.classification:
        names, codes = np.unique(pool.labels, return_inverse=True)
        others = (codes + pool.rng.integers(1, len(names), len(codes))) % len(names)
        return parts(pool, pool.planted(names[np.where(wrong, others, codes)]))
    return parts(pool, pool.planted(np.where(wrong, pool.rng.permutation(pool.labels), pool.labels)))


def rare_class(pool: Pool) -> Trial | None:
    """Two rows of a hundred: of the rarest class, or the highest numbers."""
    cost = {"fn": 49.0, "fp": 1.0}
    if not pool.problem.classification:
        rare = pool.labels > np.quantile(pool.labels, 0.98)
        made = pool.planted(np.where(rare, "top", "other"))
        return parts(pool, made, positive_label="top", cost=cost) if 0.01 < rare.mean() < 0.03 else None
    rare = pool.y == np.bincount(pool.y).argmin()
    few = pool.rng.permutation(np.flatnonzero(rare))[: round(0.02 / 0.98 * (~rare).sum())]
    frame = pool.frame.iloc[np.sort(np.concatenate([few, np.flatnonzero(~rare)]))]
    if pool.problem.task == "multiclass":
        return parts(pool, frame)
    return parts(pool, frame, positive_label=str(pool.labels[few[0]]), cost=cost)


@dataclass(frozen=True)
class Scenario:
    """What is planted, and the gate that should see it; an honest table has none."""

    plant: Callable[[Pool], Trial | None]
    gate: str = ""

    @property
    def kind(self) -> str:
        return "fault" if self.gate else "honest"


SCENARIOS = {
    "honest": Scenario(honest),
    "honest, entity given": Scenario(lambda pool: entities(pool, given=True)),
    "honest, time given": Scenario(given_time),
    "honest, rare class": Scenario(rare_class),
    "noise": Scenario(shuffled, "score"),
    "noise, 20 classes": Scenario(many_classes, "score"),
    "leak, copy": Scenario(lambda pool: leak(pool, "copy, 5 % wrong", "noise of 5 % of the spread"), "leakage"),
    "leak, filled": Scenario(lambda pool: leak(pool, "filled 90 to 5", "filled above the median, 90 to 5"), "leakage"),
    "leak, target mean": Scenario(leak_mean, "leakage"),
    "near-duplicates": Scenario(near_duplicates, "leakage"),
    "order not given": Scenario(hidden_order, "data"),
    "entity not given": Scenario(lambda pool: entities(pool, given=False), "leakage"),
    "group gap": Scenario(group_gap, "groups"),
    "labels, 25 % wrong": Scenario(flipped_labels, "data"),
}
