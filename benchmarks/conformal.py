"""Coverage and size of conformal sets and intervals on a real table, over many splits, and the same from MAPIE.

    python benchmarks/conformal.py TABLE [--target NAME] [--groups a,b] [--splits 200] [--fits 200] [--effort fast] [--no-mapie]

Needs `pip install mapie` (1.x) for the peer. Two parts.

*functions*: one booster is fitted on a third of the rows; the rest is dealt into calibration and test rows again and again. Both
libraries get the same predictions, so that only the conformal part differs: absolute residuals, CQR and CV+ for numbers (CV+
with least squares, the same five folds), LAC and APS for classes. "grouped" is ours alone: a quantile for each group.

*model*: `TabularClassifier` or `TabularRegressor` is fitted on three quarters of the rows, again and again, and makes its sets or
intervals from its own out-of-fold predictions; the last quarter is counted.

A line holds the mean coverage over the splits, that of the worst group with 200 or more rows in every test part, and the mean
size relative to MAPIE's. Prints one JSON line per measurement.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from aimt.core.problem import Problem
from aimt.data.checks.audit import audit
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.features import FeatureEncoder, dense
from aimt.data.io.load import load_table
from aimt.data.table.infer_schema import infer_schema
from aimt.data.table.schema import Schema
from aimt.metrics.groups import make_groups
from aimt.models.table.conformal import (
    cell_quantiles,
    conformal_quantile,
    cqr_intervals,
    cqr_scores,
    cv_plus,
    fit_cells,
    group_codes,
    group_rule,
    label_scores,
    prediction_sets,
    residual_intervals,
    residual_scores,
    true_scores,
)
from aimt.models.table.estimators import TabularClassifier, TabularRegressor

COVERAGE, BIG = 0.9, 200


class Known:
    """An estimator whose predictions are known: X holds row numbers."""

    def __init__(self, pred: np.ndarray):
        self.pred, self.n_features_in_, self.is_fitted_ = pred, 1, True
        self.classes_ = np.arange(pred.shape[1]) if pred.ndim == 2 else None

    def fit(self, X, y):
        return self

    def predict(self, X):
        rows = np.asarray(X)[:, 0].astype(int)
        return self.pred[rows] if self.pred.ndim == 1 else self.pred[rows].argmax(axis=1)

    def predict_proba(self, X):
        return self.pred[np.asarray(X)[:, 0].astype(int)]

    def __sklearn_is_fitted__(self):
        return True


class KnownClassifier(Known):
    _estimator_type = "classifier"


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def read(path: str, target: str | None, groups: str | None) -> tuple[pd.DataFrame, np.ndarray, Problem, Schema]:
    frame = load_table(path).frame
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target=target, sensitive_features=groups)
    y, kept = encode_target(frame, problem, schema)
    frame = frame[kept].reset_index(drop=True)
    aside = {a["column"] for a in audit(frame, schema, problem)["set_aside"]}
    return frame, y, problem.replace(inputs=[c for c in problem.inputs if c not in aside]), schema


def count(inside: np.ndarray, size: np.ndarray, frame: pd.DataFrame, groups: list[str]) -> dict[str, tuple[float, float, int]]:
    """Share covered, mean size and rows: of all, and of each group as the report has them."""
    parts = {"all": np.ones(len(inside), bool)}
    for c in groups:
        names, codes, _ = make_groups(frame[c].to_numpy())
        parts |= {f"{c}={name}": codes == i for i, name in enumerate(names)}
    return {name: (float(inside[p].mean()), float(size[p].mean()), int(p.sum())) for name, p in parts.items()}


def summary(counts: list[dict[str, tuple[float, float, int]]]) -> dict:
    mean = {name: np.mean([c[name][0] for c in counts if name in c]) for c in counts for name in c}
    big = [n for n in mean if n != "all" and min(c[n][2] if n in c else 0 for c in counts) >= BIG]
    worst = min(big, key=lambda n: mean[n], default=None)
    return {
        "coverage": float(mean["all"]),
        "splits_sd": float(np.std([c["all"][0] for c in counts])),
        "size": float(np.mean([c["all"][1] for c in counts])),
        "worst_group": worst,
        "worst_coverage": None if worst is None else float(mean[worst]),
        "groups": len(big),
    }


def report(what: str, ours: list[dict], theirs: list[dict], *, grouped: bool, exact: bool = True, **more) -> None:
    """`exact`: the method promises the coverage itself, neither more nor less."""
    line = summary(ours)
    ok = line["coverage"] >= COVERAGE - 0.01 and (not exact or line["coverage"] <= COVERAGE + 0.01)
    if theirs:
        line |= {"mapie_coverage": summary(theirs)["coverage"], "size_vs_mapie": line["size"] / summary(theirs)["size"]}
        ok = ok and abs(line["size_vs_mapie"] - 1) <= 0.01
    if grouped and line["worst_coverage"] is not None:
        ok = ok and line["worst_coverage"] >= 0.87
    show(
        what=what,
        splits=len(ours),
        **line,
        limit=f"coverage {'.90 +- .01' if exact else 'at least .89'}"
        + (", groups >= .87" if grouped else "")
        + (", size within 1 % of MAPIE's" if theirs else ""),
        ok=bool(ok),
        **more,
    )


def functions(frame, y, problem: Problem, schema: Schema, splits: int, mapie: bool) -> None:
    """One booster, many deals of calibration and test rows."""
    order = np.random.default_rng(0).permutation(len(y))
    fit, rest = order[: len(y) // 3], order[len(y) // 3 :]
    encoder = FeatureEncoder(schema, problem.inputs).fit(frame.iloc[fit])
    X = encoder.transform(frame)
    rules = [group_rule(frame[c].to_numpy()[fit]) for c in problem.sensitive_features]
    keys = np.column_stack(
        [group_codes(r, frame[c].to_numpy()) for r, c in zip(rules, problem.sensitive_features, strict=True)]
        or [np.zeros((len(y), 0), int)]
    )
    found: dict[str, tuple[list, list]] = {}

    def keep(name: str, side: int, inside, size, new) -> None:
        found.setdefault(name, ([], []))[side].append(count(inside, size, frame.iloc[new], problem.sensitive_features))

    if problem.classification:
        probs = HistGradientBoostingClassifier(random_state=0).fit(X[fit], y[fit]).predict_proba(X)
    else:
        boosters = [
            HistGradientBoostingRegressor(random_state=0, **o).fit(X[fit], y[fit])
            for o in ({"loss": "quantile", "quantile": 0.05}, {"loss": "quantile", "quantile": 0.95}, {})
        ]
        preds = np.column_stack([b.predict(X) for b in boosters])
    for seed in range(splits):
        rng = np.random.default_rng(1 + seed)
        deal = rng.permutation(rest)
        old, new = deal[: len(rest) // 2], deal[len(rest) // 2 :]
        if problem.classification:
            split_classes(probs, y, keys, old, new, rng, keep, mapie)
        else:
            split_numbers(preds, y, keys, old, new, keep, mapie)
    if not problem.classification:
        for seed in range(max(splits // 20, 1)):
            crossed(dense(encoder).fit(X[fit]).transform(X), y, np.random.default_rng(seed).permutation(rest), keep, mapie)
    for name, (ours, theirs) in found.items():
        report(f"functions, {name}", ours, theirs, grouped="grouped" in name, exact=name != "CV+")


def split_classes(probs, y, keys, old, new, rng, keep: Callable, mapie: bool) -> None:
    rows = np.arange(len(new))
    for kind in ("lac", "aps"):
        u = rng.random(len(probs))
        S = label_scores(probs, kind=kind, u=u)
        sets = prediction_sets(S[new], conformal_quantile(true_scores(S[old], y[old]), COVERAGE))
        keep(kind.upper(), 0, sets[rows, y[new]], sets.sum(1), new)
        if kind == "lac":
            q = cell_quantiles(fit_cells(true_scores(S[old], y[old]), keys[old], COVERAGE), keys[new])
            sets = prediction_sets(S[new], q[:, None])
            keep("LAC grouped", 0, sets[rows, y[new]], sets.sum(1), new)
        if mapie and (kind == "lac" or probs.shape[1] > 2):  # MAPIE has no APS for two classes
            from mapie.classification import SplitConformalClassifier

            peer = SplitConformalClassifier(
                KnownClassifier(probs), COVERAGE, conformity_score=kind, prefit=True, random_state=int(rng.integers(2**31))
            )
            peer.conformalize(old[:, None], y[old])
            last = {"include_last_label": "randomized"} if kind == "aps" else None
            sets = peer.predict_set(new[:, None], last)[1][:, :, 0].astype(bool)
            keep(kind.upper(), 1, sets[rows, y[new]], sets.sum(1), new)


def split_numbers(preds, y, keys, old, new, keep: Callable, mapie: bool) -> None:
    def both(name: str, side: int, bounds: np.ndarray) -> None:
        keep(name, side, (bounds[:, 0] <= y[new]) & (y[new] <= bounds[:, 1]), bounds[:, 1] - bounds[:, 0], new)

    scores = residual_scores(y[old], preds[old, 2])
    both("absolute", 0, residual_intervals(preds[new, 2], conformal_quantile(scores, COVERAGE)))
    both("absolute grouped", 0, residual_intervals(preds[new, 2], cell_quantiles(fit_cells(scores, keys[old], COVERAGE), keys[new])))
    scores = cqr_scores(y[old], preds[old, :2])
    both("CQR", 0, cqr_intervals(preds[new, :2], conformal_quantile(scores, COVERAGE)))
    both("CQR grouped", 0, cqr_intervals(preds[new, :2], cell_quantiles(fit_cells(scores, keys[old], COVERAGE), keys[new])))
    if mapie:
        from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor

        peer = SplitConformalRegressor(Known(preds[:, 2]), COVERAGE, prefit=True).conformalize(old[:, None], y[old])
        both("absolute", 1, peer.predict_interval(new[:, None])[1][:, :, 0])
        peer = ConformalizedQuantileRegressor([Known(preds[:, j]) for j in (0, 1, 2)], COVERAGE, prefit=True)
        peer.conformalize(old[:, None], y[old])
        both("CQR", 1, peer.predict_interval(new[:, None], symmetric_correction=True)[1][:, :, 0])


def crossed(Z, y, deal, keep: Callable, mapie: bool) -> None:
    """CV+ with least squares on 1,000 rows in five folds."""
    old, new = deal[:1000], deal[1000:3000]
    folds = list(KFold(5).split(old))
    fold, models = np.empty(len(old), int), []
    for f, (train, valid) in enumerate(folds):
        models.append(LinearRegression().fit(Z[old[train]], y[old[train]]))
        fold[valid] = f
    residuals = np.abs(y[old] - np.array([models[f].predict(Z[[i]])[0] for f, i in zip(fold, old, strict=True)]))
    bounds = {0: cv_plus(np.stack([m.predict(Z[new]) for m in models]), fold, residuals, COVERAGE)}
    if mapie:
        from mapie.regression import CrossConformalRegressor

        peer = CrossConformalRegressor(LinearRegression(), COVERAGE, method="plus", cv=KFold(5))
        bounds[1] = peer.fit_conformalize(Z[old], y[old]).predict_interval(Z[new])[1][:, :, 0]
    for side, b in bounds.items():
        keep("CV+", side, (b[:, 0] <= y[new]) & (y[new] <= b[:, 1]), b[:, 1] - b[:, 0], new)


def model(frame, y, problem: Problem, schema: Schema, fits: int, effort: str, repeats: int, train_rows: int | None) -> None:
    """The whole model, fitted again on every split."""
    ways = ("none", "group") if problem.sensitive_features else ("none",)
    found: dict[str, list] = {by: [] for by in ways}
    begin = time.process_time()
    for seed in range(fits):
        order = np.random.default_rng(1000 + seed).permutation(len(y))
        old, new = order[len(y) // 4 :][:train_rows], order[: len(y) // 4]
        kind = TabularClassifier if problem.classification else TabularRegressor
        made = kind(effort=effort, n_repeats=repeats, schema=schema, random_state=seed)
        made.fit(frame[problem.inputs].iloc[old], y[old], coverage_groups=problem.sensitive_features)
        rows, pred = frame[problem.inputs].iloc[new], made.predict_raw(frame[problem.inputs].iloc[new])
        for by in ways:
            if problem.classification:
                sets = made.predict_set(rows, COVERAGE, conditional_on=by, probs=pred)
                inside, size = sets[np.arange(len(new)), y[new]], sets.sum(1)
            else:
                low, high = made.predict_interval(rows, COVERAGE, conditional_on=by, pred=pred).T
                inside, size = (low <= y[new]) & (y[new] <= high), high - low
            found[by].append(count(inside, size, frame.iloc[new], problem.sensitive_features))
    for by, counts in found.items():
        report(
            "model, own out-of-fold rows" + (", grouped" if by == "group" else ""),
            counts,
            [],
            grouped=by == "group",
            train_rows=len(old),
            effort=effort,
            repeats=repeats,
            cpu_s=time.process_time() - begin,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--target")
    parser.add_argument("--groups")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--no-mapie", action="store_true")
    args = parser.parse_args()
    frame, y, problem, schema = read(args.table, args.target, args.groups)
    show(what="table", rows=len(y), task=problem.task, groups=problem.sensitive_features, inputs=len(problem.inputs))
    if args.splits:
        functions(frame, y, problem, schema, args.splits, not args.no_mapie)
    if args.fits:
        model(frame, y, problem, schema, args.fits, args.effort, args.repeats, args.train_rows)


if __name__ == "__main__":
    main()
