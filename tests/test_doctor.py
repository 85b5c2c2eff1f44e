"""The doctor for networks: what it must name, and where it must be silent."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aimt.train.networks.doctor import DoctorLimits, diagnose_network
from aimt.train.networks.training_monitor import TrainingMonitor, look_at_targets, symptoms
from aimt.train.loop.trainer import TrainConfig, Trainer
from aimt.train.loop.state import History


def seen(
    losses=None,
    valid=None,
    steps: int = 100,
    *,
    grad_norm: float = 1.0,
    waiting: float = 0.0,
    stopped: str = "steps",
    samples=None,
    **facts,
) -> dict:
    """Evidence of a run without any training: by default a healthy one."""
    losses = np.geomspace(2.3, 0.5, steps) if losses is None else np.asarray(losses, float)
    valid = losses[9::10] + 0.02 if valid is None else valid
    rows = [
        {
            "step": i + 1,
            "loss": float(x),
            "lr": 1e-3,
            "grad_norm": grad_norm,
            "seconds": 0.1 * i,
            "tokens": 64.0,
            "data_seconds": 0.1 * waiting,
        }
        for i, x in enumerate(losses)
    ]
    evals = [{"step": 10 * (i + 1), "seconds": float(i), "valid_loss": float(v)} for i, v in enumerate(valid)]
    looks = [look(i) for i in range(0, len(losses), 5)] if samples is None else samples
    usual = {
        "n_classes": 10,
        "reference_loss": 1.0,
        "n_tokens": 10_000,
        "n_parameters": 5_000,
        "clip": 1.0,
        "targets_per_token": 1.0,
        "error": 0.1,
        "sure_wrong": 0.0,
        "random_share": 0.0,
    }
    return {"history": History(rows, evals, [], stopped), "samples": looks} | usual | facts


def look(step: int, *, grad=(1.0, 1.0, 1.0), weight=(1.0, 1.0, 1.0), update=(0.005,) * 3, spread=(1.0, 1.0, 1.0), dead=0.0):
    """One look of `TrainingMonitor` at a network of three layers."""
    named = lambda values: dict(zip("abc", values, strict=True))
    still = np.arange(100) < 100 * dead
    return {
        "step": step,
        "grad": named(grad),
        "weight": named(weight),
        "update": named(update),
        "spread": named(spread),
        "dead": {"b": still},
    }


def looks(**what) -> list[dict]:
    return [look(step, **what) for step in range(0, 100, 5)]


def names(evidence) -> list[str]:
    return [f["name"] for f in diagnose_network(evidence)]


flat, falling = np.full(100, 2.2), np.linspace(2.3, 1.5, 100)
ILL = {
    "learning rate too high": [seen(np.r_[np.geomspace(2.3, 0.5, 70), np.full(30, 1.5)], valid=[1.5]), seen(failed=1.0)],
    "learning rate too low": [seen(np.linspace(2.3, 2.2, 100), samples=looks(update=(1e-4,) * 3))],
    "exploding gradients": [seen(grad_norm=1e4), seen(samples=looks(spread=(1.0, 1e3, 1e6)))],
    "vanishing gradients": [seen(samples=looks(grad=(1e-9, 1e-4, 1.0))), seen(samples=looks(spread=(1.0, 1e-3, 1e-7)))],
    "bad initialisation": [seen(np.geomspace(50, 3, 100))],
    "dead units": [seen(samples=looks(dead=0.6))],
    "overfitting": [seen(valid=[1.5, 0.9, 0.8, 0.9, 1.2]), seen(np.geomspace(2.3, 0.01, 100), valid=[1.5, 1.2, 1.2])],
    "too little data": [seen(np.geomspace(2.3, 0.01, 100), valid=[1.5, 1.2, 1.2], n_tokens=200)],
    "underfitting": [seen(flat, reference_loss=1.0), seen(falling, reference_loss=1.0, n_parameters=100)],
    "trained too short": [seen(falling, reference_loss=1.0)],
    "label noise": [seen(sure_wrong=0.2, random_share=0.18)],
    "tokenizer misfit": [{"history": History(), "tokens_ratio": 2.0}, {"history": History(), "unknown": 0.05}],
    "slow input": [seen(waiting=0.5)],
}


@pytest.mark.parametrize(("name", "evidence"), [(n, e) for n, cases in ILL.items() for e in cases])
def test_each_illness_is_named(name, evidence):
    found = [f for f in diagnose_network(evidence) if f["name"] == name]
    assert len(found) == 1
    assert found[0]["evidence"] and found[0]["advice"] and "nan" not in found[0]["evidence"].split()


@pytest.mark.parametrize(
    "evidence",
    [
        seen(),
        seen(steps=20),  # short, and better than the baseline
        seen(grad_norm=20.0),  # sharp, but not absurd
        seen(valid=[1.5, 0.9, 0.7, 0.53, 0.52]),
        seen(valid=[1.5, 0.9, 0.52, 0.53, 0.54]),  # an evaluation that wavers
        seen(falling, reference_loss=None),  # nothing to compare with
        seen(samples=looks(spread=(1.0, 0.01, 20.0))),
        seen(sure_wrong=0.2, random_share=0.02),  # wrong, but never far
        seen(n_tokens=200),  # seen often, without a gap
        seen(samples=looks(update=(1e-3, 1e-3, 1e-3))),
        seen(samples=looks(update=(1e-4, 1e-4, 1e-4))),  # small steps in a good network: it is being finished
        seen(samples=looks(update=(0.04, 0.04, 0.04))),  # large steps from small weights, with a good end
        seen(steps=20, sure_wrong=0.3, random_share=0.2, waiting=0.5),  # too short to say
    ],
)
def test_nothing_is_named_in_a_healthy_run(evidence):
    assert names(evidence) == []


@pytest.mark.parametrize(
    "history",
    [
        History(),
        History(steps=[{"step": 1, "loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.1, "tokens": 1, "data_seconds": 0.0}]),
        History(evals=[{"step": 1, "valid_loss": 2.0}]),
    ],
)
def test_little_evidence_is_no_error(history):
    assert names(history) == names({"history": history, "samples": []}) == []


def test_losses_that_are_not_finite_are_no_error():
    assert isinstance(names(seen([math.nan] * 100, valid=[math.nan])), list)


def test_early_stopping_makes_overfitting_a_note():
    evidence = seen(valid=[1.5, 0.9, 0.8, 0.9, 1.2], stopped="patience")
    (found,) = diagnose_network(evidence)
    assert (found["name"], found["severity"]) == ("overfitting", "note")
    assert "kept" in found["evidence"]


def test_a_cause_hides_its_consequence():
    low = seen(flat, reference_loss=1.0, samples=looks(update=(1e-4,) * 3))
    assert names(low) == ["learning rate too low"]
    still = seen(samples=looks(spread=(1.0, 1e-3, 1e-7), dead=0.9))
    assert names(still) == ["vanishing gradients"]


def test_the_gravest_comes_first():
    found = diagnose_network(seen(falling, reference_loss=1.0, sure_wrong=0.2, random_share=0.18, waiting=0.5))
    assert [f["severity"] for f in found] == ["critical", "warning", "note"]


def test_limits_can_be_changed():
    evidence = seen(waiting=0.2)
    assert names(evidence) == []
    assert [f["name"] for f in diagnose_network(evidence, replace(DoctorLimits(), waiting=0.1))] == ["slow input"]


def test_matrices_that_start_at_zero_say_nothing_about_the_rate():
    samples = looks(update=(1e-4, 1e-4, 0.5))
    samples[0] = look(0, weight=(1.0, 1.0, 0.0), update=(1e-4, 1e-4, 1e9))
    assert symptoms(seen(samples=samples))["travel"] == pytest.approx(0.01)


def test_clipping_hides_nothing():
    plain, clipped = (symptoms(seen(grad_norm=norm)) for norm in (1.0, 50.0))
    assert clipped["pull_max"] == pytest.approx(50 * plain["pull_max"])
    assert symptoms(seen(grad_norm=50.0, clip=0.0))["pull_max"] == plain["pull_max"]


class Fixed(nn.Module):
    """Logits that were written down beforehand; `ids` are their rows."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, ids):
        return self.logits[ids]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_share_of_random_labels_is_recovered(share):
    rng, n, V = np.random.default_rng(0), 40_000, 12
    logits = torch.as_tensor(rng.normal(size=(n, V)), dtype=torch.float32)
    best, second = logits.topk(2).indices.T.numpy()
    y = np.where(rng.random(n) < 0.05, second, best)  # honest mistakes
    other = (best + rng.integers(1, V, n)) % V
    y = torch.as_tensor(np.where(rng.random(n) < share, other, y))
    facts = look_at_targets(Fixed(logits), [{"ids": torch.arange(n), "targets": y}])
    assert facts["random_share"] == pytest.approx(share, abs=0.015)
    assert facts["sure_wrong"] >= facts["random_share"]


def test_ignored_targets_are_not_looked_at():
    logits = torch.eye(4).repeat(10, 1) * 5
    y = torch.arange(4).repeat(10)
    y[:8] = -100
    facts = look_at_targets(Fixed(logits), [{"ids": torch.arange(40), "targets": y}])
    assert facts["error"] == facts["random_share"] == 0
    assert facts["targets_per_token"] == pytest.approx(0.8)


def test_the_spread_is_between_inputs_not_between_units():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-100, 100, 8))  # units differ, but each says the same to all
        model[0].weight.zero_()
    watch = TrainingMonitor()
    batches = [{"ids": torch.randn(16, 4), "targets": torch.randint(0, 3, (16,))}]
    loss_fn = lambda m, b: nn.functional.cross_entropy(m(b["ids"]), b["targets"])
    Trainer(model, batches, loss_fn, TrainConfig(steps=3, precision="fp32", device="cpu"), hooks=[watch]).fit()
    assert watch.samples[0]["spread"]["0"] == pytest.approx(0, abs=1e-5)
    assert set(watch.samples[0]["weight"]) == {"0.weight", "2.weight"}
    assert watch.facts["clip"] == 1.0
