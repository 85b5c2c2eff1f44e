"""Finding wrong labels: aimt's automatic cut and ranking beside cleanlab's filters, on the same out-of-fold probabilities.

    python benchmarks/labels.py [--seeds 0 1 2 3 4] [--rates 0.05] [--cleanlab PYTHON]

Digits (1797 x 64, divided by 16), a share of the labels moved to a random other class, five stratified folds of logistic
regression, and of an RBF support vector machine (softmax of twice its decision values). `--cleanlab` is the interpreter of
an environment that has cleanlab (this one by default); without it only aimt is measured. `strength` and the limits of
`find_label_errors` were chosen on seeds 10 and up. One JSON line for each model and rate: means over the seeds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import SVC

from aimt.evaluate.table.label_errors import find_label_errors

FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "low_self_confidence")
CHILD = """
import json, sys, time
import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
data, out = np.load(sys.argv[1]), {}
for name in sys.argv[2].split():
    start = time.process_time()
    found = find_label_issues(data["y"], data["p"], filter_by=name, n_jobs=1)
    out[name] = {"rows": np.flatnonzero(found).tolist(), "seconds": time.process_time() - start}
for name in ("self_confidence", "normalized_margin"):
    out[name] = {"quality": get_label_quality_scores(data["y"], data["p"], method=name).tolist()}
print(json.dumps(out))
"""


def moved(rate: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, true labels, and labels of which a share was moved to a random other class."""
    X, true = load_digits(return_X_y=True)
    rng, y = np.random.default_rng(seed), true.copy()
    rows = rng.choice(len(y), round(rate * len(y)), replace=False)
    y[rows] = (true[rows] + rng.integers(1, 10, len(rows))) % 10
    return X / 16, true, y


def predict(model: str, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Out-of-fold probabilities, five stratified folds."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    if model == "logistic":
        return cross_val_predict(LogisticRegression(max_iter=1000), X, y, cv=folds, method="predict_proba")
    return softmax(2 * cross_val_predict(SVC(C=10, gamma=0.06), X, y, cv=folds, method="decision_function"), axis=1)


def f1(rows: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of the flagged rows."""
    hits = wrong[rows].sum()
    return {
        "precision": hits / max(len(rows), 1),
        "recall": hits / max(wrong.sum(), 1),
        "f1": 2 * hits / max(len(rows) + wrong.sum(), 1),
        "flagged": float(len(rows)),
    }


def cleanlab(python: str, y: np.ndarray, p: np.ndarray) -> dict[str, dict]:
    """What cleanlab finds, in its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.npz"
        np.savez(path, y=y, p=p)
        command = [python, "-c", CHILD, str(path), " ".join(FILTERS)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def one(model: str, rate: float, seed: int, python: str) -> dict[str, dict[str, float]]:
    """All figures of one seed."""
    X, true, y = moved(rate, seed)
    p, wrong = predict(model, X, y), y != true
    start = time.process_time()
    found = find_label_errors(y, p)
    seconds = time.process_time() - start
    out = {
        "aimt": f1(found.table["row"].to_numpy(int), wrong)
        | {
            "seconds": seconds,
            "rate": found.noise_rate["value"],
            "covered": float(found.noise_rate["low"] <= wrong.mean() <= found.noise_rate["high"]),
        }
    }
    if wrong.any():
        out["aimt"]["ap"] = average_precision_score(wrong, found.probability)
    for name, theirs in cleanlab(python, y, p).items():
        if "quality" in theirs:
            out[name] = {"ap": average_precision_score(wrong, -np.array(theirs["quality"]))} if wrong.any() else {}
        else:
            out[name] = f1(np.array(theirs["rows"], int), wrong) | {"seconds": theirs["seconds"]}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05])
    parser.add_argument("--models", nargs="+", default=["logistic", "svc"], choices=["logistic", "svc"])
    parser.add_argument("--cleanlab", default=sys.executable, help="interpreter that has cleanlab")
    options = parser.parse_args()
    for model in options.models:
        for rate in options.rates:
            runs = [one(model, rate, seed, options.cleanlab) for seed in options.seeds]
            mean = {name: {key: round(float(np.mean([r[name][key] for r in runs])), 4) for key in runs[0][name]} for name in runs[0]}
            line = {"model": model, "rate": rate, "seeds": len(runs), **mean}
            line["f1_each"] = [round(float(r["aimt"]["f1"]), 3) for r in runs]
            best = max((mean[name]["f1"] for name in FILTERS if name in mean), default=None)
            ranked = [mean[name]["ap"] for name in ("self_confidence", "normalized_margin") if mean.get(name)]
            if best:
                line["f1_ratio"] = round(mean["aimt"]["f1"] / best, 3)
            if ranked:
                line["ap_ratio"] = round(mean["aimt"]["ap"] / max(ranked), 4)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
