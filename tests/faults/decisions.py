"""Decisions of a bandit, and the rewards that come late, twice, never, or wrong."""

import math
from typing import Any

import numpy as np

from aimt.core.errors import DataError, ProblemError
from aimt.decide.bandits import Bandit, EpsilonGreedy, LinearArms, LinUCB, Safety, Thompson
from faults.case import Group, Place

decisions = Group("decisions")
X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)


def bandit(actions: int = 3, rule: Any = None, **more: Any) -> Bandit:
    return Bandit(LinearArms(actions, 3), rule or Thompson(), **more)


def same(a: Bandit, b: Bandit) -> bool:
    return bool(np.allclose(a.model.weights, b.model.weights, atol=1e-4))


def rewarded(order: str) -> tuple[Bandit, Bandit]:
    """The same decisions and rewards, in order and otherwise."""
    one, other = bandit(), bandit()
    made = [b.decide_batch(X).ids for b in (one, other)]
    for i in made[0]:
        one.learn(int(i), float(i % 3))
    for i in {"late": made[1][::-1], "twice": np.repeat(made[1], 2)}[order]:
        learned = other.learn(int(i), float(i % 3))
        assert learned or order == "twice"
    return one, other


def never() -> Bandit:
    made = bandit(max_pending=10)
    for x in X:
        made.decide(x)
    assert not made.learn(0, 1.0) and made.learn(299, 1.0)
    return made


def learned(rewards: Any, rule: Any = None) -> Bandit:
    made = bandit(rule=rule, safety=Safety(min_propensity=0.05, baseline=0, baseline_share=0.2))
    for x, reward in zip(X, rewards, strict=True):
        made.learn(made.decide(x).id, float(reward))
    return made


def bounded(made: Bandit) -> bool:
    probs = made.probabilities(X)
    return bool(
        np.isfinite(probs).all() and np.allclose(probs.sum(1), 1) and probs.min() >= 0.05 - 1e-9 and probs[:, 0].min() >= 0.2 - 1e-9
    )


def without_one() -> Any:
    made = learned(np.ones(300))
    return [made.decide(x, available=[0, 2]) for x in X[:100]]


def judged(propensity: float, clip: float | None = None) -> Any:
    from aimt.decide.off_policy import Log, off_policy

    log = Log(np.zeros(200, int), np.full(200, propensity), np.ones(200))
    return off_policy(log, np.tile([0.9, 0.1], (200, 1)), clip=clip)


def torn(place: Place) -> Any:
    """A journal whose last line was cut off by a crash."""
    from aimt.decide.decision_state import DurableBandit

    kept = DurableBandit(place.path / "policy", bandit())
    for x in X[:5]:
        kept.learn(kept.decide(x).id, 1.0)
    before = kept.bandit.model.weights.copy()
    kept.close()
    log = max((place.path / "policy").glob("*.jsonl"), key=lambda p: p.stat().st_size)
    log.write_bytes(log.read_bytes() + b'{"id": 5, "x": [1, 2')
    again = DurableBandit(place.path / "policy")
    found = bool(np.array_equal(before, again.bandit.model.weights)) and again.decide(X[0]).id == 5
    again.close()
    return found


decisions.recovered(
    "rewards in another order", "decide", "The same model as in order.", lambda p: lambda: rewarded("late"), lambda b, p: same(*b)
)
decisions.recovered(
    "rewards that come twice", "decide", "Each counts once, by its id.", lambda p: lambda: rewarded("twice"), lambda b, p: same(*b)
)
decisions.recovered(
    "rewards that never come", "decide", "The oldest decisions are forgotten; memory is bounded.", lambda p: never, lambda b, p: True
)
decisions.refused(
    "a reward of a decision that was never made",
    "decide",
    "The id is named.",
    lambda p: lambda: bandit().learn(7, 1.0),
    DataError,
    "no decision 7",
)
for name, reward in {"NaN": math.nan, "infinity": math.inf}.items():
    decisions.refused(
        f"a reward of {name}",
        "decide",
        "Refused; nothing is learned.",
        lambda p, reward=reward: lambda: bandit().learn(0, reward),
        DataError,
        "the reward of decision 0",
    )
decisions.refused(
    "a context with a missing value",
    "decide",
    "Refused; no action is drawn.",
    lambda p: lambda: bandit().decide([1, math.nan, 0]),
    DataError,
)
decisions.recovered(
    "an action that is removed",
    "decide",
    "It is not drawn, and the others add up to 1.",
    lambda p: lambda: without_one(),
    lambda found, p: {d.action for d in found} == {0, 2} and all(d.propensity > 0 for d in found),
)
decisions.refused(
    "an action that does not exist",
    "decide",
    "The number of actions is named.",
    lambda p: lambda: bandit().decide(X[0], available=[0, 9]),
    DataError,
    "of 3",
)
decisions.refused(
    "a propensity of 0 in a log", "decide", "The decision is named.", lambda p: lambda: judged(0.0), DataError, "decision 0 has propensity"
)
decisions.recovered(
    "tiny propensities",
    "decide",
    "Weights are cut where that is asked for, and the share of rows is reported.",
    lambda p: lambda: judged(1e-6, clip=20.0),
    lambda found, p: found.clipped == 1.0 and found.max_weight == 20.0,
)
for name, rule in {"Thompson sampling": Thompson(), "LinUCB": LinUCB(), "epsilon-greedy": EpsilonGreedy()}.items():
    decisions.recovered(
        f"rewards that are all equal ({name})",
        "decide",
        "The minimum probabilities and the share of the baseline are kept.",
        lambda p, rule=rule: lambda: learned(np.ones(300), rule),
        lambda b, p: bounded(b),
    )
    decisions.recovered(
        f"rewards of an adversary ({name})",
        "decide",
        "The minimum probabilities and the share of the baseline are kept.",
        lambda p, rule=rule: lambda: learned(np.where(np.arange(300) % 2, 1e6, -1e6), rule),
        lambda b, p: bounded(b),
    )
decisions.recovered(
    "100,000 actions",
    "decide",
    "A decision is made, with its probability.",
    lambda p: lambda: bandit(100_000, EpsilonGreedy()).decide(X[0]),
    lambda d, p: 0 <= d.action < 100_000 and 0 < d.propensity <= 1,
)
decisions.refused(
    "more actions than memory", "decide", "The memory that they need is named.", lambda p: lambda: bandit(10**9), ProblemError, "GB"
)
decisions.recovered(
    "a journal that was cut off in a line",
    "decide",
    "The line is dropped; the model is as before.",
    lambda p: lambda: torn(p),
    lambda ok, p: ok,
)
