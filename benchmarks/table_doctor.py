"""Hit and false-alarm rates of the doctor for tables: faults are planted in real tables, and `aimt doctor` has to name them.

    python benchmarks/table_doctor.py FOLDER [--seeds 20] [--first 0] [--only FAULT] [--time-limit 2]

FOLDER holds telco_churn.csv.gz, framingham_chd.csv.gz and vehicle_fraud.csv.gz, the same tables as in the stories of `nbs/apps`; the
bundled loans stand in for one that is missing. Each run takes 1,500 random rows of a table, plants one fault, trains for some
seconds with all default options, and asks. A hit: a finding has the fault's name. "named anyway" is how often the same name is
given for the untouched tables, which for real tables may be the truth: they have outliers, rare classes and drift of their own.
One JSON line for each run, and a table at the end.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd

import aimt
from aimt.metrics.intervals import wilson

TABLES = {"telco_churn": "Churn", "framingham_chd": "TenYearCHD", "vehicle_fraud": "FraudFound_P"}  # name -> target
Table = tuple[pd.DataFrame, dict[str, str]]


def _numbers(frame: pd.DataFrame, target: str) -> list[str]:
    """Columns with many different numbers, the likeliest place for a fault of numbers."""
    many = [c for c in frame if c != target and pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 10]
    return sorted(many, key=lambda c: -frame[c].nunique())


def leak(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """The answer under another name, with 2 % mistakes."""
    return f.assign(code=np.where(y ^ (rng.random(len(f)) < 0.02), "K7", "K2")), {}


def afterwards(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """A number that was written down later: the days until it happened, missing for most of the others."""
    return f.assign(days_until=np.where(y | (rng.random(len(f)) < 0.03), rng.integers(1, 300, len(f)), np.nan)), {}


def copies(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Every third row twice."""
    return pd.concat([f, f.iloc[rng.permutation(len(f))[: len(f) // 3]]]).sample(frac=1, random_state=1), {}


def contradictions(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Every tenth row twice, the second time with the other answer."""
    some = f.iloc[rng.permutation(len(f))[: len(f) // 10]]
    return pd.concat([f, some.assign(**{target: 1 - some[target]})]).sample(frac=1, random_state=1), {}


def shuffled(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Answers that have nothing to do with their rows."""
    return f.assign(**{target: f[target].to_numpy()[rng.permutation(len(f))]}), {}


def few(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Ninety rows."""
    rows = np.r_[rng.permutation(np.flatnonzero(y))[:40], rng.permutation(np.flatnonzero(~y))[:50]]
    return f.iloc[rng.permutation(rows)], {}


def rare(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Fifteen rows of the class that matters."""
    rows = np.r_[rng.permutation(np.flatnonzero(y))[:15], np.flatnonzero(~y)]
    return f.iloc[rng.permutation(rows)], {}


def shift(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """A time column, and a number that grows by half its spread from the first row to the last."""
    column = _numbers(f, target)[0]
    x = f[column].to_numpy(float)
    x = x + np.linspace(0, 1.5, len(f)) * np.nanstd(x)
    return f.assign(**{column: x, "written": pd.date_range("2023-01-01", periods=len(f), freq="3h")}), {"time": "written"}


def prior_shift(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """A time column, and in its last quarter three times as many positives."""
    early, late = np.arange(len(f)) < 0.6 * len(f), np.arange(len(f)) >= 0.6 * len(f)
    late &= y | (rng.random(len(f)) < 0.25)
    part = f[early | late]
    return part.assign(written=pd.date_range("2023-01-01", periods=len(part), freq="3h")), {"time": "written"}


def noise(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Three answers of ten turned round."""
    return f.assign(**{target: np.where(rng.random(len(f)) < 0.3, 1 - f[target], f[target])}), {}


def sentinel(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """-999 in every tenth row of a number."""
    column = _numbers(f, target)[0]
    return f.assign(**{column: np.where(rng.random(len(f)) < 0.1, -999, f[column])}), {}


def units(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """Two rows of a hundred in thousandths."""
    column = _numbers(f, target)[0]
    return f.assign(**{column: np.where(rng.random(len(f)) < 0.02, f[column].to_numpy(float) * 1000, f[column])}), {}


def spelling(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """One category written in two ways."""
    kind = np.where(rng.random(len(f)) < 0.5, "shop", "online")
    return f.assign(channel=np.where((kind == "shop") & (rng.random(len(f)) < 0.3), "Shop ", kind)), {}


def identity(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """A number for every row."""
    return f.assign(customer_id=rng.permutation(len(f)) + 100_000), {}


def sorted_rows(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """All positives below."""
    return f.iloc[np.argsort(y, kind="stable")], {}


def constant(f: pd.DataFrame, y: np.ndarray, target: str, rng: np.random.Generator) -> Table:
    """A column that says the same of all."""
    return f.assign(country="DE"), {}


FAULTS = {  # fault -> (what plants it, names that count as a hit)
    "leak": (leak, {"leakage", "possible leakage"}),
    "written afterwards": (afterwards, {"leakage", "possible leakage"}),
    "copies": (copies, {"copies on both sides", "duplicate rows"}),
    "contradictions": (contradictions, {"contradictory labels"}),
    "shuffled answers": (shuffled, {"nothing to learn"}),
    "few rows": (few, {"too little data"}),
    "rare class": (rare, {"too few of a class"}),
    "shift": (shift, {"shift"}),
    "other share of positives": (prior_shift, {"shift", "bad calibration"}),
    "label noise": (noise, {"label noise"}),
    "sentinel": (sentinel, {"sentinel"}),
    "units": (units, {"outlier"}),
    "spelling": (spelling, {"spelling"}),
    "id": (identity, {"id"}),
    "sorted": (sorted_rows, {"sorted by the answer"}),
    "constant": (constant, {"constant"}),
}


def load(folder: Path, name: str) -> tuple[pd.DataFrame, str]:
    """A table with its target as 0 and 1."""
    path = folder / f"{name}.csv.gz"
    if not path.exists():
        loans = aimt.load_dataset("german-credit").frame
        return loans.assign(credit_risk=(loans["credit_risk"] == "bad").astype(int)), "credit_risk"
    frame, target = pd.read_csv(path), TABLES[name]
    values = frame[target]
    return frame.assign(**{target: (values == values.value_counts().index[-1]).astype(int)}), target


def ask(frame: pd.DataFrame, target: str, options: dict[str, str], seed: int, time_limit: float) -> list[dict[str, str]]:
    """Train, and ask the doctor."""
    with tempfile.TemporaryDirectory() as folder:
        run = aimt.train(
            frame.reset_index(drop=True),
            target=target,
            positive_label="1",
            sensitive_features="none",
            seed=seed,
            time_limit=time_limit,
            out=f"{folder}/run",
            quiet=True,
            **options,
        )
        return aimt.doctor(run)


def main() -> None:
    """Plant, train, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", help="one fault")
    parser.add_argument("--time-limit", type=float, default=2.0)
    args = parser.parse_args()
    lines = []
    for seed in range(args.first, args.first + args.seeds):
        for name in TABLES:
            frame, target = load(args.folder, name)
            rng = np.random.default_rng([seed, 7])
            frame = frame.iloc[rng.permutation(len(frame))[:1500]].reset_index(drop=True)
            y = frame[target].to_numpy() == 1
            for fault, (plant, _) in {"healthy": (lambda f, *_: (f, {}), set()), **FAULTS}.items():
                if args.only in (None, fault, "healthy" if fault == "healthy" else ""):
                    ill, options = plant(frame.copy(), y, target, np.random.default_rng([seed, 8]))
                    found = ask(ill, target, options, seed, args.time_limit)
                    lines.append(
                        {
                            "table": name,
                            "seed": seed,
                            "fault": fault,
                            "found": [f["name"] for f in found],
                            "grave": [f["name"] for f in found if f["severity"] != "note"],
                        }
                    )
                    print(json.dumps(lines[-1]), flush=True)
    tell(lines)


def tell(lines: list[dict]) -> None:
    """Rates by fault."""
    healthy = [line for line in lines if line["fault"] == "healthy"]
    print(f"\n{'fault':26} {'named':>22}   named anyway")
    hits = runs = alarms = chances = 0
    for fault, (_, names) in FAULTS.items():
        mine = [bool(set(line["found"]) & names) for line in lines if line["fault"] == fault]
        anyway = [bool(set(line["found"]) & names) for line in healthy]
        if mine:
            w, v = wilson(sum(mine), len(mine)), wilson(sum(anyway), len(anyway))
            print(
                f"{fault:26} {sum(mine):3}/{len(mine):<3} {w['value']:4.0%} [{w['low']:4.0%}, {w['high']:4.0%}]   "
                f"{sum(anyway):3}/{len(anyway):<3} {v['value']:4.0%} [{v['low']:4.0%}, {v['high']:4.0%}]"
            )
            hits, runs, alarms, chances = hits + sum(mine), runs + len(mine), alarms + sum(anyway), chances + len(anyway)
    w, v = wilson(hits, runs), wilson(alarms, chances)
    print(
        f"{'all':26} {hits:3}/{runs:<3} {w['value']:4.0%} [{w['low']:4.0%}, {w['high']:4.0%}]   {alarms:3}/{chances:<3} {v['value']:4.1%}"
        f" [{v['low']:.1%}, {v['high']:.1%}]"
    )


if __name__ == "__main__":
    main()
