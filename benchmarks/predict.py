"""Rows a second of a model trained on a large table, and the ratio to LightGBM's own prediction with the same trees.

    python benchmarks/predict.py [--rows 1000000] [--columns 20] [--time-limit 60]

The table has numbers, gaps and categories. "rows/s" is from the raw data frame to probabilities, everything included.
Run on idle cores.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd

from aimt.core.hardware import cpu_allowance, peak_memory_mb
from aimt.metrics.classification import roc_auc
from aimt.models.trees.boosting import Member
from aimt.models.table.estimators import TabularClassifier


def make_table(n: int, columns: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Three quarters numbers (some with gaps), one quarter categories, and a target with interactions."""
    rng = np.random.default_rng(seed)
    n_categories = columns // 4
    frame = {f"number{i}": rng.normal(size=n).astype(np.float64) for i in range(columns - n_categories)}
    for i in range(0, columns - n_categories, 5):
        frame[f"number{i}"][rng.random(n) < 0.05] = np.nan
    codes = [rng.integers(0, k, n) for k in (2, 5, 12, 40, 200, 12, 5)[:n_categories]]
    for i, code in enumerate(codes):
        frame[f"kind{i}"] = np.array([f"level {j}" for j in range(200)], dtype=object)[code]
    x = [np.nan_to_num(frame[f"number{i}"]) for i in range(6)]
    margin = x[0] * x[1] + np.sin(2 * x[2]) + 0.5 * x[3] + (x[4] > 1) * x[5] + 0.3 * (codes[1] == 3) - 1
    return pd.DataFrame(frame), (rng.random(n) < 1 / (1 + np.exp(-margin))).astype(np.int64)


def seconds(call, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--time-limit", type=float, default=60.0)
    args = parser.parse_args()
    frame, y = make_table(args.rows, args.columns)
    start = time.perf_counter()
    model = TabularClassifier(time_limit=args.time_limit).fit(frame, y)
    fit = time.perf_counter() - start
    show(what="fit, s", value=fit, limit=1.1 * args.time_limit, ratio=fit / (1.1 * args.time_limit))
    fresh, y_fresh = make_table(args.rows, args.columns, seed=1)
    show(
        what="AUC on fresh rows",
        value=float(roc_auc(y_fresh, model.predict_proba(fresh))),
        trees=model.n_trees_,
        recipes=[c["recipe"] for c in model.candidates_ if c["weight"] > 0],
    )
    ours = seconds(lambda: model.predict_proba(fresh))
    X = model.ensemble_.encoder.transform(fresh)
    threads = max(1, int(cpu_allowance()))
    members = [p.model.booster for p in model.ensemble_.parts if isinstance(p.model, Member)]
    raw = seconds(lambda: [b.predict(X, raw_score=True, num_threads=threads) for b in members])
    speed = len(fresh) / ours
    show(what="predict, rows/s", value=speed, limit=200_000, ratio=200_000 / speed, threads=threads)
    show(what="predict against LightGBM's own on encoded rows, same trees", value=ours / raw)
    show(what="peak memory, MB", value=peak_memory_mb(), table_mb=round(frame.memory_usage(deep=True).sum() / 1e6))


if __name__ == "__main__":
    main()
