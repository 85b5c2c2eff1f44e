"""Product texts from attributes: Debian's packages, learned from nothing, read back by an extractor that learned from other packages.

    python benchmarks/copy_texts.py [--steps 2400 | --time-limit 600 | --run FOLDER] [--seed 1] [--rows 10000] [--out FOLDER] > copy_texts.log

Runs `aimt train --kind copy` and prints, as lines of JSON, the figures of the generator, of people's texts and of the baselines about the
same held-out packages, the extractor's own precision and recall on texts made by construction, and what a file of 10,000 rows takes to
write by the command, in CPU-seconds and memory. The generator is judged three times: by the check that had no part in choosing among its
drafts, by the one that had, and before any choice. The settings (slots, sizes, temperatures) were chosen with seed 0 and its products; the
figures are of another seed, which divides the products in another way. Takes about ten CPU-minutes, on one thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.shared.pipeline import train_source
from aimt.metrics.generation.copy_scores import CopyScores, TextFigures

TARGETS = {"precision": 0.95, "recall": 0.95, "wrong": 0.005, "shortfall": 0.1}


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def interval(x) -> list[float]:
    return [round(float(x[k]), 4) for k in ("value", "low", "high")]


def figures(f: TextFigures) -> None:
    gain = interval(f.gain) if f.gain else None
    same = {"writer": f.name, "precision": interval(f.precision), "recall": interval(f.recall), "wrong": interval(f.wrong)}
    show(**same, loose=f.loose, chrf=f.chrf, useful=f.useful, gain=gain, distinct3=f.distinct, copies=f.copies, perplexity=f.perplexity)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--time-limit", type=float, default=600)
    parser.add_argument("--steps", type=int, default=None, help="of training, instead of the time limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10_000, help="of the file that is written at the end; 0 for none")
    parser.add_argument("--out", type=Path, default=None, help="where the run stays")
    parser.add_argument("--run", type=Path, default=None, help="an earlier run, in place of a training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        limit = {"steps": given.steps} if given.steps else {"time_limit": given.time_limit}
        made = {"seed": given.seed, "out": given.out or Path(place) / "run", "quiet": True, **limit}
        run = Run.open(given.run) if given.run else train_source(None, "copy", **made)
        report(run, time.process_time() - start)
        if given.rows:
            many_rows(run, given.rows, Path(place))


def report(run: Run, cpu_seconds: float) -> None:
    """The figures of a run."""
    m = run.read("metrics.json")
    s = CopyScores.from_dict(m["copy_scores"])
    size = {k: m["data"][k] for k in ("n_learn", "n_lessons", "n_check", "n_test")}
    show(**size, parameters=m["settings"]["parameters"], steps=m["measured"]["steps"], train_cpu_seconds=m["measured"]["cpu_seconds"])
    show(extractor={f: interval(r) for f, r in s.extractor_recall.items()}, false_alarms=interval(s.false_alarms), n=m["extractor"]["n"])
    for f in (s.generated, s.first, s.chooser, s.human, *s.rivals):
        if f is not None:
            figures(f)
    show(shortfall=interval(s.shortfall), copies=interval(s.copies), usual=interval(s.usual), excess=interval(s.excess))
    show(disfluency=interval(s.disfluency) if s.disfluency else None)
    show(gates={g["gate"]: g["status"] for g in m["verdict"]["gates"]}, verdict=m["verdict"]["verdict"], cpu_seconds=cpu_seconds)
    found = {
        "precision": s.generated.precision["value"] >= TARGETS["precision"],
        "recall": s.generated.recall["value"] >= TARGETS["recall"],
        "wrong": s.generated.wrong["value"] <= TARGETS["wrong"],
        "shortfall": abs(s.shortfall["value"]) <= TARGETS["shortfall"],
    }
    show(targets=TARGETS, reached=found)


_COMMAND = (sys.executable, "-c", "from aimt.cli.main import main; main()")


def many_rows(run: Run, n: int, place: Path) -> None:
    """What a long file takes, by the command in a process of its own."""
    frame = load_dataset("debian-products", quiet=True).sample(n, random_state=0)
    frame.drop(columns=["text", "split", "seen"], errors="ignore").to_csv(place / "in.csv", index=False)
    command = [*_COMMAND, "generate", str(run.path), str(place / "in.csv"), "-o", str(place / "out.csv")]
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "--candidates", "1"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    back = pd.read_csv(place / "out.csv", dtype=str, keep_default_na=False)
    show(
        rows=len(back),
        written=int((back["copy_1"] != "").sum()),
        with_note=int((back["copy_note"] != "").sum()),
        write_cpu_seconds=used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime,
        peak_mb=used.ru_maxrss / 1024,
    )


if __name__ == "__main__":
    main()
