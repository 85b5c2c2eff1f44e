"""Columns computed from the target of the very rows they stand in are found; those of other rows are let pass."""

import numpy as np
import pandas as pd
import pytest

from aimt.data.checks.audit import audit
from aimt.data.table.infer_problem import define_problem
from aimt.data.table.infer_schema import infer_schema
from aimt.evaluate.table.leak_impact import measure_leak_impact

KINDS = ("coin", "numbers", "long tail", "three classes")


def outcome(kind: str, c: np.ndarray, effect: float, rng: np.random.Generator) -> np.ndarray:
    """Targets that depend on the level as strongly as asked."""
    mu = effect * rng.normal(size=c.max() + 1)[c]
    if kind == "coin":
        return (rng.random(len(c)) < 1 / (1 + np.exp(-mu))).astype(int)
    if kind == "three classes":
        return (mu + rng.normal(size=len(c)) > np.array([[-0.5], [0.5]])).sum(0)
    return mu + rng.normal(size=len(c)) if kind == "numbers" else np.exp(mu + rng.normal(size=len(c)))


def mean_of(t: np.ndarray, c: np.ndarray, rows: np.ndarray, k: float = 0.0) -> np.ndarray:
    size = c.max() + 1
    return (np.bincount(c[rows], t[rows], size) + k * t.mean()) / np.maximum(np.bincount(c[rows], minlength=size) + k, 1)


def out_of_fold(t: np.ndarray, c: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    fold, out = rng.integers(0, k, len(t)), np.empty(len(t))
    for f in range(k):
        out[fold == f] = mean_of(t, c, fold != f, 3)[c[fold == f]]
    return out


def made(way: str, t: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    everyone, n = np.ones(len(t), bool), np.bincount(c)
    return {
        "mean": lambda: mean_of(t, c, everyone)[c],
        "affine": lambda: 3 - 2 * mean_of(t, c, everyone)[c],
        "smoothed": lambda: mean_of(t, c, everyone, 10)[c],
        "left out": lambda: (np.bincount(c, t)[c] - t) / np.maximum(n[c] - 1, 1),
        "five folds": lambda: out_of_fold(t, c, 5, rng),
        "ten folds": lambda: out_of_fold(t, c, 10, rng),
        "another time": lambda: mean_of(rng.permutation(t), c, everyone)[c],
    }[way]()


def table(kind: str, way: str | None, effect: float, seed: int, n: int = 2500, levels: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng([seed, levels])
    c = np.r_[np.arange(levels), rng.integers(0, levels, n - levels)]
    y = outcome(kind, c, effect, rng)
    frame = pd.DataFrame({"size": rng.normal(size=n), "age": rng.integers(18, 80, n), "town": [f"town {k}" for k in c]})
    if way:
        t = (y == 2).astype(float) if kind == "three classes" else y.astype(float)
        frame.insert(seed % 3, "made", made(way, t, c, rng))
    return frame.assign(y=np.array(["low", "middle", "high"])[y] if kind == "three classes" else y)


def accused(frame: pd.DataFrame) -> dict[str, dict]:
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target="y", sensitive_features="none")
    found = audit(frame, schema, problem)
    assert {s["column"] for s in found["set_aside"]} == {c for f in found["findings"] if f["action"] for c in f["columns"]}
    return {f["columns"][0]: f for f in found["findings"] if f["check"] == "leak"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["mean", "affine", "smoothed", "left out"])
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_a_column_made_of_these_rows_is_found_and_set_aside(kind, way, effect):
    for seed in range(2):
        found = accused(table(kind, way, effect, seed))
        assert set(found) == {"made"}, (kind, way, effect, seed)
        assert found["made"]["severity"] == "critical" and found["made"]["action"] == "set aside"
    assert "'town'" in found["made"]["evidence"] and "computed from 'y'" in found["made"]["evidence"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [None, "five folds", "ten folds", "another time"])
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_a_column_made_of_other_rows_is_let_pass(kind, way, effect):
    for seed in range(2):
        assert accused(table(kind, way, effect, seed)) == {}, (kind, way, effect, seed)


def test_found_without_the_category_and_in_every_order():
    frame = table("coin", "mean", 0.0, 0)
    assert set(accused(frame.drop(columns="town"))) == {"made"}
    for columns in (["town", "made", "y"], ["made", "town", "y"]):
        found = accused(frame[columns])
        assert set(found) == {"made"} and "'town'" in found["made"]["evidence"]


def test_a_panel_with_a_trend_is_no_encoding():
    rng = np.random.default_rng(0)
    person, year = np.repeat(np.arange(80), 12), np.tile(np.arange(2008, 2020), 80)
    weight = 70 + 12 * rng.normal(size=80)[person] + 0.2 * (year - 2008) + rng.normal(0, 0.5, 960)
    assert accused(pd.DataFrame({"year": year, "since": year / 10 - 200.0, "y": weight})) == {}


def test_cases_and_controls_by_design_are_no_encoding():
    rng = np.random.default_rng(1)
    hospital, beds = np.repeat(np.arange(150), 6), np.repeat(rng.normal(size=150), 6)
    assert accused(pd.DataFrame({"hospital": hospital, "beds": beds, "y": np.tile([1, 0, 0], 300)})) == {}


def weighed(frame: pd.DataFrame) -> tuple[dict, dict]:
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target="y", sensitive_features="none")
    found = audit(frame, schema, problem)
    return found, measure_leak_impact(frame, schema, problem, found)


@pytest.mark.parametrize("seed", range(3))
def test_the_score_with_and_without_the_leak_is_told(seed):
    rng = np.random.default_rng(seed)
    x, n = rng.normal(size=1200), 1200
    y = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int)
    fee = np.where(y == 1, rng.random(n) + 1, 0.0)
    before, after = weighed(pd.DataFrame({"x": x, "noise": rng.normal(size=n), "fee": fee, "y": y}))
    leak = next(f for f in after["findings"] if f["check"] == "leak")
    ideal = (x[y == 1][:, None] > x[y == 0]).mean()
    assert leak["scores"]["with"] > 0.98 and abs(leak["scores"]["without"] - ideal) < 0.05
    assert "ROC AUC" in leak["evidence"] and "without" in leak["evidence"]
    assert "scores" not in next(f for f in before["findings"] if f["check"] == "leak")  # the audit itself is left as it was
    assert after["set_aside"] == before["set_aside"]


def test_without_a_suspect_nothing_is_trained():
    found, same = weighed(table("coin", None, 1.0, 0, n=600))
    assert same is found


def test_an_encoding_inflates_the_score_and_is_told():
    after = weighed(table("coin", "mean", 0.0, 0))[1]
    scores = next(f for f in after["findings"] if f["columns"] == ["made"])["scores"]
    assert scores["with"] > 0.65 and abs(scores["without"] - 0.5) < 0.08


@pytest.mark.parametrize("kind", ["coin", "numbers"])
def test_the_encoder_of_scikit_learn_leaks_only_when_it_is_not_cross_fitted(kind):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    for seed in range(2):
        frame = table(kind, None, 0.5, seed)
        np.random.seed(seed)  # deals its folds; an option of its own has another name in each version
        encoder = preprocessing.TargetEncoder(target_type="binary" if kind == "coin" else "continuous")
        fitted = encoder.fit(frame[["town"]], frame["y"]).transform(frame[["town"]])[:, 0]
        crossed = encoder.fit_transform(frame[["town"]], frame["y"])[:, 0]
        assert set(accused(frame.assign(made=fitted))) == {"made"} and accused(frame.assign(made=crossed)) == {}
