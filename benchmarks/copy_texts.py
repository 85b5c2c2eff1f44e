"""Product texts from attributes: Debian's packages, learned from nothing, read back by an extractor that learned from other packages.

    python benchmarks/copy_texts.py [--time-limit 600] [--seed 1] [--out FOLDER]

Runs `aimt train --kind copy` and prints, as lines of JSON, the figures of the generator, of people's texts and of the baselines about the
same held-out packages, the extractor's own precision and recall on texts made by construction, and what a thousand rows take to write.
The settings (slots, sizes, temperatures) were chosen with seed 0 and its products; the figures are of another seed, which divides the
products in another way. Takes about six CPU-minutes, on one thread.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from aimt.data.sources.catalog import load_dataset
from aimt.jobs.generators.copy_model import CopyGenerateOptions, open_copy_model, write_copy
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
    show(**same, loose=f.loose, chrf=f.chrf, useful=f.useful, gain=gain, distinct3=f.distinct, copies=f.copies)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--time-limit", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="where the run stays")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        run = train_source(None, "copy", time_limit=given.time_limit, seed=given.seed, out=given.out or Path(place) / "run", quiet=True)
        report(run, time.process_time() - start)


def report(run, cpu_seconds: float) -> None:
    """The figures of a run."""
    m = run.read("metrics.json")
    s = CopyScores.from_dict(m["copy_scores"])
    size = {k: m["data"][k] for k in ("n_learn", "n_lessons", "n_check", "n_test")}
    show(**size, parameters=m["settings"]["parameters"], steps=m["measured"]["steps"], train_cpu_seconds=m["measured"]["cpu_seconds"])
    show(extractor={f: interval(r) for f, r in s.extractor_recall.items()}, false_alarms=interval(s.false_alarms), n=m["extractor"]["n"])
    for f in (s.generated, s.human, *s.rivals):
        figures(f)
    show(shortfall=interval(s.shortfall), copies=interval(s.copies), usual=interval(s.usual), excess=interval(s.excess))
    show(gates={g["gate"]: g["status"] for g in m["verdict"]["gates"]}, verdict=m["verdict"]["verdict"], cpu_seconds=cpu_seconds)
    found = {
        "precision": s.generated.precision["value"] >= TARGETS["precision"],
        "recall": s.generated.recall["value"] >= TARGETS["recall"],
        "wrong": s.generated.wrong["value"] <= TARGETS["wrong"],
        "shortfall": abs(s.shortfall["value"]) <= TARGETS["shortfall"],
    }
    show(targets=TARGETS, reached=found)
    model = open_copy_model(run)
    frame = load_dataset("debian-products", quiet=True)
    products = model.schema.products(frame[frame["split"] == "test"].head(1_000))
    start = time.process_time()
    written = write_copy(model, products, CopyGenerateOptions(n=1, candidates=3))
    show(rows=len(products), write_cpu_seconds=time.process_time() - start, notes=sum(bool(row[0].note) for row in written))


if __name__ == "__main__":
    main()
