"""Whether a time limit holds, what a budget in rounds repeats, how fast reasons are, and what an installation weighs.

    python benchmarks/limits.py

Each fit is timed alone, on one thread; the ratio of a limit is the seconds taken by the seconds allowed. LightGBM's own contributions are
those of the same boosters on the same encoded rows.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import json
import time
from importlib.metadata import distribution, requires
from pathlib import Path

import numpy as np
import pandas as pd

from aimt.data.sources.catalog import load_dataset
from aimt.metrics.classification import roc_auc
from aimt.models.trees.boosting import Member
from aimt.models.table.estimators import TabularClassifier


def table(rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers, categories and gaps, and two classes that hang on them."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, 15)), columns=[f"x{i}" for i in range(15)])
    frame["shop"], frame["kind"] = rng.choice([f"s{i}" for i in range(60)], rows), rng.choice(list("abcd"), rows)
    score = frame["x0"] * frame["x1"] + np.sin(2 * frame["x2"]) + (frame["kind"] == "a") + 0.1 * frame["shop"].str[1:].astype(int)
    y = (score + rng.normal(size=rows) > score.median()).astype(int).to_numpy()
    return frame.mask(rng.random(frame.shape) < 0.05), y


def limits() -> None:
    """Fits of 1 to 60 seconds on a small and a larger table, and what they are good for."""
    for rows in (4_000, 40_000):
        frame, y = table(rows)
        train = np.arange(rows) < 0.75 * rows
        for limit in (1, 2, 5, 20, 60):
            begin = time.perf_counter()
            model = TabularClassifier(n_threads=1).fit(frame[train], y[train], time_limit=limit)
            took = time.perf_counter() - begin
            auc = roc_auc(y[~train], model.predict_proba(frame[~train]))
            print(
                json.dumps(
                    {
                        "what": "limit",
                        "rows": rows,
                        "limit_s": limit,
                        "fit_s": round(took, 2),
                        "ratio": round(took / limit, 3),
                        "auc": round(float(auc), 4),
                        "cut": model.stopped_by_time_,
                    }
                ),
                flush=True,
            )


def rounds() -> None:
    """Two fits with a budget in rounds: the largest difference of a prediction."""
    frame, y = table(2_000)
    a, b = (TabularClassifier(n_threads=1, n_recipes=6, rounds=100, n_repeats=2).fit(frame, y).predict_proba(frame) for _ in range(2))
    print(json.dumps({"what": "budget in rounds", "rows": len(frame), "largest difference": float(np.abs(a - b).max())}), flush=True)


def reasons() -> None:
    """Exact contributions of a whole model against LightGBM's own of the same boosters."""
    frame = load_dataset("german-credit").frame
    y = frame.pop("credit_risk")
    model = TabularClassifier(n_threads=1, n_recipes=2, n_repeats=1).fit(frame, y)
    ensemble = model.ensemble_
    boosters = [part.model.booster for part in ensemble.parts if isinstance(part.model, Member)]
    X = ensemble.encoder.transform(frame)
    ours = best_of(lambda: model.contributions(frame))
    own = best_of(lambda: [booster.predict(X, pred_contrib=True, num_threads=1) for booster in boosters])
    parts = model.contributions(frame)
    print(
        json.dumps(
            {
                "what": "contributions",
                "rows": len(frame),
                "trees": model.n_trees_,
                "aimt_cpu_s": round(ours, 3),
                "lightgbm_cpu_s": round(own, 3),
                "ratio": round(ours / own, 3),
                "additivity error": float(parts.attrs["additivity_error"]),
            }
        ),
        flush=True,
    )


def best_of(work: object, times: int = 3) -> float:
    """CPU seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def size() -> None:
    """Megabytes on the disk of all that the core installation brings."""
    seen: dict[str, float] = {}
    left = ["aimt"]
    while left:
        name = left.pop()
        if name in seen:
            continue
        try:
            seen[name] = _megabytes(name)
        except ModuleNotFoundError:  # for another platform
            continue
        left += [_name(line) for line in requires(name) or [] if "extra ==" not in line]
    largest = sorted(seen, key=seen.get, reverse=True)[:5]
    print(
        json.dumps(
            {
                "what": "installation",
                "packages": len(seen),
                "mb": round(sum(seen.values())),
                "largest": {n: round(seen[n]) for n in largest},
            }
        )
    )


def _megabytes(name: str) -> float:
    return sum(Path(file.locate()).stat().st_size for file in distribution(name).files or [] if Path(file.locate()).is_file()) / 1e6


def _name(line: str) -> str:
    return next(line[:i] for i in range(len(line) + 1) if i == len(line) or line[i] in " <>=!~;[(").lower().replace("_", "-")


if __name__ == "__main__":
    limits()
    rounds()
    reasons()
    size()
