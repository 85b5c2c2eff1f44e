"""The main job as a user meets it: start-up, wall time, CPU time, memory and sizes. `python benchmarks/main_job.py`

Prints one JSON line per measurement, each with its limit and the ratio to it (below 1 is within). Run on idle cores.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"import aimt, CPU s": 0.3, "aimt --help, CPU s": 0.6, "main job, wall s": 120.0, "report.html, MB": 1.5}


def cpu_seconds(command: list[str], repeats: int = 5) -> float:
    """The least CPU time of a few runs: what the command itself needs, without the neighbours' noise."""
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main_job(folder: str) -> tuple[float, float, Path]:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "aimt", "train", "--quiet"], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, Path(folder) / "runs/german-credit"


def show(what: str, value: float) -> None:
    limit = LIMITS.get(what)
    print(json.dumps({"what": what, "value": round(value, 3), "limit": limit, "ratio": limit and round(value / limit, 3)}))


def main() -> None:
    show("import aimt, CPU s", cpu_seconds([sys.executable, "-c", "import aimt"]))
    show("aimt --help, CPU s", cpu_seconds([sys.executable, "-m", "aimt", "--help"]))
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu, run = main_job(folder)
        show("main job, wall s", wall)
        show("main job, CPU s", cpu)
        show("report.html, MB", (run / "report.html").stat().st_size / 1e6)
        show("whole run, MB", sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / 1e6)
        show("main job, peak memory MB", json.loads((run / "run.json").read_text())["memory_mb"])


if __name__ == "__main__":
    main()
