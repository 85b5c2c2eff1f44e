"""What would help most, and made-up rows: planted truth, refusals, and nothing that leaks."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from aimt.core.errors import DataError, ProblemError
from aimt.core.problem import Problem
from aimt.data.table.infer_schema import infer_schema
from aimt.data.split.split import split_rows
from aimt.evaluate.table.what_if import plot_helps, what_helps
from aimt.metrics.classification import log_loss
from aimt.train.table.augment import (
    augmented,
    balanced_weights,
    jitter_rows,
    mix_neighbours,
    plot_augmentation,
    pseudo_labels,
    small_model,
    try_augmentation,
)


def asked(X, y, *, metric="roc_auc", task="binary", seed=0, **more):
    """A table as `what_helps` wants it."""
    names = [f"x{i}" for i in range(X.shape[1])]
    labels = [] if task == "regression" else [f"class {k}" for k in range(y.max() + 1)]
    frame = pd.DataFrame(X, columns=names).assign(answer=y if task == "regression" else [labels[k] for k in y], **more)
    problem = Problem(task, "answer", names, metric, labels, entity="who" if "who" in more else None)
    return frame, y, problem, infer_schema(frame), split_rows(frame, problem, y, seed=seed)


def planted(kind, seed=1):
    """A table of which one thing is known to be wrong."""
    rng = np.random.default_rng(seed)
    n, d = {"rows": (500, 60), "labels": (2000, 6), "features": (1500, 5), "nothing": (1200, 16)}[kind]
    X, told, noise = rng.normal(size=(n, d)), rng.normal(size=(n, 2)), rng.normal(size=n)
    if kind == "rows":
        y = X.sum(axis=1) / np.sqrt(d) + 0.4 * noise > 0
    elif kind == "labels":
        at, of = rng.normal(size=(12, d)), rng.integers(12, size=n)
        X, y = at[of] + 0.3 * X, (of % 2 == 1) ^ (rng.random(n) < 0.2)
    elif kind == "features":
        y = X.sum(axis=1) + 2 * told[:, 0] + 0.5 * noise > 0
    else:
        X, y = np.repeat(told, d // 2, axis=1) + 0.3 * X, told.sum(axis=1) + noise > 0
    return asked(X, y.astype(int))


def by_name(result):
    return {lever["name"]: lever for lever in result["levers"]}


@pytest.mark.parametrize("kind", ["rows", "labels", "features", "nothing"])
def test_planted_lever_comes_first(kind):
    result = what_helps(*planted(kind), time_limit=600)
    statuses = {name: lever["status"] for name, lever in by_name(result).items()}
    if kind == "nothing":
        assert result["first"] is None and "helps" not in statuses.values()
        assert result["message"].startswith("No option is shown to help")
        return
    first = result["levers"][0]
    assert first["name"] == kind and first["status"] in ("helps", "may help") and 0 < first["value"] < first["high"]
    if kind == "labels":
        assert first["noise_rate"]["value"] == pytest.approx(0.2, abs=0.06) and first["exam"]["value"] > 0.1
        assert abs(first["automatic"]["removed"]["value"]) < 0.05


def test_scarce_class_is_a_lever_only_when_it_is_scarce():
    rng = np.random.default_rng(0)
    at, of = rng.normal(size=(40, 8)), rng.integers(40, size=1500)
    X = at[of] + 0.3 * rng.normal(size=(1500, 8))
    rare = by_name(what_helps(*asked(X, (of < 4).astype(int), metric="log_loss"), time_limit=600, draws=1, label_errors={"refuted": False}))
    assert "twice the rows of 'class 1'" == rare["scarce"]["what"] and "'class 1'" in rare["scarce"]["message"]
    assert rare["scarce"]["status"] in ("helps", "may help") and 0 < rare["scarce"]["value"] < 0.3
    even = by_name(what_helps(*asked(X[:400], (of[:400] % 2)), time_limit=600, draws=1, label_errors={"refuted": False}))
    assert "scarce" not in even


def test_regression_gains_are_in_units_of_the_target():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = X.sum(axis=1) * 10 + rng.normal(size=300)
    levers = by_name(what_helps(*asked(X, y, metric="rmse", task="regression"), time_limit=600, draws=1))
    assert levers["labels"]["status"] == "cannot tell" and "wrong number" in levers["labels"]["message"]
    assert levers["features"]["value"] > 1 and "scarce" not in levers


def test_the_test_rows_have_no_say():
    frame, y, problem, schema, split = planted("features")
    other = y.copy()
    other[split.test] = 1 - other[split.test]
    runs = [
        what_helps(frame, answers, problem, schema, split, time_limit=600, draws=1, label_errors={"refuted": False})
        for answers in (y, other)
    ]
    assert [r["levers"] for r in runs][0] == [r["levers"] for r in runs][1]


def test_three_classes_in_groups_and_little_time():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)), rng.integers(3, size=300)
    X[np.arange(300), y] += 2
    frame, y, problem, schema, split = asked(X, y, metric="log_loss", task="multiclass", who=[f"p{i // 3}" for i in range(300)])
    assert split.strategy == "grouped"
    result = what_helps(frame, y, problem, schema, split, time_limit=600, draws=1)
    assert {"rows", "labels", "features", "model"} <= set(by_name(result)) and np.isfinite(result["now"])
    late = what_helps(frame, y, problem, schema, split, time_limit=0.0)
    assert late["first"] is None and all(v["message"] for v in late["levers"])


def test_trouble_becomes_a_message():
    frame, y, problem, schema, split = planted("features")
    broken = what_helps(frame.drop(columns="x1"), y, problem, schema, split)
    assert broken["levers"] == [] and "x1" in broken["message"]
    plot_helps(broken)


def line(names, C=1.0):
    def fit(frame, y, weight):
        model = LogisticRegression(C=C, max_iter=100).fit(frame[names].to_numpy(float), y, sample_weight=weight)
        return lambda new: model.predict_proba(new[names].to_numpy(float))

    return fit


@pytest.mark.parametrize("kind", ["helps", "hurts"])
def test_pseudo_labels_are_taken_where_they_help_and_refused_where_they_hurt(kind):
    rng = np.random.default_rng(1)
    n, d = (60, 20) if kind == "helps" else (40, 20)
    side, X = 2 * rng.integers(2, size=n + 1300) - 1, rng.normal(size=(n + 1300, d))
    X = X + 2 * side[:, None] / np.sqrt(d) if kind == "helps" else X + 3 * side[:, None] * np.eye(d)[0]
    y = (side > 0).astype(int) if kind == "helps" else (X[:, 1] + 0.3 * rng.normal(size=len(X)) > 0).astype(int)
    rows = pd.DataFrame(X, columns=[f"x{i}" for i in range(d)])
    problem, fit = (Problem("binary", "answer", list(rows), "log_loss", ["no", "yes"]), line(list(rows), 0.1 if kind == "helps" else 1.0))
    known, without, new, labels = rows[:n], rows[n : n + 200], rows[n + 200 :], y[:n]
    found = try_augmentation(known, labels, problem, infer_schema(rows), unlabelled=without, fit=fit, ways=("pseudo",))
    assert found["accepted"] == ("pseudo" if kind == "helps" else None)
    more, codes = pseudo_labels(known, labels, without, fit, cut=found["ways"][0]["setting"])
    before = log_loss(y[n + 200 :], fit(known, labels, np.ones(n))(new))
    after = log_loss(y[n + 200 :], fit(pd.concat([known, more]), np.r_[labels, codes], np.ones(n + len(codes)))(new))
    assert (before - after > 0.03) if kind == "helps" else (before - after < 0)
    used = augmented(known, labels, problem, infer_schema(rows), found, unlabelled=without, fit=fit)
    assert len(used[0]) == n + (len(codes) if kind == "helps" else 0)


def test_useless_ways_are_seldom_taken():
    taken = 0
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        rows = pd.DataFrame(rng.normal(size=(60, 4)), columns=list("abcd"))
        problem = Problem("binary", "answer", list(rows), "roc_auc", ["no", "yes"])
        found = try_augmentation(
            rows, rng.permutation(np.arange(60) % 2), problem, infer_schema(rows), fit=line(list(rows)), ways=("mix", "weights"), seed=seed
        )
        taken += found["accepted"] is not None
    assert taken <= 2  # at 5 % three or more of 8 would come once in 170


def test_made_up_rows_train_and_never_test():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=80), "b": rng.choice(["u", "v"], 80), "real": np.arange(80.0)})
    problem, trained, tested = Problem("binary", "answer", ["a", "b", "real"], "roc_auc", ["no", "yes"]), [], []
    schema = infer_schema(rows, kinds={"real": "number"})
    plain = small_model(problem, schema, trees=5)

    def spying(frame, y, weight):
        predict = plain(frame, y, weight)
        trained.append(set(frame["real"]))
        return lambda new: (tested.append((len(trained) - 1, set(new["real"]))), predict(new))[1]

    found = try_augmentation(rows, np.arange(80) % 2, problem, schema, fit=spying, ways=("mix", "jitter"), repeats=5)
    assert found["repeats"] == 5 and len(tested) == len(trained)
    assert all(seen <= set(rows["real"]) for _, seen in tested) and not all(seen <= set(rows["real"]) for seen in trained)
    plain_fits = [(trained[i], seen) for i, seen in tested if len(seen) == 20 and len(trained[i]) == 60]
    assert plain_fits and not any(a & b for a, b in plain_fits)
    plot_augmentation({"table": found})


def test_mixed_rows_keep_kinds_classes_and_shares():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"size": rng.normal(size=90), "count": rng.integers(0, 9, 90), "colour": rng.choice(["red", "blue"], 90)})
    rows.loc[::7, "size"] = np.nan
    y, schema = np.repeat([0, 1], [60, 30]), infer_schema(rows, kinds={"count": "number"})
    made, codes = mix_neighbours(rows, y, schema, list(rows))
    assert np.bincount(codes).tolist() == [60, 30] and (made["count"].to_numpy(float) % 1 == 0).all()
    assert set(made["colour"].astype(str)) <= {"red", "blue"} and made["size"].max() <= rows["size"].max()
    more, codes = mix_neighbours(rows, y, schema, list(rows), balance=True)
    assert set(codes) == {1} and len(more) == 30
    again = mix_neighbours(rows, y, schema, list(rows), balance=True)[0]
    pd.testing.assert_frame_equal(more, again)
    noisy, codes = jitter_rows(rows, y, schema, list(rows), scale=0.0, swap=0.0)
    assert codes.tolist() == y.tolist() and np.allclose(noisy["size"], rows["size"], equal_nan=True)
    assert np.bincount(y, balanced_weights(y)).tolist() == [45, 45]


def test_refusals():
    rows, y = pd.DataFrame({"a": np.arange(30.0)}), np.arange(30) % 2
    problem, schema = Problem("binary", "answer", ["a"], "roc_auc", ["no", "yes"]), infer_schema(rows)
    with pytest.raises(ProblemError, match="jiter"):
        try_augmentation(rows, y, problem, schema, ways=("jiter",))
    with pytest.raises(ProblemError, match="number has none"):
        try_augmentation(rows, y, Problem("regression", "answer", ["a"], "rmse"), schema)
    with pytest.raises(DataError, match="2 rows of the rarest class"):
        try_augmentation(rows, np.r_[np.ones(28, int), 0, 0], problem, schema)
    assert try_augmentation(rows, y, problem, schema, ways=("weights",), fit=line(["a"]), repeats=5)["ways"][0]["name"] == "weights"
