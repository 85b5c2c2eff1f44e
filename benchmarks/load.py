"""Time and peak memory of reading and writing a mixed table, relative to pandas doing the same in the same run.

    python benchmarks/load.py [--rows 1000000] [--repeats 3] [--threads 0] [--audit]

Each measurement runs in a process of its own, the kinds by turns; the fastest of the repeats counts. Memory is the
growth of the peak over a process that has only imported the same modules. `--audit` runs `audit.py` on as many rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


# 8 numbers, 5 whole numbers (one with gaps), 4 categories, a text that differs in each row, a date, a yes/no
TABLE = """
import sys
import numpy as np, pandas as pd
n, rng = int(sys.argv[2]), np.random.default_rng(0)
columns = {f"amount{i}": rng.normal(size=n).round(4) for i in range(8)}
columns |= {f"count{i}": rng.integers(0, 1000, n) for i in range(4)}
columns["gaps"] = np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 100, n))
levels = ["red", "green", "blue", "a longer category", "x"]
columns |= {f"kind{i}": rng.choice(levels, n) for i in range(4)}
columns["id"] = [f"c{i:07d}" for i in range(n)]
columns["day"] = pd.date_range("2020-01-01", periods=n, freq="min").strftime("%Y-%m-%d")
columns["churn"] = rng.choice(["yes", "no"], n)
pd.DataFrame(columns).to_csv(sys.argv[1], index=False)
"""

CHILD = """
import json, sys, time
import pandas as pd, pyarrow.csv, pyarrow.parquet
from aimt.core.hardware import peak_memory_mb
from aimt.data.io.load import load_table
from aimt.data.io.chunks import open_writer, read_chunks
what, path, out = sys.argv[1:]
frame = load_table(path).frame if what.startswith("write") else None
def pieces():
    for piece in read_chunks(path):
        pass
def write():
    with open_writer(out) as writer:
        writer.write(frame)
calls = {
    "read pandas": lambda: pd.read_csv(path), "read aimt": lambda: load_table(path),
    "chunks pandas": lambda: [None for piece in pd.read_csv(path, chunksize=100_000)], "chunks aimt": pieces,
    "write pandas": lambda: frame.to_csv(out, index=False), "write aimt": write,
}
idle, start, cpu = peak_memory_mb(), time.perf_counter(), time.process_time()
result = calls[what]()
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({"wall": wall, "cpu": cpu, "memory": peak_memory_mb() - idle}))
"""


def measure(what: str, path: Path, threads: int) -> dict:
    """One run in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-c", CHILD, what, str(path), str(path.with_name("out.csv"))]
    return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of Arrow; 0: one for each processor")
    parser.add_argument("--audit", action="store_true", help="run audit.py as well")
    options = parser.parse_args()
    whats = [f"{task} {who}" for task in ("read", "chunks", "write") for who in ("pandas", "aimt")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        subprocess.run([sys.executable, "-c", TABLE, str(path), str(options.rows)], check=True)
        size = path.stat().st_size / 1e6
        runs: dict[str, list[dict]] = {what: [] for what in whats}
        for _ in range(options.repeats):
            for what in whats:
                runs[what].append(measure(what, path, options.threads))
    machine = f"{os.cpu_count()} processors, best of {options.repeats}"
    print(f"{options.rows:,} rows x 20 columns, {size:.0f} MB of CSV, {machine}")
    print(f"{'':14} {'wall s':>8} {'cpu s':>8} {'peak MB':>8}")
    best = {w: {k: min(r[k] for r in results) for k in ("wall", "cpu", "memory")} for w, results in runs.items()}
    for what, b in best.items():
        print(f"{what:14} {b['wall']:8.2f} {b['cpu']:8.2f} {b['memory']:8.0f}")
    for task in ("read", "chunks", "write"):
        ours, theirs = best[f"{task} aimt"], best[f"{task} pandas"]
        ratios = ", ".join(f"{k} {ours[k] / max(theirs[k], 1e-9):.2f}" for k in ours)
        print(f"ratio {task:7} {ratios}   ({options.rows / ours['wall']:,.0f} rows/s)")
    if options.audit:
        script = Path(__file__).with_name("audit.py")
        subprocess.run([sys.executable, str(script), "--rows", str(options.rows)], check=True)


if __name__ == "__main__":
    main()
