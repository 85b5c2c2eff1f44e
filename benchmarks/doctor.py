"""Hit and false-alarm rates of the doctor for networks: faults are planted in small trainings, and it has to name them.

    python benchmarks/doctor.py [--seeds 5] [--set check|tune] [--only gpt] [--fault NAME] [--save FILE] [--load FILE]

Two families of networks (a character GPT on the Python reference that the standard library bundles, a classifier of
scikit-learn's handwritten digits), in settings that differ from seed to seed. Thresholds were chosen on `--set tune`
(seeds from 0, smaller models); the published rates are those of `--set check` (seeds from 1000, other models, rates, texts).
A hit: the planted fault is among the findings. A false alarm: a healthy training with any finding that is not a note.
Healthy are plain runs, short ones, long ones, and ones on little data that stop in time.
`--save` keeps what the doctor saw, and `--load` asks it again without training.
"""

import argparse
import json
import math
import random
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pydoc_data.topics import topics

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from aimt.data.text.token_batches import TokenBatches
from aimt.metrics.intervals import wilson
from aimt.models.text.gpt import GPT, GPTConfig, gpt_loss
from aimt.models.text.ngram import NGram
from aimt.train.networks.doctor import diagnose_network, tokenizer_fit
from aimt.train.networks.training_monitor import TrainingMonitor
from aimt.train.loop.trainer import TrainConfig, Trainer
from aimt.train.loop.state import History

# Planted fault -> name of the finding
GPT_FAULTS = {
    "lr high": "learning rate too high",
    "lr low": "learning rate too low",
    "underfit": "underfitting",
    "short": "trained too short",
    "overfit": "overfitting",
    "little data": "too little data",
    "dead": "dead units",
    "exploding": "exploding gradients",
    "bad init": "bad initialisation",
    "label noise": "label noise",
    "slow input": "slow input",
}
MLP_FAULTS = {
    "lr high": "learning rate too high",
    "lr low": "learning rate too low",
    "underfit": "underfitting",
    "short": "trained too short",
    "overfit": "overfitting",
    "little data": "too little data",
    "dead": "dead units",
    "exploding": "exploding gradients",
    "vanishing": "vanishing gradients",
    "bad init": "bad initialisation",
    "label noise": "label noise",
    "slow input": "slow input",
}
HEALTHY = ("healthy", "healthy short", "healthy long", "healthy small")


@lru_cache
def text_ids(part: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Characters of one half of the reference, as numbers: training part, held-out part, size of the alphabet."""
    names = sorted(topics)[part::2]
    text = "\n".join(topics[n] for n in names)
    letters = sorted(set(text))
    ids = np.array([letters.index(c) for c in text], dtype=np.int64)
    return ids[: -len(ids) // 10], ids[-len(ids) // 10 :], len(letters)


class Slow:
    """Batches that come as slowly as the network works."""

    def __init__(self, batches: Iterator):
        self.batches, self.last, self.pause = batches, None, 0.01

    def __iter__(self) -> "Slow":
        return self

    def __next__(self) -> dict:
        if self.last is not None:
            self.pause = 0.8 * self.pause + 0.2 * (time.perf_counter() - self.last)
        time.sleep(self.pause)
        self.last = time.perf_counter()
        return next(self.batches)


def corrupt(batches: Iterator, share: float, n_classes: int, rng: np.random.Generator) -> Iterator[dict]:
    """The same batches with a share of the targets replaced by any class."""
    for batch in batches:
        wrong = torch.as_tensor(rng.random(batch["targets"].shape) < share)
        other = torch.as_tensor(rng.integers(0, n_classes, batch["targets"].shape))
        yield batch | {"targets": torch.where(wrong, other, batch["targets"])}


def pick(rng: random.Random, tune: bool, first: list, second: list):
    """A setting: from the first list when tuning, else from the second."""
    return rng.choice(first if tune else second)


def gpt_run(fault: str, seed: int, tune: bool) -> dict:
    """Train a character GPT with a fault; what the doctor's hook saw."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    train, valid, V = text_ids(0 if tune else 1)
    L, rows = pick(rng, tune, [64], [48, 96]), pick(rng, tune, [12], [8, 16])
    width, layers = pick(rng, tune, [64], [48, 80]), pick(rng, tune, [2], [2, 3])
    steps, lr = pick(rng, tune, [160], [140, 200]), pick(rng, tune, [3e-3, 6e-3], [2e-3, 4e-3])
    optimizer = pick(rng, tune, ["adamw", "muon"], ["adamw", "muon"])
    plain = {"norm": "layer", "positions": "learned", "qk_norm": False, "bias": True}
    style = pick(rng, tune, [{}, plain | {"mlp": "gelu_tanh", "init": "gpt2"}], [{}, plain | {"mlp": "gelu"}])
    if fault == "dead":
        style = {}
    if fault == "lr high":
        lr *= pick(rng, tune, [40, 150], [30, 100])
    if fault == "lr low":
        lr /= pick(rng, tune, [100, 500], [60, 300])
    if fault == "underfit":  # too small a network, trained for long enough
        width, layers, steps = pick(rng, tune, [(4, 1, 300), (8, 1, 300)], [(4, 2, 350)])
    n = {"overfit": pick(rng, tune, [4_000], [5_000]), "little data": pick(rng, tune, [2_000], [1_500, 2_500])}.get(fault, len(train))
    if fault in {"overfit", "little data"}:
        steps, width, lr = 200_000 // (rows * L), 64, 6e-3  # 40 to 130 times through the text
    steps = {
        "short": pick(rng, tune, [8, 15], [10, 20]),
        "healthy short": pick(rng, tune, [60], [50, 80]),
        "healthy long": pick(rng, tune, [500], [450, 600]),
        "healthy small": pick(rng, tune, [100], [90, 120]),
    }.get(fault, steps)
    if fault == "healthy small":  # seen at most a few times
        n = pick(rng, tune, [60_000], [50_000, 80_000])
    if fault == "healthy long":
        rows = 8
    train = train[:n]
    config = GPTConfig(vocab_size=V, n_layer=layers, n_head=2, n_embd=width, context=L, **style)
    torch.manual_seed(seed)
    model = GPT(config)
    plant_gpt(model, fault, rng, tune)
    if fault == "label noise":  # misprints: any character in place of the right one
        share = pick(rng, tune, [0.2, 0.3], [0.15, 0.25])
        train, valid = (np.where(noise.random(len(t)) < share, noise.integers(0, V, len(t)), t) for t in (train, valid))
    batches: Iterator = TokenBatches(train, rows, L, seed=seed)
    held = [next(TokenBatches(valid, 32, L, seed=seed + 1)) for _ in range(3)]
    if fault == "slow input":
        batches = Slow(batches)
    reference = NGram(2).fit(train[:100_000], V).nats(valid[:20_000])
    return train_watched(model, batches, gpt_loss, held, n, reference, steps, lr, optimizer, seed)


def plant_gpt(model: GPT, fault: str, rng: random.Random, tune: bool) -> None:
    """Faults that are in the weights."""
    with torch.no_grad():
        if fault == "dead":
            up = model.blocks[0].mlp.up.weight
            up[: int(pick(rng, tune, [0.6, 0.9], [0.5, 0.8]) * len(up))] = 0
        if fault == "bad init":
            scale = pick(rng, tune, [30.0], [20.0, 50.0])
            for p in model.parameters():
                if p.ndim > 1:
                    p.mul_(scale)
        if fault == "exploding":
            for block in model.blocks:
                block.norm1, block.norm2 = nn.Identity(), nn.Identity()
                for p in block.parameters():
                    if p.ndim > 1:
                        p.normal_(std=pick(rng, tune, [0.5], [0.4, 0.6]))


def make_mlp(fault: str, rng: random.Random, tune: bool) -> nn.Sequential:
    """A classifier of 8 x 8 images with the faults that are in its weights."""
    width, depth = pick(rng, tune, [64], [48, 96]), pick(rng, tune, [3], [2, 4])
    if fault in {"exploding", "vanishing"}:
        depth = pick(rng, tune, [12], [10, 15])
    bend: Callable[[], nn.Module] = nn.ReLU
    if fault == "underfit":  # a ReLU of two would be dead, and not only small
        width, bend = 2, nn.Tanh
    if fault == "vanishing":
        bend = pick(rng, tune, [nn.Sigmoid, nn.Tanh], [nn.Sigmoid, nn.Tanh])
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(64 if i == 0 else width, width), bend()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    for m in model:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
            if fault == "exploding":
                m.weight.data.mul_(pick(rng, tune, [2.5], [2.2, 3.0]))
            if fault == "vanishing":
                m.weight.data.mul_(0.15 if bend is nn.Tanh else 0.7)
    model[-1].weight.data.mul_(0.3)
    if fault == "dead":
        model[0].bias.data[: int(pick(rng, tune, [0.6, 0.9], [0.5, 0.8]) * width)] = -20
    if fault == "bad init":
        model[-1].weight.data.mul_(pick(rng, tune, [30.0], [20.0, 60.0]))
    return model


def mlp_run(fault: str, seed: int, tune: bool) -> dict:
    """Train a classifier of digits with a fault."""
    from sklearn.datasets import load_digits

    rng, noise = random.Random(seed), np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    order = noise.permutation(len(y))
    X, y = torch.tensor(X[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    n = {"overfit": 100, "little data": pick(rng, tune, [60], [50, 80])}.get(fault, 1400)
    steps, lr, rows = (pick(rng, tune, [300], [200, 400]), pick(rng, tune, [2e-3], [1e-3, 3e-3]), pick(rng, tune, [64], [32, 64]))
    optimizer = pick(rng, tune, ["adamw", "muon"], ["adamw", "muon"])
    lr *= 5 if optimizer == "muon" else 1  # its steps are shorter: a fifth of AdamW's at the same rate
    if fault == "lr high":
        lr *= pick(rng, tune, [100, 400], [80, 300])
    if fault == "lr low":
        lr /= pick(rng, tune, [100, 500], [60, 300])
    if fault in {"overfit", "little data"}:
        steps = 800
    steps = {
        "short": pick(rng, tune, [8, 15], [10, 20]),
        "healthy short": pick(rng, tune, [60], [50, 80]),
        "healthy long": pick(rng, tune, [1000], [800, 1200]),
        "healthy small": pick(rng, tune, [100], [90, 120]),
    }.get(fault, steps)
    if fault == "healthy small":
        n = pick(rng, tune, [600], [500, 700])
    torch.manual_seed(seed)
    model = make_mlp(fault, rng, tune)
    Xt, yt, Xv, yv = X[:n], y[:n], X[1400:], y[1400:]

    def draw() -> Iterator[dict]:
        while True:
            rows_ = torch.as_tensor(noise.integers(0, n, rows))
            yield {"ids": Xt[rows_], "targets": yt[rows_]}

    batches, held = draw(), [{"ids": Xv, "targets": yv}]
    if fault == "label noise":
        share = pick(rng, tune, [0.2, 0.3], [0.15, 0.25])
        yt = next(corrupt(iter([{"targets": yt}]), share, 10, noise))["targets"]
        held = list(corrupt(iter(held), share, 10, noise))
    if fault == "slow input":
        batches = Slow(batches)
    centres = torch.stack([Xt[yt == k].mean(0) if (yt == k).any() else torch.full((64,), 9.0) for k in range(10)])
    reference = float(F.cross_entropy(-(torch.cdist(Xv, centres) ** 2), held[0]["targets"]))  # the nearest centre, as a softmax
    loss_fn = lambda m, b: F.cross_entropy(m(b["ids"]), b["targets"])
    return train_watched(model, batches, loss_fn, held, 64 * n, reference, steps, lr, optimizer, seed)


def train_watched(model, batches, loss_fn, held, n, reference, steps, lr, optimizer, seed) -> dict:
    """Train with the doctor watching. A run that ends in an error still has a history."""

    def evaluate(m: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"valid_loss": float(np.mean([float(loss_fn(m, b)) for b in held]))}

    watch = TrainingMonitor(probe=held, n_tokens=n, reference_loss=reference)
    settings = TrainConfig(
        steps=steps, lr=lr, optimizer=optimizer, eval_every=max(1, steps // 10), seed=seed, precision="fp32", device="cpu"
    )
    try:
        Trainer(model, batches, loss_fn, settings, evaluate=evaluate, hooks=[watch]).fit()
    except Exception:  # the doctor is asked all the same
        watch.facts["failed"] = 1.0
    return watch.evidence()


def tokenizer_runs(seed: int, tune: bool) -> Iterator[tuple[str, dict]]:
    """Tokenizers trained on one text and used on its like, and on texts that are not like it."""
    import tempfile
    from pathlib import Path

    from aimt.data.text.tokenizer import train_tokenizer

    rng = random.Random(seed)
    pages = sorted(topics)
    rng.shuffle(pages)
    half = len(pages) // 2
    known, new = ("\n".join(topics[p] for p in part) for part in (pages[:half], pages[half:]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.txt"
        path.write_text(known, encoding="utf-8")
        tokenizer = train_tokenizer(path, "bpe", pick(rng, tune, [1000], [800, 2000]))
    new = new[: pick(rng, tune, [60_000], [40_000, 80_000])]
    yield "healthy", tokenizer_fit(tokenizer, new)
    cyrillic = {chr(97 + i): chr(0x430 + i) for i in range(26)}
    other = {
        "another script": new.lower().translate(str.maketrans(cyrillic)),
        "protein": "".join(rng.choice("ACDEFGHIKLMNPQRSTVWY") for _ in range(40_000)),
        "shouting": new.upper(),
        "numbers": " ".join(f"{rng.gauss(0, 100):.3f}" for _ in range(6_000)),
    }
    kind = pick(rng, tune, ["another script", "numbers"], ["another script", "protein", "shouting"])
    yield "tokenizer", tokenizer_fit(tokenizer, other[kind])


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int, dict]]:
    """Family, what was planted, the finding to expect, seed, and what the doctor saw, for each training."""
    tune = options.set == "tune"
    first = options.first if options.first is not None else 0 if tune else 1000
    for family, faults, run in (("gpt", GPT_FAULTS, gpt_run), ("mlp", MLP_FAULTS, mlp_run)):
        for k, fault in enumerate([*HEALTHY, *faults]):
            for seed in range(first + 100 * k, first + 100 * k + options.seeds):
                if options.only in {"", family} and options.fault in {"", fault}:
                    yield family, fault, faults.get(fault, ""), seed, run(fault, seed, tune)
    for seed in range(first, first + options.seeds):
        if options.only in {"", "tokenizer"} and not options.fault:
            for fault, facts in tokenizer_runs(seed, tune):
                yield "tokenizer", fault, "tokenizer misfit" if fault == "tokenizer" else "", seed, facts


def pack(evidence: dict) -> dict:
    """As plain values, for JSON."""
    samples = [look | {"dead": {n: mask.tolist() for n, mask in look["dead"].items()}} for look in evidence.get("samples", [])]
    return evidence | {"history": evidence["history"].to_dict(), "samples": samples}


def unpack(stored: dict) -> dict:
    """What `pack` was given."""
    samples = [look | {"dead": {n: np.array(mask) for n, mask in look["dead"].items()}} for look in stored["samples"]]
    return stored | {"history": History.from_dict(stored["history"]), "samples": samples}


def stored_cases(path: str) -> Iterator[tuple[str, str, str, int, dict]]:
    """The same from a file."""
    with open(path) as f:
        for line in f:
            *case, evidence = json.loads(line)
            yield (*case, unpack(evidence))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", choices=("check", "tune"), default="check")
    parser.add_argument("--first", type=int, help="first seed, instead of the set's")
    parser.add_argument("--only", default="", help="gpt, mlp or tokenizer")
    parser.add_argument("--fault", default="", help="only this one")
    parser.add_argument("--save", default="", help="append what the doctor saw to this file")
    parser.add_argument("--load", default="", help="ask again about the runs in this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table: dict = defaultdict(list)
    for *case, evidence in stored_cases(options.load) if options.load else cases(options):
        family, fault, expected, _ = case
        table[family, fault, expected].append(diagnose_network(evidence))
        if options.save:
            with open(options.save, "a") as f:
                f.write(json.dumps([*case, pack(evidence)]) + "\n")
    report(table)


def report(table: dict) -> None:
    """Rates by fault."""
    print(f"{'network':10} {'planted':14} {'runs':>4} {'hits':>5}  named as well (runs)")
    hits = planted = alarms = notes = healthy = 0
    for (family, fault, expected), runs in table.items():
        others: dict[str, int] = defaultdict(int)
        for name in (f["name"] for found in runs for f in found if f["name"] != expected):
            others[name] += 1
        if expected:
            good = sum(any(f["name"] == expected for f in found) for found in runs)
            hits, planted = hits + good, planted + len(runs)
        else:
            good = sum(all(f["severity"] == "note" for f in found) for found in runs)
            notes += sum(bool(found) for found in runs) - len(runs) + good
            alarms, healthy = alarms + len(runs) - good, healthy + len(runs)
        told = ", ".join(f"{n} ({c})" for n, c in sorted(others.items(), key=lambda kv: -kv[1]))
        print(f"{family:10} {fault:14} {len(runs):4d} {good:5d}  {told}")
    print(f"hit rate {rate(hits, planted)}; false alarms {rate(alarms, healthy)}; healthy runs with a note only: {notes}")


def rate(k: int, n: int) -> str:
    """A share with its 95 % interval."""
    part = wilson(k, n)
    return f"{k}/{n} = {part['value']:.1%} ({part['low']:.1%} to {part['high']:.1%})"


if __name__ == "__main__":
    sys.exit(main())
