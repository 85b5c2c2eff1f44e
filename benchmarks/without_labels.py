"""Performance estimated without labels: error against the true value, coverage of the intervals, and what is said under concept drift.

    python benchmarks/without_labels.py [--repeats 200]

The truth is known: outcomes are drawn from a logistic model of three inputs, and a logistic regression is tested on 2,000 rows. A batch of
2,000 rows comes from another population of inputs (covariate shift), and the interval has to cover the AUC that is measured on it. Then the
relation itself changes (concept drift): the labels of one batch arrive, and of the next, without labels, the estimate must say that it
cannot know. Without any labels nobody can see a concept drift; each estimate says so.
"""

import argparse
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from aimt.metrics.classification import roc_auc
from aimt.metrics.intervals import Interval, mean_interval, wilson
from aimt.metrics.registry import METRICS
from aimt.monitor.estimated_performance import compare_performance, doubts, estimate_performance, fit_recalibration

ROWS = 2000


def draw(rng: np.random.Generator, n: int, shift: float = 0.0, turned: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outcomes; moved inputs, or a relation that lost a part of its first effect."""
    X = rng.normal(size=(n, 3)) + [shift, -shift / 2, 0.0]
    return X, (rng.random(n) < expit(1.5 * (1 - turned) * X[:, 0] + X[:, 1] - 0.7 * X[:, 2] - 0.5)).astype(int)


def repeat(seed: int) -> dict[str, float | bool]:
    rng = np.random.default_rng(seed)
    model = LogisticRegression().fit(*draw(rng, 2000))
    X, y = draw(rng, ROWS)
    said = model.predict_proba(X)
    known, promised = fit_recalibration(y, said, seed=seed), roc_auc(y, said)
    new, labels = draw(rng, ROWS, shift=0.6)
    probs = model.predict_proba(new)
    told, truth = estimate_performance(probs, known, seed=seed)["roc_auc"], roc_auc(labels, probs)
    large, outcomes = draw(rng, 100_000, shift=0.6)
    out = {
        "error": abs(estimate_performance(model.predict_proba(large), known, n_draws=2, seed=seed)["roc_auc"].value
                     - roc_auc(outcomes, model.predict_proba(large))),
        "naive": abs(promised - roc_auc(outcomes, model.predict_proba(large))),
        "covered": told.low <= truth <= told.high,
        "doubted": bool(doubts(known)),
    }  # fmt: skip
    turned, after = draw(rng, ROWS, turned=0.6)
    told_after = estimate_performance(model.predict_proba(turned), known, seed=seed)
    probs = model.predict_proba(turned)
    scores = {name: METRICS[name].function(after, probs) for name in ("roc_auc", "log_loss")}
    measured: dict[str, Interval] = {name: {"value": float(v), "low": np.nan, "high": np.nan} for name, v in scores.items()}
    contradicted = any(row["contradicts"] for row in compare_performance(measured, {}, told_after))
    return out | {"cannot know": bool(doubts(known, contradicted=contradicted))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    n = parser.parse_args().repeats
    found = [repeat(seed) for seed in range(n)]
    for name, label in (("error", "estimated"), ("naive", "AUC of the test taken instead")):
        mean = mean_interval(np.array([f[name] for f in found], float))
        print(
            f"covariate shift, {label}: mean error {mean['value']:.4f} [{mean['low']:.4f}, {mean['high']:.4f}] of the AUC of 100,000 rows"
        )
    for name, label in (
        ("covered", "covariate shift: 95 % intervals that cover the measured AUC"),
        ("doubted", "covariate shift: estimates that say 'cannot know'"),
        ("cannot know", "concept drift, once a batch with labels came: estimates that say 'cannot know'"),
    ):
        share = wilson(sum(bool(f[name]) for f in found), n)
        print(f"{label}: {share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}] of {n}")
