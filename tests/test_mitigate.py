"""Smaller gaps: weights that undo the dependence, thresholds that hold on new rows, and the same figures as fairlearn."""

import sys

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from aimt.core.errors import DataError, MissingExtraError
from aimt.metrics.fairness import group_rates
from aimt.train.table.mitigate import (
    CRITERIA,
    accuracy_fairness_curve,
    exponentiated_gradient,
    fairness_gap,
    group_thresholds,
    mitigation_report,
    reweigh,
)


def loans(n: int = 6000, seed: int = 0, groups: int = 2):
    """True codes, calibrated probabilities and groups with different base rates."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, groups, n)
    margin = 1.6 * rng.normal(size=n) + 0.9 * code - 0.9
    return (rng.random(n) < expit(margin)).astype(int), expit(margin), np.array([f"g{k}" for k in code])


@pytest.mark.parametrize("groups", [2, 4])
def test_gaps_and_rates_equal_those_of_fairlearn(groups):
    metrics = pytest.importorskip("fairlearn.metrics")
    for seed in range(5):
        y, p, g = loans(3000, seed, groups)
        decision = (p >= 0.4).astype(int)
        ours = {c: fairness_gap(y, decision, g, criterion=c) for c in CRITERIA}
        fixed = {"y_true": y, "y_pred": decision, "sensitive_features": g}
        parity = "demographic-parity"
        assert ours[parity]["value"] == pytest.approx(metrics.demographic_parity_difference(**fixed), abs=1e-9)
        assert ours[parity]["ratio"] == pytest.approx(metrics.demographic_parity_ratio(**fixed), abs=1e-9)
        theirs = metrics.equal_opportunity_difference(**fixed)
        assert ours["equal-opportunity"]["value"] == pytest.approx(theirs, abs=1e-9)
        table = group_rates(y, decision, g)
        names = {"selection_rate": "selection_rate", "tpr": "true_positive_rate", "fpr": "false_positive_rate"}
        frame = metrics.MetricFrame(metrics={k: getattr(metrics, v) for k, v in names.items()}, **fixed)
        for row in table["groups"]:
            for name in names:
                assert row[name]["value"] == pytest.approx(frame.by_group.loc[row["group"], name], abs=1e-9)
        gaps = [table["gaps"][k]["value"] for k in ("tpr", "fpr")]
        assert max(gaps) == pytest.approx(metrics.equalized_odds_difference(**fixed), abs=1e-9)


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_exponentiated_gradient_narrows_the_gap(criterion):
    pytest.importorskip("fairlearn")
    y, p, g = loans(3000, 1)
    X = np.column_stack([np.log(p / (1 - p)), g == "g1"])
    plain = LogisticRegression().fit(X, y).predict(X)
    fair = exponentiated_gradient(LogisticRegression(), X, y, g, criterion=criterion, rounds=15).predict(X, random_state=0)
    before, after = (fairness_gap(y, d, g, criterion=criterion)["value"] for d in (plain, fair))
    assert after < 0.5 * before


def test_without_fairlearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn", None)
    monkeypatch.setitem(sys.modules, "fairlearn.reductions", None)
    y, p, g = loans(200)
    with pytest.raises(MissingExtraError, match=r"aimt\[fair\]"):
        exponentiated_gradient(LogisticRegression(), p[:, None], y, g)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_weights_make_the_target_independent(groups):
    y, _, g = loans(2000, 3, groups)
    w = reweigh(y, g)
    rates = [np.average(y[g == name], weights=w[g == name]) for name in np.unique(g)]
    assert np.allclose(rates, y.mean(), atol=1e-12) and w.mean() == pytest.approx(1)
    for name in np.unique(g):
        assert w[g == name].sum() == pytest.approx((g == name).sum())


def test_weights_of_more_classes_and_an_empty_combination():
    y, g = np.array([0, 1, 2, 0, 1, 0]), np.array(["a", "a", "a", "b", "b", "b"])
    assert np.isfinite(reweigh(y, g)).all() and reweigh(y, g).mean() == pytest.approx(1)


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("groups", [2, 4])
def test_thresholds_close_the_gap_on_new_rows(criterion, groups):
    y, p, g = loans(16_000, 5, groups)
    fit = np.arange(len(y)) % 2 == 0
    found = group_thresholds(y[fit], p[fit], g[fit], criterion=criterion)
    gap = [
        fairness_gap(y[~fit], d, g[~fit], criterion=criterion)["value"]
        for d in ((p[~fit] >= 0.5).astype(int), found.decide(p[~fit], g[~fit]))
    ]
    few = groups > 2 or criterion == "predictive-equality"  # few rows count in each group: chance moves what is left
    assert gap[0] > 0.1 and gap[1] < (0.35 if few else 0.2) * gap[0]
    again = found.decide(p[fit], g[fit])
    assert fairness_gap(y[fit], again, g[fit], criterion=criterion)["value"] < 0.002


def test_no_other_common_rate_is_cheaper():
    y, p, g = loans(1500, 7)
    for costs in ((1.0, 1.0), (1.0, 4.0), (3.0, 1.0)):
        found = group_thresholds(y, p, g, criterion="demographic-parity", costs=costs)

        def cost(d: np.ndarray, costs: tuple[float, float] = costs) -> float:
            return costs[0] * (d > y).sum() + costs[1] * (d < y).sum()

        best = cost(found.decide(p, g))
        for r in np.linspace(0, 1, 41):
            decision = np.zeros(len(y), int)
            for name in np.unique(g):
                rows = np.flatnonzero(g == name)
                decision[rows[np.argsort(-p[rows])[: round(r * len(rows))]]] = 1
            assert best <= cost(decision) + 1e-9


def test_strength_zero_is_today_and_the_curve_falls():
    y, p, g = loans(6000, 8)
    curve = accuracy_fairness_curve(y, p, g, criterion="demographic-parity", threshold=0.4)
    assert curve["accuracy"].iloc[0] == pytest.approx(((p >= 0.4) == y).mean())
    assert curve["cost"].iloc[0] == pytest.approx(1 - curve["accuracy"].iloc[0])
    assert curve["gap"].is_monotonic_decreasing and curve["gap"].iloc[-1] < 0.2 * curve["gap"].iloc[0]
    assert (curve["low"] <= curve["gap"]).all() and (curve["gap"] <= curve["high"]).all()


def test_report_says_what_to_do_and_when_there_is_nothing():
    y, p, g = loans(6000, 9)
    found = mitigation_report(y, p, g, column="district", criterion="demographic-parity")
    assert found["needed"] and "'district'" in found["message"]
    assert found["gap_after"]["value"] <= 0.2 * found["gap_before"]["value"]
    assert set(found["thresholds"]) == {"g0", "g1"} and found["thresholds"]["g0"] < found["thresholds"]["g1"]
    alike = mitigation_report(y, p, np.where(np.arange(len(y)) % 2, "odd", "even"))
    assert not alike["needed"] and "within chance" in alike["message"]
    alone = mitigation_report(y, p, np.repeat("all", len(y)))
    assert not alone["needed"] and "fewer than two groups" in alone["message"]


def test_ages_are_cut_into_groups_and_small_ones_keep_the_threshold():
    y, p, _ = loans(2000, 10)
    age = np.random.default_rng(0).integers(18, 80, 2000)
    report = mitigation_report(y, p, age, column="age")
    assert len(report["thresholds"]) in (0, 4)
    few = np.array(["many"] * 1995 + ["few"] * 5)
    found = group_thresholds(y, p, few)
    assert "few" not in found.thresholds and found.decide(np.array([0.6, 0.4]), np.array(["few", "new"])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(criterion="equal_odds"), "no fairness criterion 'equal_odds'"),
        (dict(strength=1.5), "not between 0 and 1"),
        (dict(groups=["a"] * 9), "9 group values"),
        (dict(p=np.full(10, np.nan)), "scores to be numbers"),
        (dict(p=np.full((10, 2), 0.5)), "scores of shape"),
        (dict(y=np.arange(10)), "targets have to be 0 or 1"),
    ],
)
def test_what_cannot_be_used_is_said(change, says):
    given = {"y": np.arange(10) % 2, "p": np.linspace(0, 1, 10), "groups": np.array(["a", "b"] * 5)} | change
    with pytest.raises(DataError, match=says):
        group_thresholds(**given)
