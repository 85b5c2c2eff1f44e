"""What counts as evidence: rows that took no part, intervals that know which rows belong together, and rare events."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr, ndtri

from aimt.core.problem import Problem
from aimt.core.run import Run
from aimt.data.split.split import Split, dependent_rows, latest_rows, split_rows
from aimt.decide.threshold import decision_report, value_intervals
from aimt.decide.table_gates import Limits, calibration_gate, value_gate
from aimt.deploy.report.page import render_report, report_data
from aimt.deploy.report.table import REPORT
from aimt.evaluate.table.calibration import calibration_line, calibration_report, observed_to_expected
from aimt.evaluate.table.overfitting import overfitting
from aimt.evaluate.table.scores import score_models
from aimt.jobs.verbs.compare import compare_runs
from aimt.jobs.verbs.compact import compact_run
from aimt.jobs.verbs.evaluate import evaluate
from aimt.jobs.verbs.train import train
from aimt.metrics.classification import log_loss, roc_auc
from aimt.metrics.intervals import auc_interval, bootstrap, mean_interval, paired_difference
from aimt.metrics.regression import rmse
from aimt.models.table.baselines import fold_pairs
from aimt.models.table.conformal import fit_conformal, score_growth
from aimt.models.table.estimators import TabularClassifier, TabularRegressor

pytestmark = pytest.mark.usefixtures("no_drawing")

BINARY = Problem("binary", "bad", ["x"], "roc_auc", ["no", "yes"], cost={"fn": 5, "fp": 1})


def width(interval):
    return interval["high"] - interval["low"]


def two(p):
    return np.column_stack([1 - p, p])


# Unseen means unseen


def test_merit_is_proven_on_the_test_alone():
    rng = np.random.default_rng(0)
    y_oof, y_test = (rng.random(3000) < 0.3).astype(int), (rng.random(1000) < 0.3).astype(int)
    flattered = np.clip(0.3 + 0.25 * (2 * y_oof - 1) + 0.1 * rng.normal(size=3000), 0.01, 0.99)
    found = decision_report(BINARY, y_oof, flattered, y_test, np.clip(rng.normal(0.3, 0.2, 1000), 0.01, 0.99))
    assert "evidence" not in found and found["gain"]["n_rows"] == found["n_test"] == 1000
    assert {k: found["gain"][k] for k in ("value", "low", "high")} == found["gains"][found["gain"]["against"]]
    assert value_gate(found).status != "pass"  # the rows that chose the model cannot speak for it
    assert "per 1,000 decisions" in found["message"] and f"{found['gain']['value']:,.0f} [" in found["message"]


def test_one_gain_in_report_card_and_command(loans_run):
    metrics = loans_run.read("metrics.json")
    decision = metrics["decision"]
    assert "evidence" not in decision
    gate = next(g for g in metrics["verdict"]["gates"] if g["gate"] == "value")
    assert gate["value"] == decision["gain"]["value"] and f"{decision['gain']['value']:,.0f} [" in decision["message"]
    html = (loans_run.path / "report.html").read_text(encoding="utf-8")
    assert "could well have given" not in html and "95 % confidence interval" in html
    assert "at the threshold" in html  # accuracy is named by what it is measured on


def test_without_costs_nothing_follows_from_costs():
    rng = np.random.default_rng(2)
    p = rng.random(400)
    y = (rng.random(400) < p).astype(int)
    for cost, said in ((None, "no costs were given"), ({"fn": 5, "fp": 1}, "follows from the costs alone")):
        asked = BINARY.replace(cost=cost)
        metrics = {"decision": decision_report(asked, y, p, y, p)}
        html = render_report(
            report_data({"run.json": {"problem": asked.to_dict()}, "metrics.json": json.loads(json.dumps(metrics))}, REPORT)
        )
        assert said in html and ("follows from the costs alone" in html) == (cost is not None)


def test_overfitting_says_what_it_compares():
    rng = np.random.default_rng(1)
    y, y_test = (rng.random((2, 400)) < 0.4).astype(int)
    good = np.clip(0.4 + 0.3 * (2 * y - 1) + 0.1 * rng.normal(size=400), 0, 1)
    found = overfitting(BINARY, y, None, two(good), y_test, two(rng.random(400)))
    assert found["status"] == "optimistic" and "took no part" in found["message"] and "stopped and chosen" in found["message"]


# Rows that depend on each other


def visits(rng, n_people=60, mean=20):
    who = np.repeat(np.arange(n_people), 1 + rng.poisson(mean - 1, n_people))
    signal, noise = (0.55 * rng.normal(size=n_people)[who] + 0.84 * rng.normal(size=len(who)) for _ in range(2))
    return who, signal, noise


@pytest.mark.parametrize("score", ["AUC", "log loss", "RMSE", "value"])
def test_cluster_intervals_cover(score):
    hits = []
    for seed in range(60):
        who, signal, noise = visits(np.random.default_rng([3, seed]))
        y, p = (signal + noise > 0.5).astype(int), np.clip(ndtr(signal - 0.5), 1e-6, 1 - 1e-6)
        for clusters in (None, who):
            if score == "value":
                each = np.where(p > 0.3, np.where(y == 1, 5.0, -1.0), 0.0)
                found, truth = mean_interval(each, clusters=clusters), _VALUE
            elif score == "RMSE":
                found, truth = bootstrap(rmse, noise, {"m": 0 * noise}, n_resamples=200, clusters=clusters)["m"], np.hypot(0.55, 0.84)
            else:
                fn, truth = (roc_auc, _AUC) if score == "AUC" else (log_loss, _LOSS)
                found = bootstrap(fn, y, {"m": p}, n_resamples=200, clusters=clusters)["m"]
            hits.append(found["low"] <= truth <= found["high"])
    rows, people = np.mean(np.reshape(hits, (-1, 2)), axis=0)
    assert people >= 0.88 and people > rows  # 60 samples: 0.95 gives 0.88 or more in 98 of 100 cases


def _world():
    x, e = np.random.default_rng(99).normal(size=(2, 1_000_000)) * np.hypot(0.55, 0.84)
    y, p = (x + e > 0.5).astype(int), np.clip(ndtr(x - 0.5), 1e-6, 1 - 1e-6)
    return roc_auc(y, p), log_loss(y, p), np.where(p > 0.3, np.where(y == 1, 5.0, -1.0), 0.0).mean()


_AUC, _LOSS, _VALUE = _world()


def test_copies_are_no_evidence():
    rng = np.random.default_rng(4)
    y = (rng.random(150) < 0.4).astype(int)
    p, other = (np.clip(0.4 + s * (2 * y - 1) + 0.2 * rng.normal(size=150), 0.01, 0.99) for s in (0.15, 0.1))
    again = lambda a: np.tile(a, 4)
    who, cost = again(np.arange(150)), {"fn": 5, "fp": 1}
    policies = {"model": p > 0.2, "all": p > -1}
    ways = {
        "score": lambda f, c: bootstrap(log_loss, f(y), {"m": f(p)}, clusters=c)["m"],
        "difference": lambda f, c: paired_difference(log_loss, f(y), f(p), f(other), clusters=c),
        "mean": lambda f, c: mean_interval(f(p), clusters=c),
        "value": lambda f, c: value_intervals(f(y), {k: f(v) for k, v in policies.items()}, cost, clusters=c)[1]["all"],
        "slope": lambda f, c: calibration_line(f(y), f(p), clusters=c)["slope"],
        "ratio": lambda f, c: observed_to_expected(f(y), f(p), clusters=c),
        "table": lambda f, c: score_models(BINARY, f(y), {"model": two(f(p))}, clusters=c)["table"][0],
        "gap": lambda f, c: overfitting(BINARY, f(y), None, two(f(p)), f(y), two(f(other)), clusters=(c, c))["gap_valid_test"],
        "gain": lambda f, c: decision_report(BINARY, y, p, f(y), f(p), clusters=c)["gain"],
    }
    for name, way in ways.items():
        once, as_rows, as_people = way(lambda a: a, None), way(again, None), way(again, who)
        assert width(as_rows) < 0.75 * width(once), name
        assert 0.8 * width(once) < width(as_people) < 1.5 * width(once), name


def test_two_kinds_of_cluster_give_the_wider_interval():
    who, signal, noise = visits(np.random.default_rng(5))
    day = np.arange(len(who)) * 15 // len(who)
    both = bootstrap(rmse, noise, {"m": signal}, clusters=np.column_stack([who, day]))["m"]
    each = [bootstrap(rmse, noise, {"m": signal}, clusters=c)["m"] for c in (who, day)]
    assert both["low"] == min(e["low"] for e in each) and both["high"] == max(e["high"] for e in each)


def test_few_clusters_are_wider():
    x = np.random.default_rng(6).normal(size=300)
    few = [mean_interval(x, clusters=np.arange(300) % g) for g in (3, 100)]
    assert width(few[0]) > width(few[1]) and np.isnan(mean_interval(x, clusters=np.zeros(300))["low"])
    assert np.isnan(bootstrap(rmse, x, {"m": 0 * x}, clusters=np.zeros(300))["m"]["low"])


# Time


def timed(n=2400, seed=0, drift=4.0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"day": pd.date_range("2020-01-01", periods=n, freq="D").astype(str), "x": rng.normal(size=n)})
    table["sold"] = drift * np.arange(n) / n + 2 * table.x + rng.normal(size=n)
    return table


def test_folds_in_time_are_chained():
    table = timed()
    split = split_rows(table, Problem("regression", "sold", ["x"], "rmse", time="day"), table.sold.to_numpy())
    assert split.ordered and len(split.folds()) == split.n_folds - 1 == 2
    for fit, valid in split.folds():
        assert fit.max() < valid.min() < split.test.min()
    fold = split.fold[split.train]
    latest = fold_pairs(fold, ordered=True)[0]  # the latest first
    assert np.array_equal(latest[1], latest_rows(fold)) and latest[0].max() < latest[1].min()
    assert abs(len(latest[1]) - len(split.test)) <= 1  # as far ahead as the test
    grouped = Split(split.fold, "grouped")
    assert len(grouped.folds()) == split.n_folds and len(fold_pairs(fold)) == split.n_folds


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_nothing_later_is_learned_from(task):
    table, fold = timed(900), np.repeat([0, 1, 2], 300)
    y = table.sold.to_numpy() if task == "regression" else (table.sold > table.sold.median()).astype(int).to_numpy()
    later = np.where(fold == 2, y[::-1], y)
    make = TabularRegressor if task == "regression" else TabularClassifier
    fits = [make(n_recipes=2, rounds=30, calibrate=False).fit(table[["x"]], target, folds=fold, ordered=True) for target in (y, later)]
    assert np.isnan(fits[0].oof_[fold == 0]).all() and np.isfinite(fits[0].oof_[fold > 0]).all()
    one = [make(n_recipes=1, rounds=30, calibrate=False).fit(table[["x"]], target, folds=fold, ordered=True).oof_ for target in (y, later)]
    assert np.array_equal(one[0][fold == 1], one[1][fold == 1])  # the future of a stretch does not reach it
    assert not np.array_equal(one[0][fold == 2], one[1][fold == 2])
    rows = len(fits[0].conformal_.scores)
    assert rows == 300  # calibrated on the latest stretch alone


def test_latest_rows_take_more_stretches_when_one_is_short():
    assert np.array_equal(latest_rows(np.repeat([0, 1, 2], [500, 150, 100])), np.arange(500, 750))
    assert np.array_equal(latest_rows(np.repeat([0, 1], [5, 5])), np.arange(5, 10))


def test_intervals_keep_up_with_a_drift():
    cover = {"latest": [], "with growth": [], "still": []}
    for seed in range(12):
        for drift in (5.0, 0.0):
            rng = np.random.default_rng(seed)
            x, part = rng.normal(size=2400), np.arange(2400) // 600
            y = drift * np.arange(2400) / 2400 + x + rng.normal(size=2400)
            fit = lambda rows, new: np.polyval(np.polyfit(x[rows], y[rows], 1), x[new])  # noqa: B023
            oof = np.full(2400, np.nan)
            for f in (1, 2):
                oof[part == f] = fit(part < f, part == f)
            growth = score_growth("regression", y, oof, part)
            for name, g in (("latest", 1.0), ("with growth" if drift else "still", growth)):
                kept = fit_conformal("regression", y, np.where(part == 2, oof, np.nan), growth=g)
                low, high = kept.intervals(fit(part < 3, part == 3), pd.DataFrame(index=range(600))).T
                if drift or name == "still":
                    cover[name].append(np.mean((low <= y[part == 3]) & (y[part == 3] <= high)))
    found = {k: np.mean(v) for k, v in cover.items()}
    assert found["latest"] < 0.85 and 0.87 < found["with growth"] < 0.97 and 0.88 < found["still"] < 0.95, found


# Rare events


def test_a_rate_six_times_too_high_does_not_pass():
    rng = np.random.default_rng(7)
    y = (rng.random(3000) < 0.008).astype(int)
    found = calibration_report(BINARY, y, two(np.full(3000, 0.051) + rng.normal(0, 0.002, 3000)))
    assert found["ece"] < 0.05 and found["ratio"]["high"] < 0.3 and found["ratio"]["event"] == "'yes'"
    answer = calibration_gate(found, None, Limits())
    assert answer.status == "hold" and "too high" in answer.text
    low = calibration_report(BINARY, y, two(np.full(3000, 0.003)))
    assert low["ratio"]["low"] > 1.25 and "too low" in calibration_gate(low, None, Limits()).text


def test_few_events_cannot_clear_a_model():
    p = np.full(1500, 10 / 1500)
    ten, many = ((np.arange(n) < n // 150).astype(int) for n in (1500, 30_000))
    assert calibration_gate(calibration_report(BINARY, ten, two(p)), None, Limits()).status == "not yet"
    assert calibration_gate(calibration_report(BINARY, many, two(np.full(30_000, 1 / 150))), None, Limits()).status == "pass"


def test_the_rarer_class_is_judged():
    rng = np.random.default_rng(8)
    y = (rng.random(4000) > 0.01).astype(int)  # one in a hundred is a 'no'
    found = calibration_report(BINARY, y, two(np.full(4000, 0.95)))
    assert found["ratio"]["event"] == "'no'" and found["ratio"]["high"] < 0.4
    assert calibration_gate(found, None, Limits()).status == "hold"


def test_honest_rare_models_are_rarely_held():
    statuses = []
    for seed in range(150):
        rng = np.random.default_rng([9, seed])
        p = expit(rng.normal(-4, 1, 4000))
        found = calibration_report(BINARY, (rng.random(4000) < p).astype(int), two(p))
        statuses.append(calibration_gate(found, None, Limits()).status)
    assert statuses.count("hold") <= 4 and statuses.count("pass") > 75


@pytest.mark.parametrize(("positives", "auc"), [(10, 0.8), (10, 0.95), (10, 0.99), (30, 0.95)])
def test_auc_with_few_positives_is_covered(positives, auc):
    hits = []
    for seed in range(200):
        rng = np.random.default_rng([positives, seed])
        p = np.r_[rng.normal(np.sqrt(2) * ndtri(auc), 1, positives), rng.normal(size=200)]
        found = bootstrap(roc_auc, np.repeat([1, 0], [positives, 200]), {"m": p})["m"]
        hits.append(found["low"] <= auc <= found["high"])
    assert np.mean(hits) >= 0.93


def test_a_perfect_score_of_few_is_not_certain():
    assert bootstrap(roc_auc, np.repeat([0, 1], 10), {"m": np.arange(20.0)})["m"]["low"] < 0.9
    y = np.repeat([0, 1], [200, 10])
    found = bootstrap(roc_auc, y, {"a": np.arange(210.0), "b": np.full(210, 0.1)}, pairs=[("a", "b")])
    assert found["b"] == {"value": 0.5, "low": 0.5, "high": 0.5}  # it says the same of all, whatever the rows
    assert found["a - b"]["low"] == pytest.approx(found["a"]["low"] - 0.5) and found["a - b"]["low"] > 0
    many = bootstrap(roc_auc, np.repeat([0, 1], 100), {"m": np.arange(200.0) % 150})["m"]
    assert many["low"] < many["value"] < many["high"]
    assert np.isnan(auc_interval(0.9, 0, 10)["low"])


# From a table to a verdict


@pytest.fixture(scope="module")
def loans_run(tmp_path_factory):
    return train(out=tmp_path_factory.mktemp("runs") / "loans", time_limit=1)


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(10)
    who, signal, noise = visits(rng, 50, 16)
    return pd.DataFrame(
        {"person": [f"p{i}" for i in who], "x": signal, "z": rng.normal(size=len(who)), "ill": np.where(signal + noise > 0.6, "yes", "no")}
    )


def test_a_run_with_an_entity(people, tmp_path):
    run = train(people, target="ill", entity="person", positive_label="yes", cost="fn=3,fp=1", out=tmp_path / "by", time_limit=1)
    kept = pd.read_parquet(run.path / "splits.parquet")
    test = kept["part"] == "test"
    assert kept.loc[test, "cluster_0"].nunique() == people.person[kept.row[test]].nunique()
    auc = next(r for r in run.read("metrics.json")["scores"]["table"] if r["model"] == "model" and r["metric"] == "roc_auc")
    stored = pd.read_parquet(run.path / "predictions.parquet").query("part == 'test'")
    alone = bootstrap(roc_auc, stored.actual.to_numpy(), {"m": stored.model.to_numpy()})["m"]
    assert auc["value"] == pytest.approx(alone["value"]) and width(auc) > width(alone)
    other = train(
        people, target="ill", entity="person", positive_label="yes", cost="fn=3,fp=1", drop="z", out=tmp_path / "drop", time_limit=1
    )
    pair = compare_runs(run, other)["pairs"][0]
    y, preds = (
        stored.actual.to_numpy(),
        [pd.read_parquet(r.path / "predictions.parquet").query("part == 'test'").model.to_numpy() for r in (other, run)],
    )
    expected = paired_difference(roc_auc, y, *preds, clusters=kept.loc[stored.row, "cluster_0"].to_numpy())
    assert pair["gain"]["low"] == pytest.approx(expected["low"])
    as_people, as_rows = (evaluate(run, t)["table"][0] for t in (people, people.assign(person=np.arange(len(people)).astype(str))))
    assert as_people["value"] == as_rows["value"] and width(as_people) > 1.1 * width(as_rows)
    small = compact_run(run, data=people, members=2, out=tmp_path / "small")
    assert small.read("metrics.json")["decision"]["gain"]["n_rows"] == int(test.sum())
    assert "depend on each other" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_run_in_time(tmp_path):
    table = timed(1200, drift=2.0)
    table["late"] = np.where(table.sold > table.sold.median(), "yes", "no")
    run = train(
        table.drop(columns="sold"), target="late", time="day", positive_label="yes", cost="fn=2,fp=1", out=tmp_path / "time", time_limit=2
    )
    kept, metrics = pd.read_parquet(run.path / "splits.parquet"), run.read("metrics.json")
    assert any("chained" in note for note in metrics["split"]["notes"])
    assert metrics["decision"]["n_oof"] == (kept.fold == kept.fold.max()).sum()  # the threshold comes from the latest stretch
    stored = pd.read_parquet(run.path / "predictions.parquet")
    first = stored.row.isin(kept.row[kept.fold == 0])
    assert stored.loc[first, ["model", "linear", "additive", "lightgbm"]].isna().all(axis=None)
    assert kept.loc[kept.part == "test", "cluster_0"].nunique() == 15
    assert "stretches of time" in (run.path / "report.html").read_text(encoding="utf-8")
    assert Run.open(run.path).predict(table.head(3)).shape[0] == 3
    json.dumps(metrics)


def test_dependent_rows_of_new_tables():
    asked = Problem("regression", "sold", ["x"], "rmse", time="day", entity="shop")
    table = timed(100).assign(shop=np.arange(100) % 10)
    assert dependent_rows(table, asked).shape == (100, 2) and dependent_rows(table[["x"]], asked) is None
    assert dependent_rows(table.drop(columns="day"), asked).shape == (100,)
