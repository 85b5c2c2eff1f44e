"""Figures of the kind for pictures on real data, as one JSON line for each training.

``python benchmarks/images.py digits > images.log`` (three CPU-minutes). Each line has the CPU-seconds of the training itself and of
this process, and the scores of the samples on test pictures that neither the network nor the judge has seen. Trials were made with
seed 0, so report others.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import aimt
from aimt.core.hardware import environment

SETTINGS: dict[str, dict[str, object]] = {  # Source -> options of the training
    "digits": {"steps": 2000, "width": 32},
    "fashion-mnist": {"steps": 1400, "width": 24},
    "photographs": {"steps": 1100, "width": 32, "enlarge": 4},
}


def figures(source: str, seed: int, out: Path, one_step: bool) -> dict[str, object]:
    """Train, and collect what is measured."""
    start = time.process_time()
    run = aimt.train(source, kind="image", seed=seed, out=out, one_step=one_step, quiet=True, **SETTINGS[source])
    m, verdict = run.read("metrics.json"), run.read("report.json")["verdict"]
    g, measured = m["generation"], m["measured"]
    return {
        "source": source,
        "seed": seed,
        "one_step": one_step,
        "settings": m["settings"],
        "steps": measured["steps"],
        "parameters": measured["parameters"],
        "training_cpu_seconds": round(measured["cpu_seconds"], 1),
        "cpu_seconds": round(time.process_time() - start, 1),
        "guidance": (m.get("guidance") or {}).get("chosen"),
        "match": g["condition"]["generated"],
        "match_real": g["condition"]["real"],
        "enlarging": m.get("enlarging"),
        "frechet": g["frechet"],
        "frechet_floor": g["frechet_floor"],
        "excess_distance": g["distance"],
        "coverage": g["coverage"],
        "coverage_real": g["coverage_real"],
        "near_copies": g["copies"][0]["share"],
        "near_copies_usual": g["copies"][0]["usual"],
        "n_generated": g["n_generated"],
        "rivals": {r["name"]: {"distance": r["distance"], "match": r["match"]} for r in g["rivals"]},
        "pictures_per_second": round(m["sampling"]["per_second"], 1),
        "verdict": verdict["verdict"],
        "gates": {gate["gate"]: gate["status"] for gate in verdict["gates"]},
    }


def main() -> None:
    """Train each source and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", choices=sorted(SETTINGS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one-step", action="store_true")
    parser.add_argument("--out", type=Path, help="Folder that keeps the runs")
    asked = parser.parse_args()
    machine = environment()["machine"]
    with tempfile.TemporaryDirectory() as place:
        for source in asked.sources:
            out = (asked.out or Path(place)) / f"{source}{'-one-step' if asked.one_step else ''}"
            print(json.dumps(figures(source, asked.seed, out, asked.one_step) | {"machine": machine}), flush=True)


if __name__ == "__main__":
    main()
