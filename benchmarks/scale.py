"""How the cost of a training grows with the rows: a table of 50 columns, from ten thousand rows to a million.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--time-limit 60]

The table is made up: 38 numbers (some missing), 8 categories of 3 to 2,000 values, 2 dates, 2 yes-or-no columns, and an
answer that depends on seven of them. For each number of rows two processes of their own: one recipe of trees to its end
(`effort="fast"`: five folds below fifty thousand rows, then one holdout, and fewer rounds the more rows there are); and the
whole job, `aimt.train` from a Parquet file to the report with a limit for the search. CPU seconds, wall seconds and the peak
of resident memory are those of the process, its start and imports included. Prints one JSON line for each process.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

RECIPE = """
import sys, pandas as pd
from aimt.models.table.estimators import TabularClassifier
frame = pd.read_parquet(sys.argv[1]); y = frame.pop("y")
TabularClassifier(effort="fast", n_threads=1).fit(frame, y)
"""
JOB = """
import sys, aimt
aimt.train(sys.argv[1], target="y", out=sys.argv[2], time_limit=float(sys.argv[3]), sensitive_features="none", quiet=True)
"""


def make_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """Fifty columns and an answer."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 38)).astype("float32"), columns=[f"number {i}" for i in range(38)])
    for i in range(0, 38, 5):
        frame.loc[rng.random(rows) < 0.1, f"number {i}"] = np.nan
    levels = [3, 5, 10, 20, 50, 200, 1000, 2000]
    codes = [rng.integers(0, k, rows) for k in levels]
    for k, code in zip(levels, codes, strict=True):
        frame[f"category {k}"] = pd.Categorical.from_codes(code, [f"v{i}" for i in range(k)]).astype(str)
    for i in range(2):
        frame[f"day {i}"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1500, rows), unit="D")
        frame[f"flag {i}"] = rng.random(rows) < 0.3
    x = frame[[f"number {i}" for i in range(1, 5)]].to_numpy()
    effect = rng.normal(size=200)[codes[5]] + rng.normal(size=20)[codes[3]]
    score = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + np.abs(x[:, 3]) + effect + (frame["day 0"].dt.month.to_numpy() == 12)
    return frame.assign(y=(score + rng.logistic(size=rows) > np.median(score) + 1).astype(int))


def measure(code: str, *words: object) -> dict[str, float]:
    """CPU seconds, wall seconds and peak memory of a Python process."""
    start = time.perf_counter()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", code, *map(str, words)])
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the process ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.perf_counter() - start, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
    }


def main() -> None:
    """Measure both for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--time-limit", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            path = Path(folder) / f"{rows}.parquet"
            make_table(rows).to_parquet(path)
            print(json.dumps({"what": "one recipe", "rows": rows} | measure(RECIPE, path)), flush=True)
            job = measure(JOB, path, Path(folder) / f"run-{rows}", args.time_limit)
            metrics = json.loads((Path(folder) / f"run-{rows}" / "metrics.json").read_text())
            tried = metrics["candidates"]
            print(
                json.dumps(
                    {"what": "whole job", "rows": rows, "time_limit": args.time_limit}
                    | job
                    | {"recipes": len(tried), "used": sum(c["weight"] > 0 for c in tried)}
                ),
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
