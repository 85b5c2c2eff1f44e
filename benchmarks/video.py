"""Clips of a class, paths against a simulator, and predicted frames against baselines: figures after a training of some CPU-minutes.

    python benchmarks/video.py digits [--seconds 480] [--seed 1] [--keep FOLDER]
    python benchmarks/video.py emoji [--seconds 480] [--size 24]

`digits`: synthetic clips, real handwriting in computed motion. The handwriting of the test is not in the training part.
`emoji`: the animated emoji of the catalog, with all variants of an emoji in one part.
The settings were chosen with seed 0 on the validation clips. Training time is counted in CPU-seconds of the process, with one
thread unless OMP_NUM_THREADS says otherwise. SIGTERM ends the training early; the scores follow.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from aimt.core.files import write_json
from aimt.data.video.bouncing import Bouncing, count_bounces, mass_centres, path_errors
from aimt.data.video.clips import VideoClips, split_clips
from aimt.generate.video.generator import VideoGenerator
from aimt.jobs.steps.video import frame_judge, frames_as_asked
from aimt.metrics.generation.frame_prediction import score_prediction
from aimt.metrics.intervals import clustered_interval, mean_interval
from aimt.models.video.baselines import BASELINES
from aimt.train.networks.video_training import train_video


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def span(found) -> list[float]:
    return [round(float(found[k]), 4) for k in ("value", "low", "high")]


def score_predictions(generator: VideoGenerator, test: VideoClips, name: str) -> None:
    start, first, true = time.process_time(), test.frames[:, :2], test.frames[:, 2:]
    s = score_prediction(
        true,
        generator.predict(first),
        {n: baseline(first, true.shape[1]) for n, baseline in BASELINES.items()},
        test.groups,
        given=2,
        sample=generator.predict(first, n_samples=1, steps=6, seed=9),
    )
    errors = {"model": s.error, "single sample": s.sample_error} | {b.name: b.error for b in s.baselines}
    saved = {b.name: span(b.saved) for b in s.baselines}
    show(
        figure="prediction", data=name, clips=s.n_clips, groups=s.n_groups, mse=errors, saved=saved, cpu_seconds=time.process_time() - start
    )


def score_classes(generator: VideoGenerator, box: Bouncing, train: VideoClips, test: VideoClips) -> None:
    judge = frame_judge(train)
    real = clustered_interval(frames_as_asked(judge, test.frames, test.labels), test.groups)
    for guidance in (1.0, 2.0):
        start = time.process_time()
        made = generator.sample(len(test), labels=test.labels, values=test.values, guidance=guidance, seed=1)
        seconds = time.process_time() - start
        centres = mass_centres(np.where(made > 24, made, 0))
        law = box.path(np.nan_to_num(centres[:, 0], nan=8.0).clip(box.half, box.size - box.half), test.values)
        show(
            figure="class and velocity",
            guidance=guidance,
            clips=len(test),
            judge_per_frame=span(mean_interval(frames_as_asked(judge, made, test.labels))),
            judge_on_real=span(real),
            path_error=span(mean_interval(path_errors(box, made, test.values))),
            path_of_simulator=float(path_errors(box, test.frames, test.values).mean()),
            path_of_other_velocities=float(path_errors(box, test.frames, test.values[::-1]).mean()),
            path_of_standing_still=float(path_errors(box, test.frames[:, :1].repeat(8, 1), test.values).mean()),
            path_of_free_flight=float(path_errors(box, generator.spec.moved_on(test.frames[:, :1], test.values), test.values).mean()),
            same_bounces=float((count_bounces(np.nan_to_num(centres)) == count_bounces(law)).mean()),
            sampling_cpu_seconds=seconds,
        )


class Watch:
    """Scores validation clips at each evaluation."""

    def __init__(self, box: Bouncing | None, valid: VideoClips):
        self.box, self.valid = box, valid

    def on_eval(self, trainer, row) -> None:
        from aimt.models.video.conditions import ClipSpec

        start, v = time.process_time(), self.valid.select(np.arange(min(48, len(self.valid))))
        generator = VideoGenerator(trainer.model, ClipSpec.of(self.valid))
        score_predictions(generator, v, "valid")
        if self.box is not None:
            made = generator.sample(len(v), labels=v.labels, values=v.values, steps=6)
            show(
                step=int(row["step"]),
                valid_loss=row["valid_loss"],
                path=float(path_errors(self.box, made, v.values).mean()),
                cost=time.process_time() - start,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("digits", "emoji"))
    parser.add_argument("--seconds", type=float, default=480.0, help="CPU-seconds of training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=24, help="pixels, of emoji")
    parser.add_argument("--test", type=int, default=200, help="clips that are scored")
    parser.add_argument("--watch", action="store_true", help="score validation clips during the training")
    parser.add_argument("--keep", type=Path, help="folder for the model")
    asked = parser.parse_args()
    box = None
    if asked.data == "digits":
        box = Bouncing()
        clips = box.clips(6000, seed=asked.seed)
    else:
        from aimt.data.sources.emoji import emoji_clips

        clips = emoji_clips(size=asked.size)
    parts = split_clips(clips, seed=asked.seed)
    train, valid = clips.select(parts.train), clips.select(parts.valid)
    test = clips.select(np.random.default_rng(asked.seed).permutation(parts.test)[: asked.test])
    hooks = [Watch(box, valid)] if asked.watch else []
    trained, spec = train_video(
        train, valid, width=asked.width, time_limit=asked.seconds, seed=asked.seed, clock=time.process_time, hooks=hooks
    )
    generator = VideoGenerator(trained.network, spec)  # type: ignore[arg-type]
    m = trained.measured
    if asked.keep:
        generator.save(asked.keep)
        write_json(asked.keep / "training.json", m)
    kept = ("steps", "cpu_seconds", "seconds", "valid_loss", "reference_loss", "parameters", "precision")
    show(figure="training", data=asked.data, train=len(train), threads=torch.get_num_threads(), **{k: m[k] for k in kept})
    score_predictions(generator, test, asked.data)
    if box is not None:
        score_classes(generator, box, train, test)


if __name__ == "__main__":
    main()
