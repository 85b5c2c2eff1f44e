"""Bandits and off-policy evaluation: steps per CPU-second, regret on digits, coverage of intervals in logged replays, verdicts.

    python benchmarks/bandits.py [--only speed regret coverage] [--seeds 5] [--decisions 20000] [--replays 500] [--tune] [--json FILE]

The bandit: scikit-learn's digits (64 pixels divided by 16), ten actions, reward 1 for the right digit, contexts drawn with replacement by
`default_rng(seed).integers`. The settings were chosen with `--tune`, on seeds 100 to 102; the figures are for seeds 0, 1, ....
Speed is CPU time of decide and learn together, one thread: the median and the best of equal parts, as other processes slow some of them.
A replay is a log of the old policy, drawn anew, from which the value and the gain of a new policy are estimated; both are known exactly.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from sklearn.datasets import load_digits

from aimt.decide.bandits import Bandit, EpsilonGreedy, LinearArms, LinUCB, Rule, Thompson
from aimt.decide.off_policy import Log, cross_fit_rewards, judge_policy, off_policy
from aimt.metrics.intervals import wilson

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
TUNING = (100, 101, 102)
POLICIES: dict[str, tuple[Rule, int]] = {  # rule and random features
    "epsilon-greedy 0.02": (EpsilonGreedy(0.02), 0),
    "Thompson 0.3": (Thompson(0.3), 0),
    "LinUCB 0.5": (LinUCB(0.5), 0),
    "LinUCB 0.5, 31 random features": (LinUCB(0.5), 31),
}


def bandit(rule: Rule, n_random: int, seed: int = 0) -> Bandit:
    """A new bandit; the seed draws its random features and its actions."""
    return Bandit(LinearArms(10, 64, n_random=n_random, seed=seed), rule, seed=seed)


def play(policy: Bandit, order: np.ndarray) -> int:
    """Decide about images one by one, and learn from each reward; returns how many decisions were wrong."""
    wrong = 0
    for i in order:
        decision = policy.decide(X[i])
        right = decision.action == Y[i]
        wrong += not right
        policy.learn(decision.id, 1.0 if right else 0.0)
    return wrong


def contexts(seed: int, n: int) -> np.ndarray:
    """The images that n decisions are about."""
    return np.random.default_rng(seed).integers(0, len(X), n)


def regret(rule: Rule, n_random: int, seed: int, n: int) -> int:
    """Wrong decisions of n."""
    return play(bandit(rule, n_random, seed), contexts(seed, n))


def rates(step: Callable[[np.ndarray], None], parts: np.ndarray) -> dict[str, float]:
    """Steps per CPU-second in each part: median and best."""
    found = []
    for part in parts:
        start = time.process_time()
        step(part)
        found.append(len(part) / (time.process_time() - start))
    return {"median": float(np.median(found)), "best": float(max(found))}


def speed(n_random: int, batch: int | None) -> dict[str, float]:
    """Steps per CPU-second of LinUCB, one by one or in batches."""
    policy, order = bandit(LinUCB(0.5), n_random), np.random.default_rng(0).integers(0, len(X), (20, batch or 1000))

    def singly(part: np.ndarray) -> None:
        play(policy, part)

    def together(part: np.ndarray) -> None:
        found = policy.decide_batch(X[part])
        policy.learn_batch(found.ids, (found.actions == Y[part]).astype(float))

    return rates(together if batch else singly, order)


def guesses(n: int, seed: int) -> np.ndarray:
    """The best action for each image after n decisions."""
    policy = bandit(LinUCB(0.5), 0, seed)
    play(policy, contexts(seed, n))
    return policy.model.predict(policy.model.features(X))[0].argmax(1)


def mixed(best: np.ndarray, epsilon: float) -> np.ndarray:
    """Probabilities of a policy that takes its best action, and any action with probability epsilon."""
    return (1 - epsilon) * np.eye(10)[best] + epsilon / 10


def replays(epsilon: float, n_rows: int, n_replays: int) -> dict[str, dict[str, float]]:
    """Share of intervals that cover the value and the gain of a new policy, by method, and the verdicts on it."""
    chance, old, new = np.where(np.arange(10) == Y[:, None], 0.9, 0.1), mixed(guesses(400, 1), epsilon), mixed(guesses(2500, 2), 0.0)
    truth = {"value": float((new * chance).sum(1).mean()), "gain": float(((new - old) * chance).sum(1).mean())}
    covered: dict[str, list[bool]] = {}
    words = dict.fromkeys(("SHIP", "NOT YET", "HOLD"), 0)
    for seed in range(n_replays):
        rng = np.random.default_rng(seed)
        i = rng.integers(0, len(X), n_rows)
        actions = np.minimum((old[i].cumsum(1) <= rng.random((n_rows, 1))).sum(1), 9)
        log = Log(actions, old[i, actions], (rng.random(n_rows) < chance[i, actions]).astype(float))
        predicted = cross_fit_rewards(X[i], log, lambda: LinearArms(10, 64, ridge=1.0), n_folds=2)
        for method in ("dr", "snips", "ips"):
            found = off_policy(log, new[i], predicted, method=method)
            for what, ends in (("value", found.value), ("gain", found.gain)):
                covered.setdefault(f"{method} {what}", []).append(ends["low"] <= truth[what] <= ends["high"])
            if method == "dr":
                words[judge_policy(found).verdict] += 1
    return {name: wilson(sum(c), len(c)) for name, c in covered.items()} | {"verdicts": {k: float(v) for k, v in words.items()}}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("speed", "regret", "coverage"), default=["speed", "regret", "coverage"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1000, help="decisions in a log")
    parser.add_argument("--tune", action="store_true", help="regret of other settings, on the tuning seeds")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, dict] = {}
    if args.tune:
        for n_random in (0, 15, 31):
            for alpha in (0.3, 0.5, 0.7):
                print(n_random, alpha, [regret(LinUCB(alpha), n_random, seed, args.decisions) for seed in TUNING], flush=True)
        return
    if "speed" in args.only:
        for n_random in (0, 31):
            for batch in (None, 1024, 4096):
                name = f"LinUCB, {65 + n_random} features, {f'batches of {batch}' if batch else 'one by one'}"
                found.setdefault("steps per CPU-second", {})[name] = rate = speed(n_random, batch)
                print(f"{name:45s} {rate['median']:10,.0f} steps per CPU-second (best {rate['best']:,.0f})", flush=True)
    if "regret" in args.only:
        for name, (rule, n_random) in POLICIES.items():
            found.setdefault("regret", {})[name] = each = [regret(rule, n_random, seed, args.decisions) for seed in range(args.seeds)]
            print(f"{name:45s} regret {np.mean(each):6.0f} of {args.decisions:,}; by seed {each}", flush=True)
    if "coverage" in args.only:
        for epsilon in (1.0, 0.3, 0.1, 0.05):
            found.setdefault("coverage", {})[f"epsilon {epsilon}"] = shares = replays(epsilon, args.rows, args.replays)
            line = "  ".join(f"{k} {v['value']:.3f}" for k, v in shares.items() if k != "verdicts")
            print(f"log with epsilon {epsilon:4g}, {args.replays} replays of {args.rows:,}: {line}  {shares['verdicts']}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
