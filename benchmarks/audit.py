"""Time and peak memory of load + schema + audit on a mixed table, relative to `pandas.read_csv` alone.

    python benchmarks/audit.py [--rows 1000000] [--repeats 3]

Each measurement runs in a process of its own, the two kinds by turns; the fastest of the repeats counts.
Memory is the growth of the peak over a process that has only imported the same modules.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def write_table(path: str, n: int) -> None:
    """1 id, 8 numbers (2 whole, 2 with gaps), 8 categories, 1 nearly unique text, 1 date, 1 target."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"customer_id": np.arange(n)})
    for i in range(4):
        frame[f"amount{i}"] = np.round(rng.lognormal(4, 1, n), 2)
    for i in range(2):
        frame[f"count{i}"] = rng.poisson(5, n)
        frame[f"rate{i}"] = np.where(rng.random(n) < 0.1, np.nan, np.round(rng.normal(0, 1, n), 4))
    for i, k in enumerate((2, 3, 5, 8, 20, 50, 200, 5000)):
        frame[f"kind{i}"] = pd.Series([f"level {j}" for j in range(k)]).iloc[(rng.random(n) ** 2 * k).astype(int)].to_numpy()
    frame["reference"] = pd.Series(rng.integers(0, 10**9, n)).astype(str) + "-x"
    frame["day"] = (pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1500, n), "D")).strftime("%Y-%m-%d")
    frame["churn"] = (rng.random(n) < 0.1 + 0.2 * (frame["kind0"] == "level 0")).astype(int)
    frame.to_csv(path, index=False)


CHILD = """
import json, resource, sys, time
import pandas as pd, pyarrow.csv
from aimt.core.hardware import peak_memory_mb
from aimt.data.io.load import load_table
from aimt.data.table.infer_schema import infer_schema
from aimt.data.table.infer_problem import define_problem
from aimt.data.checks.audit import audit
what, path = sys.argv[1:]
idle, times = peak_memory_mb(), {}
def lap(name, call):
    start = time.perf_counter()
    out = call()
    times[name] = time.perf_counter() - start
    return out
if what == "read_csv":
    frame = lap("read_csv", lambda: pd.read_csv(path))
else:
    frame = lap("load", lambda: load_table(path)).frame
    schema = lap("schema", lambda: infer_schema(frame))
    problem = lap("define", lambda: define_problem(frame, schema, target="churn", sensitive_features="kind1"))[0]
    result = lap("audit", lambda: audit(frame, schema, problem))
print(json.dumps({"times": times, "memory": peak_memory_mb() - idle}))
"""


def measure(what: str, path: Path) -> dict:
    """One run in a process of its own."""
    env = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    done = subprocess.run([sys.executable, "-c", CHILD, what, str(path)], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        make = "import runpy, sys; runpy.run_path(sys.argv[1])['write_table'](sys.argv[2], int(sys.argv[3]))"
        command = [sys.executable, "-c", make, __file__, str(path), str(options.rows)]
        subprocess.run(command, check=True)  # in its own process: a child inherits the peak memory of its parent
        runs = {"read_csv": [], "ours": []}
        for _ in range(options.repeats):
            for what, results in runs.items():
                results.append(measure(what, path))
        size = path.stat().st_size / 1e6
    best = {what: min(results, key=lambda r: sum(r["times"].values())) for what, results in runs.items()}
    base, ours = best["read_csv"], best["ours"]
    base_s, total = base["times"]["read_csv"], sum(s for name, s in ours["times"].items() if name != "define")
    print(f"{options.rows:,} rows x 20 columns, {size:.0f} MB of CSV, best of {options.repeats}")
    print(f"pandas.read_csv        {base_s:7.2f} s   {base['memory']:6.0f} MB")
    for name, seconds in ours["times"].items():
        print(f"aimt {name:17} {seconds:7.2f} s")
    own = ours["times"]["load"]
    print(f"load + schema + audit  {total:7.2f} s   {ours['memory']:6.0f} MB")
    print(f"time   {total / base_s:5.2f} x pandas.read_csv, {total / own:.2f} x the loader's own read (bar: 3)")
    print(f"memory {ours['memory'] / base['memory']:5.2f} x pandas.read_csv (bar: 4)")


if __name__ == "__main__":
    main()
