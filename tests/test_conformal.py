"""Conformal prediction: coverage that was planted, quantiles worked out by hand, and what models and the command keep of it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from aimt.core.errors import ModelFormatError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.verbs.evaluate import score_lines
from aimt.jobs.shared.table_model import open_model
from aimt.jobs.verbs.train import train
from aimt.metrics.groups import make_groups
from aimt.models.table.conformal import (
    Conformal,
    cell_quantiles,
    conformal_quantile,
    conformal_rank,
    cqr_intervals,
    cqr_scores,
    cv_plus,
    enough_rows,
    fit_cells,
    fit_conformal,
    group_codes,
    group_rule,
    label_scores,
    prediction_sets,
    residual_intervals,
    true_scores,
)
from aimt.models.table.estimators import TabularClassifier, TabularRegressor, load_model

pytestmark = pytest.mark.usefixtures("no_drawing")


def covers(bounds: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (bounds[:, 0] <= y) & (y <= bounds[:, 1])


# ---------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    "n, coverage, k", [(9, 0.9, 9), (8, 0.9, 9), (19, 0.95, 19), (99, 0.9, 90), (100, 0.9, 91), (4, 0.5, 3), (999, 0.999, 999), (0, 0.5, 1)]
)
def test_rank_by_hand(n, coverage, k):
    """The k with k / (n + 1) >= coverage, whatever floating point makes of (n + 1) * coverage."""
    assert conformal_rank(n, coverage) == k
    scores = np.random.default_rng(n).permutation(n).astype(float)
    assert conformal_quantile(scores, coverage) == (k - 1 if k <= n else math.inf)


def test_rank_is_the_smallest_that_suffices():
    for n in range(1, 400):
        for percent in range(1, 100):
            k = conformal_rank(n, percent / 100)
            assert 100 * k >= percent * (n + 1) and 100 * (k - 1) < percent * (n + 1)


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 90, math.nan])
def test_impossible_coverages(coverage):
    with pytest.raises(ProblemError, match="between 0 and 1"):
        conformal_quantile(np.arange(5.0), coverage)


def test_sets_by_hand():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.45, 0.35]])
    y = np.array([0, 2])
    np.testing.assert_allclose(true_scores(label_scores(p), y), [0.4, 0.65])
    np.testing.assert_allclose(true_scores(label_scores(p, kind="aps"), y), [0.6, 0.8])
    np.testing.assert_allclose(label_scores(p, kind="raps", penalty=0.5, free=1)[1], [2.0, 0.45, 1.3])
    assert prediction_sets(label_scores(p), 0.65).tolist() == [[True, False, False], [False, True, True]]
    assert prediction_sets(label_scores(p), np.array([[0.7, 0.0, 0.95]])).tolist() == [[True, False, True], [False, False, True]]
    assert prediction_sets(label_scores(p), 0.1).sum() == 0
    assert prediction_sets(label_scores(p), 0.1, empty=False).tolist() == [[True, False, False], [False, True, False]]
    with pytest.raises(ValueError, match="'top'"):
        label_scores(p, kind="top")


def test_cqr_by_hand():
    bounds = np.array([[1.0, 3.0], [0.0, 2.0], [5.0, 6.0]])
    assert cqr_scores(np.array([2.0, 2.5, 4.0]), bounds).tolist() == [-1.0, 0.5, 1.0]
    assert cqr_intervals(bounds, 0.5).tolist() == [[0.5, 3.5], [-0.5, 2.5], [4.5, 6.5]]
    assert cqr_intervals(bounds, -0.75)[2].tolist() == [5.5, 5.5]  # would cross: a point


@pytest.mark.parametrize("n, folds, coverage", [(3, 3, 0.5), (20, 5, 0.9), (57, 57, 0.8), (9, 3, 0.95)])
def test_cv_plus_is_its_definition(n, folds, coverage):
    rng = np.random.default_rng(n)
    fold, preds, r = rng.integers(folds, size=n), rng.normal(size=(folds, 8)), np.abs(rng.normal(size=n))
    found, k = cv_plus(preds, fold, r, coverage), conformal_rank(n, coverage)
    for j in range(8):
        low = sorted((preds[fold[i], j] - r[i] for i in range(n)), reverse=True)
        high = sorted(preds[fold[i], j] + r[i] for i in range(n))
        assert found[j].tolist() == ([low[k - 1], high[k - 1]] if k <= n else [-math.inf, math.inf])


# ---------------------------------------------------------------------------------------------------- planted truth


def test_mean_coverage_is_the_rank():
    """The coverage of uniform scores is the quantile itself, with mean k / (n + 1): 4,000 draws know it to 0.0005."""
    rng = np.random.default_rng(0)
    for n, coverage in ((19, 0.9), (50, 0.8), (200, 0.9)):
        mean = np.mean([conformal_quantile(rng.random(n), coverage) for _ in range(4000)])
        k = conformal_rank(n, coverage)
        sd = math.sqrt(k * (n + 1 - k) / (n + 1) ** 2 / (n + 2) / 4000)
        assert abs(mean - k / (n + 1)) < 5 * sd


def test_ties_cover_more_never_less():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(300):
        s = rng.integers(0, 4, 400)
        inside.append(np.mean(s[200:] <= conformal_quantile(s[:200].astype(float), 0.6)))
    assert np.mean(inside) > 0.6


def test_groups_and_classes_are_covered_each():
    """A rare hard group and a rare class: one quantile fails them, their own does not."""
    rng = np.random.default_rng(2)
    one, own, per_class, never_empty = [], [], [], []
    for _ in range(200):
        hard = (rng.random(2000) < 0.2).astype(int)
        s = np.abs(rng.normal(size=2000)) * (1 + 2 * hard)
        q = conformal_quantile(s[:1000], 0.9)
        each = cell_quantiles(fit_cells(s[:1000], hard[:1000, None], 0.9), hard[1000:, None])
        new = hard[1000:] == 1
        one.append(np.mean(s[1000:][new] <= q))
        own.append(np.mean((s[1000:] <= each)[new]))
        y = (rng.random(2000) < 0.15).astype(int)
        p1 = 1 / (1 + np.exp(-(rng.normal(size=2000) + 1.5 * y - 2)))
        p = np.column_stack([1 - p1, p1])
        kept = fit_conformal("binary", y[:1000], p[:1000])
        rows = pd.DataFrame(index=range(1000))
        for found, empty in ((per_class, True), (never_empty, False)):
            sets = prediction_sets(label_scores(p[1000:]), kept.quantiles(rows, 0.9, "class", 2), empty=empty)
            found.append([sets[y[1000:] == k, k].mean() for k in (0, 1)])
        assert (sets == kept.sets(p[1000:], rows, 0.9, "class")).all()
    assert np.mean(one) < 0.75
    assert abs(np.mean(own) - 0.9) < 0.015
    assert np.abs(np.mean(per_class, 0) - 0.9).max() < 0.015
    assert (np.mean(never_empty, 0) >= np.mean(per_class, 0)).all()


def test_sorted_rows_are_not_exchangeable():
    """What the page warns of: calibrate on the small, be asked about the large."""
    y = np.sort(np.random.default_rng(3).exponential(size=2000))
    assert np.mean(np.abs(y[1000:] - 0.7) <= conformal_quantile(np.abs(y[:1000] - 0.7), 0.9)) < 0.7


# ---------------------------------------------------------------------------------------------------- cells


def brute_cells(scores, keys, coverage, least):
    """Every row by itself: the longest beginning of its key whose left-over rows suffice."""
    left = list(range(len(keys)))
    out = {}
    for depth in range(keys.shape[1], 0, -1):
        for prefix in {tuple(k[:depth]) for k in keys.tolist()}:
            rest = [i for i in left if tuple(keys[i, :depth]) == prefix]
            if len(rest) >= least:
                out[prefix] = conformal_quantile(scores[rest], coverage)
                left = [i for i in left if i not in set(rest)]
    return out, left


def test_small_cells_are_put_together_step_by_step():
    rng = np.random.default_rng(4)
    for _ in range(20):
        keys = np.column_stack([rng.choice(3, 300, p=[0.6, 0.3, 0.1]), rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.05, 0.05])])
        scores = rng.random(300)
        expected, left = brute_cells(scores, keys, 0.8, 40)
        found = fit_cells(scores, keys, 0.8, min_rows=40)
        assert {k: found[k] for k in expected} == expected
        rest = scores[left] if len(left) >= 40 else scores
        assert found[()] == conformal_quantile(rest, 0.8)
        q = cell_quantiles(found, keys)
        for i in left:
            assert q[i] == found[()]


def test_a_group_needs_ten_rows_beyond_its_quantile():
    assert [enough_rows(c) for c in (0.5, 0.8, 0.9, 0.95, 0.99)] == [20, 50, 100, 200, 1000]


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "b", None, "a", "c"] * 9, dtype=object),
        np.array([True, False] * 20),
        np.array([1, 2, 2, 3] * 10),
        np.random.default_rng(0).integers(18, 90, 200),
        np.random.default_rng(1).lognormal(size=200),
        np.array([1.0, 1, 1, 1, 1, 2, 3, np.nan, 10, 1e6] * 4),
        np.array([f"v{i}" for i in range(40)], dtype=object),
        pd.array([1, 2, 3, 4, 5, None, 7], dtype="Int64"),
        pd.to_datetime(["2020-01-01", None, "2021-06-01"] * 5).to_numpy(),
        np.zeros(30),
        np.array([], dtype=float),
    ],
    ids=["text", "bool", "few", "ages", "floats", "skewed", "levels", "nullable", "dates", "constant", "none"],
)
def test_groups_of_new_rows_are_those_of_the_report(values):
    names, codes, _ = make_groups(np.asarray(values))
    rule = group_rule(values)
    assert rule["names"] == names and group_codes(rule, values).tolist() == codes.tolist()
    assert group_codes(json.loads(json.dumps(rule)), values).tolist() == codes.tolist()


def test_values_never_met():
    assert group_codes(group_rule(np.array(["a", "b"])), np.array(["z", None], dtype=object)).tolist() == [-1, -1]
    ages = group_rule(np.arange(20, 60))
    assert group_codes(ages, np.array([-5, 500, np.nan])).tolist() == [0, 3, -1]


# ---------------------------------------------------------------------------------------------------- models of tables


def planted(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Numbers and classes from two columns; a fifth of the rows is three times as noisy."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=n), "z": rng.uniform(0, 3, n), "site": rng.choice(["a", "b"], n, p=[0.8, 0.2])})
    noise = rng.normal(size=n) * np.where(frame["site"] == "b", 3, 1)
    value = (2 * frame["x"] + frame["z"] ** 2 + noise).to_numpy()
    return frame, value, np.where(value > 7, "high", np.where(value > 1, "middle", "low"))


@pytest.fixture(scope="module")
def fitted() -> tuple[TabularRegressor, TabularClassifier]:
    frame, value, label = planted(1500, 0)
    return (
        TabularRegressor(effort="fast").fit(frame, value, coverage_groups=["site"]),
        TabularClassifier(effort="fast").fit(frame, label, coverage_groups=["site"]),
    )


def test_models_cover_every_group(fitted):
    frame, value, label = planted(6000, 1)
    regressor, classifier = fitted
    b = (frame["site"] == "b").to_numpy()
    inside, plain = (covers(regressor.predict_interval(frame, 0.9, conditional_on=by), value) for by in (None, "none"))
    assert 0.88 < inside.mean() < 0.94 and inside[b].mean() > 0.85 > 0.75 > plain[b].mean()
    y = np.searchsorted(classifier.classes_, label)
    sets = classifier.predict_set(frame, 0.9)
    assert sets.dtype == bool and sets.shape == (6000, 3) and sets.any(axis=1).all()
    hit = sets[np.arange(6000), y]
    assert 0.88 < hit.mean() < 0.94 and hit[b].mean() > 0.85
    by_class = classifier.predict_set(frame, 0.9, conditional_on="class")[np.arange(6000), y]
    assert min(by_class[y == k].mean() for k in range(3)) > 0.85
    wider = regressor.predict_interval(frame, 0.99), regressor.predict_interval(frame, 0.9)
    assert (wider[0][:, 0] <= wider[1][:, 0]).all() and (wider[0][:, 1] >= wider[1][:, 1]).all()
    np.testing.assert_array_equal(regressor.predict_interval(frame, pred=regressor.predict(frame)), wider[1])


def test_a_stored_model_gives_the_same(fitted, tmp_path):
    frame, _, _ = planted(200, 2)
    for model, name in zip(fitted, ("predict_interval", "predict_set"), strict=True):
        model.save(tmp_path / name)
        again = load_model(tmp_path / name)
        for coverage in (0.5, 0.9, 0.99):
            np.testing.assert_array_equal(getattr(again, name)(frame, coverage), getattr(model, name)(frame, coverage))
        again.save(tmp_path / "twice")
        assert (tmp_path / "twice/model.json").read_text() == (tmp_path / name / "model.json").read_text()


def test_a_model_of_an_older_version_loads_and_says_what_it_lacks(fitted, tmp_path):
    frame, _, _ = planted(20, 2)
    for model, name in zip(fitted, ("predict_interval", "predict_set"), strict=True):
        model.save(tmp_path)
        path = tmp_path / "model.json"
        state = json.loads(path.read_text())
        del state["about"]["conformal"]
        path.write_text(json.dumps(state))
        old = load_model(tmp_path)
        np.testing.assert_array_equal(old.predict_raw(frame), model.predict_raw(frame))
        with pytest.raises(ModelFormatError, match="Train it again"):
            getattr(old, name)(frame)
        old.save(tmp_path / "again")
        assert load_model(tmp_path / "again").conformal_ is None


DAMAGE = {
    "no scores": lambda s: s.pop("scores"),
    "text": lambda s: s.update(scores="x"),
    "nan": lambda s: s["scores"][0].append(None),
    "a key more": lambda s: s["keys"].append([0, 0]),
    "a column less": lambda s: s.update(columns=[]),
    "no rule": lambda s: s.update(rules=[]),
    "knots": lambda s: s.update(knots=[[1.0]]),
    "scale of zero": lambda s: s["knots"][1].__setitem__(0, 0.0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_calibration_rows_are_refused(fitted, tmp_path, name):
    fitted[0].save(tmp_path)
    path = tmp_path / "model.json"
    state = json.loads(path.read_text())
    DAMAGE[name](state["about"]["conformal"])
    path.write_text(json.dumps(state))
    with pytest.raises(ModelFormatError):
        load_model(tmp_path)


def test_odd_rows_and_wrong_questions(fitted):
    regressor, classifier = fitted
    odd = pd.DataFrame({"x": [0.0, np.nan, 1.0], "z": [1.0, 2.0, np.nan], "site": ["a", None, "elsewhere"]})
    bounds = regressor.predict_interval(odd)
    assert np.isfinite(bounds).all() and (bounds[:, 0] < bounds[:, 1]).all()
    assert classifier.predict_set(odd).any(axis=1).all()
    assert regressor.predict_interval(odd.head(0)).shape == (0, 2)
    with pytest.raises(ProblemError, match="no classes"):
        regressor.predict_interval(odd, conditional_on="class")
    with pytest.raises(ProblemError, match="none, group, class, both"):
        classifier.predict_set(odd, conditional_on="site")
    with pytest.raises(ProblemError, match="between 0 and 1"):
        classifier.predict_set(odd, 90)
    frame, value, _ = planted(60, 3)
    with pytest.raises(ValueError, match="'town'"):
        clone(regressor).fit(frame, value, coverage_groups=["town"])
    alone = clone(regressor).fit(frame, value)
    with pytest.raises(ProblemError, match="without groups"):
        alone.predict_interval(frame, conditional_on="group")
    assert np.isfinite(alone.predict_interval(frame, 0.9)).all()
    assert np.isinf(alone.predict_interval(frame, 0.99)).all()  # sixty rows cannot promise that


def test_twenty_thousand_rows_are_kept_at_most():
    rng = np.random.default_rng(5)
    kept = fit_conformal("regression", rng.normal(size=50_000), np.zeros(50_000), seed=1)
    assert len(kept.scores) == 20_000
    assert abs(conformal_quantile(kept.scores, 0.9) * kept.knots[1].mean() - 1.645) < 0.05
    again = Conformal.from_state(json.loads(json.dumps(kept.to_state())))
    assert sorted(again.scores) == sorted(kept.scores)


def test_rows_without_a_prediction_are_left_out():
    oof = np.where(np.arange(100) < 40, np.nan, 0.0)
    assert len(fit_conformal("regression", np.arange(100.0), oof).scores) == 60


def test_the_scale_follows_the_prediction():
    rng = np.random.default_rng(6)
    pred = rng.uniform(1, 100, 4000)
    kept = fit_conformal("regression", pred * (1 + 0.1 * rng.normal(size=4000)), pred)
    low, high = kept.intervals(np.array([10.0, 90.0]), pd.DataFrame(index=range(2))).T
    assert 6 < (high - low)[1] / (high - low)[0] < 12
    same = residual_intervals(np.array([1.0, 2.0]), np.array([1.0, math.inf]))
    assert same.tolist() == [[0.0, 2.0], [-math.inf, math.inf]]


# ---------------------------------------------------------------------------------------------------- runs and the command


@pytest.fixture(scope="module")
def loans() -> pd.DataFrame:
    return load_dataset("german-credit").frame


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory, loans) -> Run:
    return train(loans.head(700), target="credit_risk", time_limit=1, quiet=True, out=tmp_path_factory.mktemp("classes") / "run")


@pytest.fixture(scope="module")
def numbers_run(tmp_path_factory, loans) -> Run:
    dated = loans.head(700).assign(day=pd.date_range("2020-01-01", periods=700))
    return train(dated, target="credit_amount_dm", time="day", time_limit=1, quiet=True, out=tmp_path_factory.mktemp("numbers") / "run")


def test_a_run_predicts_sets(classes_run, loans):
    new = loans.tail(300)
    found = classes_run.predict(new, coverage=0.9, quiet=True)
    assert list(found.columns[-4:]) == ["prediction", "probability", "decision", "set"]
    assert set(found["set"]) <= {"good", "bad", "good | bad", "bad | good"}
    assert all(p in s.split(" | ") for p, s in zip(found["prediction"], found["set"], strict=True))
    covered = [t in s.split(" | ") for t, s in zip(new["credit_risk"], found["set"], strict=True)]
    assert np.mean(covered) > 0.83
    assert "set" not in classes_run.predict(new, quiet=True)


def test_a_run_predicts_intervals_and_warns_of_time(numbers_run, loans, capsys):
    new = loans.tail(300)
    found = numbers_run.predict(new, coverage=0.8)
    assert "the world moves" in capsys.readouterr().err
    assert (found["low"] < found["prediction"]).all() and (found["prediction"] < found["high"]).all()
    assert 0.7 < covers(found[["low", "high"]].to_numpy(), new["credit_amount_dm"].to_numpy()).mean() < 0.92
    scores = numbers_run.evaluate(new.assign(day="2024-01-01"), coverage=0.8)
    row = scores["coverage"]["rows"][0]
    assert row["group"] == "all" and row["low"] < row["value"] < row["high"] and scores["coverage"]["kind"] == "width"
    np.testing.assert_allclose(scores["coverage"]["mean"], (found["high"] - found["low"]).mean())


def test_the_command(aimt_here, classes_run, loans, tmp_path):
    loans.tail(120).to_csv(tmp_path / "new.csv", index=False)
    done = aimt_here(
        "predict", classes_run.path, tmp_path / "new.csv", "-o", tmp_path / "out.csv", "--coverage", 0.95, "--conditional-on", "class"
    )
    assert done.returncode == 0, done.stderr
    scored = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    whole = classes_run.predict(loans.tail(120), coverage=0.95, conditional_on="class", quiet=True)
    assert scored["set"].tolist() == whole["set"].tolist()
    done = aimt_here("predict", classes_run.path, tmp_path / "new.csv", "-o", tmp_path / "no.csv", "--coverage", 95)
    assert done.returncode == 2 and "0.9" in done.stderr.splitlines()[-1] and not (tmp_path / "no.csv").exists()
    done = aimt_here("evaluate", classes_run.path, tmp_path / "new.csv", "--coverage", 0.9, "--json")
    report = json.loads(done.stdout)["coverage"]
    assert report["asked"] == 0.9 and report["rows"][0]["n"] == 120 and 1 <= report["mean"] <= 2


def test_wrong_use_of_a_run(classes_run, loans):
    for options, word in (
        ({"conditional_on": "class"}, "coverage"),
        ({"coverage": 0.9, "conditional_on": "age"}, "none, group"),
        ({"coverage": 1}, "0.9"),
    ):
        with pytest.raises(ProblemError, match=word):
            classes_run.predict(loans.head(3), quiet=True, **options)
    scores = classes_run.evaluate(loans.tail(50), coverage=0.9)
    assert any(line.startswith("coverage, 90% asked; mean size") for line in score_lines(scores))
    assert not any("coverage" in line for line in score_lines(classes_run.evaluate(loans.tail(50))))


def test_a_run_of_an_older_version_says_so_in_one_line(classes_run, loans, monkeypatch):
    saved = open_model(classes_run)
    saved.model.conformal_ = None
    monkeypatch.setattr("aimt.jobs.verbs.predict.open_model", lambda run: saved)
    assert len(classes_run.predict(loans.head(5), quiet=True)) == 5
    with pytest.raises(RunError, match="Train it again"):
        classes_run.predict(loans.head(5), coverage=0.9, quiet=True)


def test_a_run_keeps_the_coverage_in_its_groups(tmp_path_factory, loans):
    """A column that is named as a group is one whose groups are covered, as long as the model reads it."""
    run = train(
        loans.head(700),
        target="credit_risk",
        sensitive_features="age,foreign_worker",
        time_limit=6,
        quiet=True,
        out=tmp_path_factory.mktemp("groups") / "run",
    )
    kept = open_model(run).model.conformal_
    assert kept.columns == [c for c in run.problem.sensitive_features if c in run.problem.inputs] and "age" in kept.columns
    assert len(fit_cells(kept.scores, kept.keys[:, :-1], 0.8)) > 2  # some groups have a quantile of their own
    new = loans.tail(300)
    by_group, for_all = (run.predict(new, coverage=0.8, conditional_on=by, quiet=True)["set"] for by in (None, "none"))
    assert (by_group == run.predict(new, coverage=0.8, conditional_on="group", quiet=True)["set"]).all() and (by_group != for_all).any()


def test_groups_are_read_as_the_model_reads_them():
    rng = np.random.default_rng(0)
    n = 800
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "vip": rng.random(n) < 0.5, "since": np.where(rng.random(n) < 0.5, "03.04.1990", "17.06.2010")}
    )
    y = frame["x"] + np.where(frame["vip"], 3.0, 0.2) * rng.normal(size=n)
    model = TabularRegressor(effort="fast").fit(frame, y, coverage_groups=["vip", "since"])
    read = model.ensemble_.encoder.schema.conform(frame)[0]  # as `predict` hands it over
    bounds = model.predict_interval(frame)
    np.testing.assert_allclose(model.predict_interval(read), bounds)
    width = bounds[:, 1] - bounds[:, 0]
    assert width[frame["vip"]].mean() > 3 * width[~frame["vip"]].mean()
