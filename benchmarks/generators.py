"""Verdicts on generators with planted faults and on honest ones, as JSON lines, one for each trial.

``python benchmarks/generators.py --seeds 100:106 > generators.log`` (about 40 CPU-seconds a seed). The limits of the gates were
set with seeds 0 and 1 in view, so report others. Two kinds of data whose truth is known: a Gaussian mixture, and scikit-learn's digits,
where held-out images play a perfect generator.

``--data networks --seeds 100:103`` trains networks in place of simulated samplers (about 100 CPU-seconds a seed): an honest one, and the
same one trained on shuffled labels, on three pictures, and on one class. Steps and width were set without a trial.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from aimt.decide.generators.generator_gates import generator_verdict
from aimt.evaluate.generation.baselines import class_gaussian, retrieve
from aimt.evaluate.generation.judge import JudgeConfig, train_judge
from aimt.evaluate.generation.scores import Samples, class_match, score_generation
from aimt.models.flow.flow_matching import Condition, sample_flow
from aimt.models.flow.unet import UNet, UNetConfig
from aimt.train.networks.generator import GeneratorData, GeneratorSettings, train_generator

Drawn = tuple[np.ndarray, np.ndarray]  # Samples, and the classes that were asked for


@dataclass(frozen=True)
class Data:
    """Three parts of real data, drawn at random: the last plays a perfect generator."""

    train: Drawn
    held_out: Drawn
    fresh: Drawn
    spread: float  # Noise that can be seen, but leaves an example what it is


def digits(rng: np.random.Generator) -> Data:
    """scikit-learn's 1,797 digits of 8 by 8 pixels, in three parts."""
    found = load_digits()
    x, y, order = (found.images / 16).astype(np.float32), found.target, rng.permutation(len(found.target))
    parts = np.split(order, [900, 1350])
    return Data(*((x[p], y[p]) for p in parts), spread=0.2)


def mixture(rng: np.random.Generator) -> Data:
    """Ten classes in sixteen dimensions, each of two Gaussians with different shapes."""
    centers, shapes = 3 * rng.normal(size=(10, 2, 16)), rng.uniform(0.3, 1.2, (10, 2, 16))

    def draw(n: int) -> Drawn:
        y, z = rng.integers(0, 10, n), rng.integers(0, 2, n)
        return (centers[y, z] + shapes[y, z] * rng.normal(size=(n, 16))).astype(np.float32), y

    return Data(draw(900), draw(450), draw(450), spread=0.6)


def noisy(x: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Samples with noise, within the range of images where they are images."""
    out = x + sd * rng.normal(size=x.shape)
    return (np.clip(out, 0, 1) if x.ndim == 3 else out).astype(np.float32)


def honest(data: Data, seed: int) -> Iterator[tuple[str, Drawn]]:
    """Generators that must SHIP: fresh real examples, all of them and a part, and for the mixture a fitted model of the right form."""
    x, y = data.fresh
    yield "fresh real examples", (x, y)
    yield "300 fresh real examples", (x[:300], y[:300])
    if x.ndim == 2:
        xt, yt = data.train
        fitted = [GaussianMixture(2, covariance_type="diag", n_init=3, random_state=seed).fit(xt[yt == c]) for c in range(10)]
        drawn = [model.sample(max(int((y == c).sum()), 1))[0][: (y == c).sum()] for c, model in enumerate(fitted)]
        yield "a fitted mixture", (np.concatenate(drawn).astype(np.float32), np.repeat(np.arange(10), [len(d) for d in drawn]))


def faulty(data: Data, rng: np.random.Generator) -> Iterator[tuple[str, Drawn]]:
    """Generators that must not SHIP."""
    (xt, yt), (x, y) = data.train, data.fresh
    copies = xt[retrieve(yt, y, len(xt), seed=int(rng.integers(1 << 30)))]
    yield "memorises", (copies, y)
    yield "memorises, with small noise", (noisy(copies, data.spread / 4, rng), y)
    yield "memorises, with visible noise", (noisy(copies, 0.75 * data.spread, rng), y)
    part = np.arange(len(y)) % 4 == 0
    yield "memorises one in four", (np.where(part.reshape(-1, *[1] * (x.ndim - 1)), noisy(copies, data.spread / 4, rng), x), y)
    few = np.flatnonzero(np.isin(y, rng.choice(10, 3, replace=False)))
    yield "collapsed to three classes", (x[rng.choice(few, len(y))], y)
    one = np.stack([x[rng.choice(np.flatnonzero(y == c))] for c in range(10)])
    yield "one sample for each class", (noisy(one[y], data.spread / 2, rng), y)
    yield "ignores its condition", (x, rng.permutation(y))
    yield "one label in five is wrong", (x, np.where(rng.random(len(y)) < 0.2, rng.integers(0, 10, len(y)), y))
    gone = np.isin(y, rng.choice(10, 2, replace=False))
    yield "two classes are missing", (x[np.where(gone, rng.choice(np.flatnonzero(~gone), len(y)), np.arange(len(y)))], y)
    yield "noise on every sample", (noisy(x, data.spread, rng), y)
    yield "noise alone", (rng.uniform(x.min(), x.max(), x.shape).astype(np.float32), y)
    if x.ndim == 3:
        yield "blurred", (np.stack([gaussian_filter(i, 0.7) for i in x]), y)


STEPS, FAULTY_STEPS = 600, 200  # Updates of the honest network, and of the faulty ones, whose faults show earlier


def drawn_by_network(x: np.ndarray, y: np.ndarray, asked: np.ndarray, steps: int, seed: int) -> Drawn:
    """What a network draws that was trained by flow matching on these pictures and labels."""
    torch.manual_seed(seed)
    network = UNet(UNetConfig(channels=1, width=24, factors=(1, 2), n_classes=10))
    data = GeneratorData(torch.from_numpy(2 * x[:, None] - 1), label=torch.from_numpy(y))
    settings = GeneratorSettings(batch_size=64, ema=0.99, evaluations=1, n_draws=64)
    train_generator(network, data, data, settings=settings, steps=steps, seed=seed)
    labels, generator = Condition(label=torch.from_numpy(asked)), torch.Generator().manual_seed(seed)
    made = sample_flow(network, (len(asked), 1, *x.shape[1:]), labels, steps=12, method="midpoint", guidance=1.5, generator=generator)
    return ((made[:, 0].clamp(-1, 1) + 1) / 2).numpy(), asked


def trained(data: Data, rng: np.random.Generator, seed: int) -> Iterator[tuple[str, str, Drawn]]:
    """An honest network, and the same with a fault in what it was trained on."""
    (x, y), asked = data.train, data.fresh[1]
    yield "honest", "a network", drawn_by_network(x, y, asked, STEPS, seed)
    yield "faulty", "trained on shuffled labels", drawn_by_network(x, rng.permutation(y), asked, FAULTY_STEPS, seed)
    three = rng.choice(len(x), 3, replace=False)
    yield "faulty", "trained on three pictures", drawn_by_network(x[three], y[three], asked, FAULTY_STEPS, seed)
    one = y == rng.integers(10)
    yield "faulty", "trained on one class", drawn_by_network(x[one], y[one], asked, FAULTY_STEPS, seed)


Look = Callable[[np.ndarray, np.ndarray], Samples]


def judged(data: Data, seed: int) -> Look:
    """How a judge sees samples: a network for digits, the coordinates themselves and the nearest training example for the mixture."""
    (xt, yt) = data.train
    if xt.ndim == 3:
        config = JudgeConfig(width=12, n_features=32, steps=250)
        judge = train_judge(xt, yt, channels_first=False, config=replace(config, seed=config.seed + seed))
        return lambda x, y: Samples(judge.features(x), raw=x, asked=y, match=class_match(judge.probabilities(x), y))
    centers = np.stack([xt[yt == c].mean(0) for c in range(10)])
    near = lambda x: -((x[:, None] - centers) ** 2).sum(2)
    return lambda x, y: Samples(x, raw=x, asked=y, match=class_match(near(x), y))


def simulated(data: Data, rng: np.random.Generator, seed: int) -> Iterator[tuple[str, str, Drawn]]:
    """Real examples and changed ones in the place of samples."""
    yield from (("honest", title, drawn) for title, drawn in honest(data, seed))
    yield from (("faulty", title, drawn) for title, drawn in faulty(data, rng))


def trials(name: str, seed: int) -> Iterator[Mapping[str, object]]:
    """A line for each generator."""
    rng = np.random.default_rng([seed, len(name)])
    data = {"digits": digits, "mixture": mixture, "networks": digits}[name](rng)
    look, (xt, yt), asked = judged(data, seed), data.train, data.held_out[1]
    rivals = {
        "retrieval": look(xt[retrieve(yt, asked, len(xt), seed=seed)], asked),
        "a Gaussian for each class": look(class_gaussian(xt, yt, asked, seed=seed).astype(np.float32), asked),
    }
    for kind, title, drawn in trained(data, rng, seed) if name == "networks" else simulated(data, rng, seed):
        scores = score_generation(look(*drawn), look(*data.held_out), look(*data.train), rivals=rivals, seed=seed)
        found = generator_verdict(scores, [])
        gates = {g["gate"]: [g["status"], g["value"], g["low"], g["high"]] for g in found["gates"]}
        seconds = round(time.process_time(), 1)  # Of the process up to here
        yield {
            "data": name,
            "seed": seed,
            "kind": kind,
            "generator": title,
            "verdict": found["verdict"],
            "gates": gates,
            "cpu_seconds": seconds,
        }


def main() -> None:
    """Print one line for each trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="100:106", help="first and last seed, the last not included")
    parser.add_argument("--data", default="digits,mixture", help="digits, mixture, networks")
    given = parser.parse_args()
    for seed in range(*map(int, given.seeds.split(":"))):
        for name in given.data.split(","):
            for line in trials(name, seed):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
