"""Sounds by class: five kinds of Sonic Pi's samples, learned from nothing, judged by a classifier that heard real recordings alone.

    python benchmarks/sounds.py [--steps 900] [--seed 1] [--out FOLDER]

Trains `aimt train FOLDER --kind audio` on the training part of 87 recordings, then generates sounds with seeds that no setting was
chosen by (guidance and solver were chosen with another training, another judge and seed 100), and asks two judges: that of the run,
and one that was trained with another seed. Prints lines of JSON. Takes about three CPU-minutes, on one thread.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from aimt.core.run import Run
from aimt.data.audio.folder import read_recordings
from aimt.data.sources.catalog import load_dataset
from aimt.evaluate.generation.judge import Judge, JudgeConfig, train_judge
from aimt.jobs.shared.pipeline import train_source
from aimt.jobs.shared.sound_model import open_sounds
from aimt.metrics.intervals import wilson
from aimt.models.audio.sound_generator import sound_mels

KINDS = ("ambi", "bd", "drum", "loop", "tabla")  # with at least 11 recordings each, and not defined by the author or by electronics
TARGET = 0.8  # Share of the sounds in which a judge hears the class


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def lay_out(folder: Path) -> Path:
    """A sub-folder for each kind."""
    samples = load_dataset("sonic-pi-samples", quiet=True)
    for row in samples[samples["label"].isin(KINDS)].itertuples():
        (folder / row.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(row.audio, folder / row.label)
    return folder


def heard(judges: dict[str, Judge], mels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Whether each judge hears the class, for each sound."""
    return {name: torch.from_numpy(judge.probabilities(mels.numpy()).argmax(1)) == labels for name, judge in judges.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="where the run stays")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        folder = lay_out(Path(place) / "samples")
        out = given.out or Path(place) / "run"
        train_source(str(folder), kind="audio", length=1.0, steps=given.steps, seed=given.seed, out=out, overwrite=True, quiet=True)
        trained, metrics = time.process_time() - start, json.loads((out / "metrics.json").read_text())
        generator = open_sounds(Run.open(out))
        data = read_recordings(folder, rate=generator.config.mel.rate, max_seconds=1.0)
        parts = {}
        for name in ("train", "test"):
            part = data.part(name)
            labels = torch.tensor([generator.config.classes.index(label) for label in part.labels])
            parts[name] = sound_mels(part.sounds, generator.config), labels
    x, y = parts["train"]
    other = train_judge(
        x.numpy(), y.numpy(), n_classes=len(KINDS), config=JudgeConfig(width=48, n_features=48, steps=300, batch_size=32, shift=3, seed=5)
    )
    judges = {"of the run": Judge.load(out / "model" / "judge"), "of another seed": other}
    asked = torch.arange(len(KINDS)).repeat(12)
    made = [sound_mels(generator.decode(generator.sample_mels(asked, seed=seed)), generator.config) for seed in (201, 202)]
    labels, sounds = asked.repeat(len(made)), torch.cat(made)
    right, real = heard(judges, sounds, labels), heard(judges, *parts["test"])
    for name in judges:
        share, floor = wilson(int(right[name].sum()), len(labels)), wilson(int(real[name].sum()), len(real[name]))
        by_class = {kind: float(right[name][labels == i].float().mean()) for i, kind in enumerate(KINDS)}
        show(judge=name, generated=share["value"], low=share["low"], high=share["high"], real=floor["value"], target=TARGET, **by_class)
    copies, measured = metrics["generation"]["copies"][0], metrics["measured"]
    show(near_copies=copies["share"]["value"], near_copies_of_real=copies["usual"]["value"], verdict=metrics["verdict"]["verdict"])
    show(steps=measured["steps"], weights=measured["parameters"], training_cpu_s=measured["cpu_seconds"], job_cpu_s=trained)
    show(recordings=len(x), held_out=len(parts["test"][1]), samples=len(labels), all_cpu_s=time.process_time() - start)


if __name__ == "__main__":
    main()
