"""How fast, how sensitive and how quiet is the drift test? `python benchmarks/drift.py [--only small|false-alarms|wide]`

small: 50,000 rows before and after, 20 columns of which 5 drift (the set-up of a comparison of drift libraries). `--evidently PYTHON` lets
evidently judge the same tables, with its defaults, in a virtual environment of its own.
false-alarms: tables without drift, drawn many times: how often is any column reported?
wide: a table that does not fit into memory, streamed in chunks: seconds, peak memory, size of the reference.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from aimt.metrics.intervals import wilson
from aimt.monitor.drift import find_drift
from aimt.monitor.reference import sketch_table

FIVE = {"n0", "n1", "n2", "n3", "c0"}
LEVELS = np.array([f"level {k}" for k in range(10)])


def table(
    rng: np.random.Generator, n: int, *, drift: bool = False, numbers: int = 15, categories: int = 5, kind: str = "category"
) -> pd.DataFrame:
    """Normal numbers and categories of ten equal levels; with drift, three means, one standard deviation and one level are changed."""
    x = rng.normal(size=(n, numbers))
    codes = rng.integers(0, 10, (n, categories))
    if drift:
        x[:, :3] += 0.1
        x[:, 3] *= 1.1
        codes[rng.random(n) < 0.04 / 0.9, 0] = 0
    frame = pd.DataFrame({f"n{j}": x[:, j] for j in range(numbers)} | {f"c{j}": LEVELS[codes[:, j]] for j in range(categories)})
    return frame.astype({f"c{j}": kind for j in range(categories)})


def small(seeds: int) -> None:
    for seed in range(seeds):
        for kind in ("category", "str"):  # as a Parquet file, or a CSV file, gives them
            rng = np.random.default_rng(seed)
            before, after = table(rng, 50_000, kind=kind), table(rng, 50_000, drift=True, kind=kind)
            begin = time.process_time()
            reference = sketch_table(before)
            made = time.process_time()
            found = find_drift(reference, reference.count(after))
            done = time.process_time()
            alerts = {d.column for d in found if d.alert}
            print(
                f"50,000 x 20, seed {seed}, categories as {kind}: reference {made - begin:.3f} CPU-s, comparison {done - made:.3f} CPU-s, "
                f"found {len(alerts & FIVE)} of 5, false {len(alerts - FIVE)} of 15"
            )


EVIDENTLY = """
import json, sys, time
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
before, after = (pd.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("before", "after"))
begin = time.process_time()
found = Report([DataDriftPreset()]).run(after, before).dict()
seconds = time.process_time() - begin
columns = [m for m in found["metrics"] if "ValueDrift" in json.dumps(m.get("config", m["metric_name"])) or "ValueDrift" in m["metric_name"]]
alerts = [m["config"]["column"] for m in columns if float(m["value"]) >= float(m["config"]["threshold"])]
print(json.dumps({"seconds": seconds, "columns": len(columns), "alerts": alerts, "methods": sorted({m["config"]["method"] for m in columns})}))
"""


def peer(python: str, seed: int) -> None:
    """What evidently says about the tables of `small`."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, drift in (("before", False), ("after", True)):
            table(rng, 50_000, drift=drift, kind="str").to_parquet(Path(folder, f"{name}.parquet"))
        done = subprocess.run([python, "-c", EVIDENTLY, folder], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        print(f"evidently does not run: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return
    found = json.loads(done.stdout.strip().splitlines()[-1])
    alerts = set(found["alerts"])
    print(
        f"50,000 x 20, seed {seed}, evidently ({', '.join(found['methods'])}): {found['seconds']:.3f} CPU-s, "
        f"found {len(alerts & FIVE)} of 5, false {len(alerts - FIVE)} of 15"
    )


def false_alarms(draws: int) -> None:
    rng, alarms, raw = np.random.default_rng(0), 0, 0
    for _ in range(draws):
        reference = sketch_table(table(rng, 2000))
        found = find_drift(reference, reference.count(table(rng, 1500)), min_distance=0)
        alarms += any(d.alert for d in found)
        raw += any(d.p < 0.05 for d in found)
    rate = wilson(alarms, draws)
    shown = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**rate)
    print(f"{draws:,} tables without drift, 20 columns: any alarm in {shown}, nominal 0.05; uncorrected {raw / draws:.3f}")


def wide(rows: int, columns: int, chunk: int) -> None:
    """One block of random rows is counted again for every chunk: making new ones would take longer than comparing them."""
    rng = np.random.default_rng(0)
    block = table(rng, chunk, numbers=columns * 4 // 5, categories=columns - columns * 4 // 5)
    begin = time.process_time()
    reference = sketch_table(block)
    once = time.process_time() - begin
    begin, current = time.process_time(), None
    for _ in range(-(-rows // chunk)):
        counted = reference.count(block)
        current = counted if current is None else current + counted
    find_drift(reference, current)
    seconds = time.process_time() - begin
    size = len(json.dumps(reference.to_dict(), indent=1).encode()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{rows:,} x {columns:,} in chunks of {chunk:,}: {seconds:.0f} CPU-s to compare, {once:.1f} for a reference of one chunk; "
        f"peak {peak:.2f} GB, the libraries and a chunk included; reference {size:.2f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["small", "false-alarms", "wide"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evidently", help="python of a virtual environment with evidently")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=20_000)
    a = parser.parse_args()
    if a.only in (None, "wide"):  # first, so that the peak of memory is its own
        wide(a.rows, a.columns, a.chunk)
    if a.only in (None, "small"):
        small(a.seeds)
        if a.evidently:
            peer(a.evidently, 0)
    if a.only in (None, "false-alarms"):
        false_alarms(a.draws)


if __name__ == "__main__":
    main()
