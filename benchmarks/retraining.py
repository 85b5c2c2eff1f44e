"""Retraining: how often a challenger is promoted where nothing has changed, and how soon where something has.

    python benchmarks/retraining.py              # about ten minutes on a core
    python benchmarks/retraining.py --runs 5     # less

Streams of two real tables that come with aimt and scikit-learn, shuffled anew for each run so that without a planted change they are
the same population before and after: 50 streams without any change, and as many with one (columns measured in other units, or two
columns exchanged). The champion is trained on 60 % of the rows by `aimt.train`; the others come as new rows to `aimt retrain`.
"""

import argparse
import os
import tempfile
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

import aimt
from aimt.jobs.operate.retrain import retrain
from aimt.metrics.intervals import wilson


def loans() -> tuple[pd.DataFrame, str]:
    return aimt.load_dataset("german-credit").frame, "credit_risk"


def tumours() -> tuple[pd.DataFrame, str]:
    data = load_breast_cancer(as_frame=True)
    return data.data.assign(diagnosis=data.target.map({0: "malignant", 1: "benign"})), "diagnosis"


def other_units(new: pd.DataFrame) -> pd.DataFrame:
    numbers = new.select_dtypes("number").columns
    return new.assign(**{name: new[name] * 1.8 for name in numbers})


def exchanged(new: pd.DataFrame) -> pd.DataFrame:
    """The two columns that are the most alike in range change places."""
    numbers = list(new.select_dtypes("number").columns)
    a, b = numbers[0], numbers[len(numbers) // 2]
    return new.assign(**{a: new[b].to_numpy(), b: new[a].to_numpy()})


def stream(source, change, seed: int, folder: Path) -> bool:
    """Whether the challenger of one stream is promoted."""
    frame, target = source()
    frame = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    cut = int(0.6 * len(frame))
    old, new = frame.iloc[:cut], frame.iloc[cut:]
    run = aimt.train(old, target=target, time_limit=2, seed=seed, out=folder / f"{source.__name__}-{seed}", quiet=True)
    return retrain(run, change(new) if change else new, data=old, time_limit=2, quiet=True)["promoted"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = {"nothing changed": None, "other units": other_units, "columns exchanged": exchanged}
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first stream, to share the work")
    parser.add_argument("--only", choices=[*plan], action="append")
    options = parser.parse_args()
    for name, change in plan.items():
        if options.only and name not in options.only:
            continue
        n = options.runs if change is None else max(1, options.runs // 5)
        seeds = range(options.first, options.first + n)
        with tempfile.TemporaryDirectory() as folder:
            found = [stream((loans, tumours)[seed % 2], change, seed, Path(folder)) for seed in seeds]
        share = wilson(float(np.sum(found)), n)
        told = f"{name}, streams {seeds[0]} to {seeds[-1]}: promoted in {sum(found)} of {n}"
        print(f"{told} [{share['low']:.1%}, {share['high']:.1%}]", flush=True)
