"""Hit and false-alarm rates of the doctor for networks: faults are planted in small trainings, and it has to name them.

    python benchmarks/doctor.py [--seeds 5] [--set check|tune] [--only gpt] [--save symptoms.jsonl]

Two families of networks (a character GPT on the Python reference that the standard library bundles, a classifier of
scikit-learn's handwritten digits), in settings that differ from seed to seed. Thresholds were chosen on `--set tune`
(seeds from 0, smaller models); the published rates are those of `--set check` (seeds from 1000, other models, rates, texts).
A hit: the planted fault is among the findings. A false alarm: a healthy training with any finding.
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

from aimt.data.tokens import TokenBatches
from aimt.models.gpt import GPT, GPTConfig, gpt_loss
from aimt.models.ngram import NGram
from aimt.train.doctor import Watch, diagnose_network, symptoms, tokenizer_fit
from aimt.train.loop import TrainConfig, Trainer

# Planted fault -> name of the finding
GPT_FAULTS = {
    "lr high": "learning rate too high", "lr low": "learning rate too low", "underfit": "underfitting",
    "overfit": "overfitting", "little data": "too little data", "dead": "dead units", "exploding": "exploding gradients",
    "bad init": "bad initialisation", "label noise": "label noise", "slow input": "slow input",
}  # fmt: skip
MLP_FAULTS = {
    "lr high": "learning rate too high", "lr low": "learning rate too low", "underfit": "underfitting",
    "overfit": "overfitting", "little data": "too little data", "dead": "dead units",
    "exploding": "exploding gradients", "vanishing": "vanishing gradients", "bad init": "bad initialisation",
    "label noise": "label noise", "slow input": "slow input",
}  # fmt: skip


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
    optimizer = pick(rng, tune, ["adamw"], ["adamw", "muon"])
    style = pick(
        rng, tune, [{}], [{}, {"norm": "layer", "mlp": "gelu", "positions": "learned", "qk_norm": False, "bias": True}]
    )
    if fault == "dead":
        style = {}
    if fault == "lr high":
        lr *= pick(rng, tune, [40, 150], [30, 100])
    if fault == "lr low":
        lr /= pick(rng, tune, [100, 500], [60, 300])
    if fault == "underfit":
        width, layers, steps = pick(rng, tune, [(8, 1, 160), (64, 2, 8)], [(6, 1, 180), (64, 3, 10)])
    n = {"overfit": pick(rng, tune, [4_000], [5_000]), "little data": pick(rng, tune, [2_000], [1_500, 2_500])}.get(
        fault, len(train)
    )
    if fault in {"overfit", "little data"}:
        steps, width, lr = 250, 64, 6e-3
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
    reference = NGram(2).fit(train[:300_000], V).nats(valid[:50_000])
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
    if fault == "underfit":
        width = 2
    bend: Callable[[], nn.Module] = nn.ReLU
    if fault == "vanishing":
        bend = pick(rng, tune, [nn.Sigmoid], [nn.Sigmoid, nn.Tanh])
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
    steps, lr, rows = (
        pick(rng, tune, [300], [200, 400]),
        pick(rng, tune, [2e-3], [1e-3, 3e-3]),
        pick(rng, tune, [64], [32, 64]),
    )
    optimizer = pick(rng, tune, ["adamw"], ["adamw", "muon"])
    if fault == "lr high":
        lr *= pick(rng, tune, [100, 400], [80, 300])
    if fault == "lr low":
        lr /= pick(rng, tune, [100, 500], [60, 300])
    if fault in {"overfit", "little data"}:
        steps = 800
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
    reference = float(
        F.cross_entropy(-(torch.cdist(Xv, centres) ** 2), held[0]["targets"])
    )  # the nearest centre, as a softmax
    loss_fn = lambda m, b: F.cross_entropy(m(b["ids"]), b["targets"])
    return train_watched(model, batches, loss_fn, held, 64 * n, reference, steps, lr, optimizer, seed)


def train_watched(model, batches, loss_fn, held, n, reference, steps, lr, optimizer, seed) -> dict:
    """Train with the doctor watching. A run that ends in an error still has a history."""

    def evaluate(m: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"valid_loss": float(np.mean([float(loss_fn(m, b)) for b in held]))}

    watch = Watch(probe=held, n_tokens=n, reference_loss=reference)
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

    from aimt.data.tokenizer import train_tokenizer

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", choices=("check", "tune"), default="check")
    parser.add_argument("--only", default="", help="gpt, mlp or tokenizer")
    parser.add_argument("--fault", default="", help="only this one")
    parser.add_argument("--save", default="", help="append the symptoms of every run to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tune = options.set == "tune"
    first = 0 if tune else 1000
    table: dict = defaultdict(list)

    def note(family: str, fault: str, expected: str, seed: int, evidence: dict) -> None:
        names = [f["name"] for f in diagnose_network(evidence)]
        table[family, fault, expected].append(names)
        if options.save:
            with open(options.save, "a") as f:
                f.write(
                    json.dumps(
                        {"family": family, "fault": fault, "seed": seed, "names": names, "symptoms": symptoms(evidence)}
                    )
                    + "\n"
                )

    for family, faults, run in (("gpt", GPT_FAULTS, gpt_run), ("mlp", MLP_FAULTS, mlp_run)):
        if options.only not in {"", family}:
            continue
        healthy = [("healthy", "")] * 2  # twice as many healthy ones
        for k, (fault, expected) in enumerate([*healthy, *faults.items()]):
            for i in range(options.seeds):
                seed = first + i + (500 if fault == "healthy" and k else 0)
                if not options.fault or fault == options.fault:
                    note(family, fault, expected, seed, run(fault, seed, tune))
    if options.only in {"", "tokenizer"}:
        for i in range(options.seeds):
            for fault, facts in tokenizer_runs(first + i, tune):
                note("tokenizer", fault, "tokenizer misfit" if fault != "healthy" else "", first + i, facts)
    report(table)


def report(table: dict) -> None:
    """Rates by fault."""
    print(f"{'network':10} {'planted':12} {'runs':>4} {'hits':>5}  named as well (runs)")
    hits = planted = alarms = healthy = 0
    for (family, fault, expected), runs in table.items():
        others: dict[str, int] = defaultdict(int)
        for names in runs:
            for name in names:
                if name != expected:
                    others[name] += 1
        found = sum(expected in names for names in runs) if expected else sum(not names for names in runs)
        if expected:
            hits, planted = hits + found, planted + len(runs)
        else:
            alarms, healthy = alarms + len(runs) - found, healthy + len(runs)
        told = ", ".join(f"{n} ({c})" for n, c in sorted(others.items(), key=lambda kv: -kv[1]))
        print(f"{family:10} {fault:12} {len(runs):4d} {found:5d}  {told}")
    print(
        f"hit rate {hits}/{planted} = {hits / max(planted, 1):.1%}; false alarms {alarms}/{healthy} = {alarms / max(healthy, 1):.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
