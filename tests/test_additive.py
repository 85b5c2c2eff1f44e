"""A model that can be read: its tables are the model, for every task, with gaps and categories, and whatever the clock says."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import ModelFormatError
from aimt.core.problem import Problem
from aimt.data.sources.catalog import load_dataset
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.infer_schema import infer_schema
from aimt.data.split.split import split_rows
from aimt.deploy.report.page import render_report, report_data
from aimt.deploy.report.table import REPORT
from aimt.evaluate.table.scores import score_models
from aimt.metrics.classification import roc_auc
from aimt.models.table.gam import AdditiveModel, fit_additive, purify, rank_pairs
from aimt.models.table.gam_plots import additive_report, plot_term
from aimt.models.table.gam_tables import Additive, Axis
from aimt.models.table.baselines import fold_pairs, to_prediction
from aimt.train.table.fit import train_table


def planted(n=1500, seed=0):
    """A step, a hill, a pair of signs, a category, and gaps that mean something."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 6))
    X[:, 4] = rng.integers(0, 3, n)
    gap = rng.random(n) < 0.2
    truth = 1.5 * (X[:, 0] > 0) + np.exp(-(X[:, 1] ** 2)) + np.sign(X[:, 2]) * X[:, 3] + 0.6 * X[:, 4] + gap
    X[gap, 5] = np.nan
    return X, truth, rng


def folds_of(n, k=3):
    return fold_pairs(np.arange(n) % k)


TASKS = {"regression": 1, "binary": 2, "multiclass": 3}


@pytest.fixture(scope="module", params=TASKS)
def fitted(request):
    X, truth, rng = planted(900)
    noisy = truth + 0.3 * rng.normal(size=len(X))
    y = {"regression": noisy, "binary": noisy > np.median(noisy), "multiclass": np.digitize(noisy, [1.0, 2.5])}[request.param]
    y = y if request.param == "regression" else y.astype(int)
    model, held_out = fit_additive(X, y, folds_of(len(X)), task=request.param, n_classes=TASKS[request.param], levels={4: 4}, max_pairs=2)
    return request.param, X, y, model, held_out


def test_margin_is_the_sum_of_the_tables(fitted):
    task, X, _, model, _ = fitted
    total = model.base + sum(term(X) for term in model.terms)
    np.testing.assert_allclose(model.margin(X), total if task == "multiclass" else total[:, 0], atol=1e-9)
    for term in model.terms:
        assert term.counts.sum() == len(X)
        np.testing.assert_allclose(np.tensordot(term.counts, term.values, axes=term.counts.ndim), 0, atol=1e-6 * len(X))


def test_tables_say_what_the_trees_say(fitted):
    from aimt.models.table.gam import _axes, _grow_columns, _Job, _read_columns, _say

    task, X, y, _, _ = fitted
    job = _Job(X, y, folds_of(len(X)), task, TASKS[task], {4: 4}, None, 1, 3)
    grown = _grow_columns(job, None)
    axes = _axes(grown, [job.levels.get(j, 0) for j in range(X.shape[1])])
    for each in grown:
        base, tables = _read_columns(each, axes)
        total = base + sum(table[axis.cells(x)] for table, axis, x in zip(tables, axes, X.T, strict=True))
        np.testing.assert_allclose(total, _say(each, X), atol=1e-9)


def test_learns_and_predicts_held_out_rows(fitted):
    task, X, y, model, held_out = fitted
    assert np.isfinite(held_out).all() and np.isfinite(model.margin(X)).all()
    if task == "regression":
        assert np.mean((held_out - y) ** 2) < 0.5 * np.var(y)
    else:
        p = to_prediction(held_out, task)
        assert (p.argmax(axis=1) == y).mean() > 0.6 + 0.15 * (task == "binary")


def test_state_survives_json(fitted):
    _, X, _, model, _ = fitted
    back = Additive.from_state(json.loads(json.dumps(model.to_state())))
    assert np.array_equal(back.margin(X), model.margin(X)) and back.names == model.names


def test_unseen_values_and_gaps_do_not_break_it(fitted):
    task, X, _, model, _ = fitted
    strange = np.vstack([np.full(6, np.nan), np.full(6, 1e9), np.full(6, -1e9), np.r_[X[0, :4], 17, X[0, 5]], np.full(6, np.inf)])
    assert np.isfinite(model.margin(strange)).all()
    never = model.margin(np.where(np.arange(6) == 0, np.nan, X[:50]))  # no training row lacks column 0
    shift = [t for t in model.terms if t.columns == (0,)][0]
    moved = model.margin(X[:50]) - (shift(X[:50]) if task == "multiclass" else shift(X[:50])[:, 0])
    if not any(len(t.columns) == 2 and 0 in t.columns for t in model.terms):
        np.testing.assert_allclose(never, moved, atol=1e-9)  # it says nothing about it


def test_the_planted_pair_is_found_and_no_other():
    X, truth, rng = planted(3000)
    y = truth + 0.3 * rng.normal(size=len(X))
    model, _ = fit_additive(X, y, folds_of(len(X), 5), task="regression", levels={4: 4})
    curves = {t.columns: t for t in model.terms}
    assert [c for c in curves if len(c) == 2] == [(2, 3)]
    together = np.sign(X[:, 2]) * X[:, 3]
    assert np.corrcoef(curves[(2, 3)](X)[:, 0], together)[0, 1] > 0.95
    assert np.corrcoef(curves[(0,)](X)[:, 0], X[:, 0] > 0)[0, 1] > 0.95
    assert abs(curves[(5,)].values[-1, 0] - curves[(5,)].values[:-1, 0].mean() - 1) < 0.25
    without, _ = fit_additive(X, y, folds_of(len(X), 5), task="regression", levels={4: 4}, max_pairs=0)
    assert np.std(model.margin(X) - truth) < 0.6 * np.std(without.margin(X) - truth)


def test_noise_gives_no_pair_and_hardly_a_curve():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(1200, 8)), rng.integers(0, 2, 1200)
    model, _ = fit_additive(X, y, folds_of(1200), task="binary", n_classes=2)
    assert all(len(t.columns) == 1 for t in model.terms) and np.std(model.margin(X)) < 0.5


def test_pairs_of_noise_rarely_pass_the_first_test():
    rng = np.random.default_rng(2)
    found = [len(rank_pairs(rng.normal(size=(800, 8)), rng.normal(size=(800, 1)), np.ones((800, 1)))) for _ in range(10)]
    assert np.mean(found) < 1


def test_purify_moves_and_keeps():
    rng = np.random.default_rng(3)
    counts, table = rng.integers(0, 9, size=(5, 7)), rng.normal(size=(5, 7, 2))
    counts[2], counts[:, 3] = 0, 0
    base, first, second, rest = purify(table, counts)
    seen = (counts.sum(1) > 0)[:, None] & (counts.sum(0) > 0)
    np.testing.assert_allclose((base + first[:, None] + second + rest)[seen], table[seen], atol=1e-9)
    np.testing.assert_allclose(np.einsum("jk,jkm->jm", counts, rest), 0, atol=1e-3)
    assert np.all(first[2] == 0) and np.all(second[3] == 0) and np.all(rest[2] == 0)


def test_axis_cells_are_the_intervals():
    axis = Axis(np.array([-1e-35, 0.0, 2.5]))
    assert list(axis.cells(np.array([-1.0, -1e-35, 0.0, 1.0, 2.5, 3.0, np.nan]))) == [0, 0, 1, 2, 2, 3, 4]
    assert list(axis.cells(axis.places())) == list(range(axis.size))
    assert list(Axis(np.empty(0)).cells(np.array([5.0, np.nan]))) == [0, 1]


@pytest.mark.parametrize(
    "hurt",
    [
        lambda s: s.pop("base"),
        lambda s: s.update(task="magic"),
        lambda s: s["terms"][0].update(columns=[77]),
        lambda s: s["terms"][0].update(columns=[0, 1]),
        lambda s: s["terms"][0]["axes"][0].update(edges=[3, 2, 1]),
        lambda s: s["terms"][0]["values"].append([0.0]),
        lambda s: s["terms"][0]["values"].__setitem__(0, [None]),
        lambda s: s.update(terms=7),
        lambda s: s["terms"][0].update(counts=[-1] * len(s["terms"][0]["counts"])),
        lambda s: s.pop("cut"),
    ],
)
def test_damaged_states_are_refused(hurt):
    X, truth, _ = planted(200)
    model, _ = fit_additive(X, truth, folds_of(200), task="regression", max_pairs=0)
    state = json.loads(json.dumps(model.to_state()))
    hurt(state)
    with pytest.raises(ModelFormatError, match="damaged"):
        Additive.from_state(state)


def test_same_seed_same_model_other_seed_another():
    X, truth, _ = planted(400)
    one, two, three = (fit_additive(X, truth, folds_of(400), task="regression", max_pairs=0, seed=s)[0].margin(X) for s in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_usable_whenever_the_clock_ends():
    X, truth, _ = planted(2000)
    start = time.process_time()
    model, held_out = fit_additive(X, truth, folds_of(2000, 5), task="regression", deadline=time.perf_counter())
    assert time.process_time() - start < 1.0
    assert model.cut and np.isfinite(model.margin(X)).all() and np.std(model.margin(X)) > 0
    assert np.isfinite(held_out).any()


@pytest.mark.parametrize("n", [8, 30])
def test_very_few_rows_and_constant_columns(n):
    X = np.column_stack([np.arange(n, dtype=float), np.ones(n), np.full(n, np.nan)])
    y = (np.arange(n) >= n // 2).astype(int)
    model, held_out = fit_additive(X, y, folds_of(n), task="binary", n_classes=2)
    assert np.isfinite(model.margin(X)).all() and np.isfinite(held_out).all()
    level, _ = fit_additive(X, np.full(n, 3.0), folds_of(n), task="regression")
    np.testing.assert_allclose(level.margin(X), 3.0)
    nothing, _ = fit_additive(X[:, :0], y, folds_of(n), task="binary", n_classes=2)
    np.testing.assert_allclose(nothing.margin(X[:, :0]), 0, atol=1e-9)


# --- on tables ------------------------------------------------------------------------------------------------------


def loans():
    frame = load_dataset("german-credit").frame
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target="credit_risk", positive_label="bad", cost={"fn": 5, "fp": 1})
    y, _ = encode_target(frame, problem, schema)
    return frame, y, problem, schema, split_rows(frame, problem, y)


@pytest.fixture(scope="module")
def on_loans():
    frame, y, problem, schema, split = loans()
    model = AdditiveModel("binary", 2, schema=schema, inputs=problem.inputs)
    return frame, y, problem, split, model.fit(frame.iloc[split.train], y[split.train], fold=split.fold[split.train])


def test_good_on_the_loans(on_loans):
    frame, y, _, split, model = on_loans
    assert roc_auc(y[split.train], model.oof_) > 0.77
    assert roc_auc(y[split.test], model.predict_raw(frame.iloc[split.test])) > 0.74


def test_the_whole_model_survives_its_state(on_loans):
    frame, _, _, _, model = on_loans
    state, arrays = model.to_state()
    back = AdditiveModel.from_state(json.loads(json.dumps(state)), arrays)
    assert np.array_equal(back.predict_raw(frame), model.predict_raw(frame))
    state["additive"]["names"] = state["additive"]["names"][1:]
    with pytest.raises(ModelFormatError):
        AdditiveModel.from_state(state, arrays)


def test_report_says_and_draws_every_kind(on_loans):
    _, _, problem, _, model = on_loans
    found = additive_report(model, problem, max_terms=20)
    json.dumps(found, allow_nan=False)
    assert found["label"] == "bad" and len(found["parts"]) == found["n_curves"] + found["n_pairs"]
    importance = [p["importance"] for p in found["parts"]]
    assert importance == sorted(importance, reverse=True) and {t["kind"] for t in found["terms"]} >= {"number", "category"}
    for term in found["terms"]:
        assert plot_term(term).axes and "×" in term["message"]


def test_dates_maps_and_several_classes_are_shown():
    X, truth, rng = planted(1500)
    frame = pd.DataFrame(X, columns=[*"abcdef"])
    frame["e"] = np.array(["red", "green", "blue"])[X[:, 4].astype(int)]
    frame["when"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, 1500), unit="D")
    frame["y"] = truth + (frame["when"] > "2021-03-01")
    schema = infer_schema(frame)
    for target, task in (("y", "regression"), ("e", "multiclass")):
        problem = Problem(
            target=target,
            task=task,
            inputs=[c for c in frame if c not in (target, "y")],
            labels=["blue", "green", "red"] if task == "multiclass" else [],
            metric="rmse" if target == "y" else "log_loss",
        )
        y = frame["y"].to_numpy() if target == "y" else pd.Categorical(frame["e"]).codes.astype(int)
        model = AdditiveModel(task, 3 if task == "multiclass" else 1, schema=schema, inputs=problem.inputs)
        model.fit(frame, y, fold=np.arange(1500) % 3)
        found = additive_report(model, problem, max_terms=9)
        kinds = {t["kind"] for t in found["terms"]}
        assert all(plot_term(t).axes and t["message"] for t in found["terms"])
        if target == "y":
            assert kinds == {"number", "category", "date", "pair"}
            gap = next(t for t in found["terms"] if t["columns"] == ["f"])
            assert gap["missing"]["value"] > 0.4 and "missing" in gap["message"]
        else:
            assert {t["label"] for t in found["terms"]} <= set(problem.labels)


def test_long_tables_are_learned_from_a_sample(monkeypatch, on_loans):
    frame, y, problem, _, whole = on_loans
    monkeypatch.setattr("aimt.models.table.gam.MOST_ADDITIVE_ROWS", 400)
    model = AdditiveModel("binary", 2, schema=whole.schema, inputs=whole.inputs).fit(frame, y, fold=np.arange(1000) % 4)
    assert np.isfinite(model.oof_[:, 0]).sum() == 400 and np.isfinite(model.predict_raw(frame)).all()
    assert additive_report(model, problem)["n_rows"] == 400


def test_it_is_trained_beside_the_model_and_the_price_is_told():
    frame, y, problem, schema, split = loans()
    trained = train_table(frame, y, problem, schema, split, time_limit=1.5, threads=1)
    assert list(trained.models) == ["prior", "linear", "additive", "lightgbm", "model"]
    test = {name: made["test"] for name, made in trained.predictions.items()}
    scores = score_models(problem, y[split.test], test)
    price = next(d for d in scores["differences"] if d["baseline"] == "additive")
    metrics = {"scores": scores, "additive": additive_report(trained.models["additive"], problem)}
    run = {"run.json": {"problem": problem.to_dict(), "source": "loans", "stage": "done"}, "metrics.json": metrics}
    data = report_data(run, REPORT)
    section = next(s for s in data["sections"] if s["id"] == "reading")
    said = " ".join(section["text"])
    assert f"{price['value']:.3f}"[:4] in said and "price of reading" in said and len(section["figures"]) == 4
    html = render_report(data)
    assert "could not be" not in html and "A model that can be read" in html


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.01, 0.03, "statistically significant"), (-0.01, 0.02, "includes zero"), (-0.03, -0.01, "Use it")]
)
def test_what_follows_from_the_price(low, high, words):
    row = {"model": "additive", "metric": "roc_auc", "label": "ROC AUC", "value": 0.8, "low": 0.7, "high": 0.9}
    price = {"baseline": "additive", "value": (low + high) / 2, "low": low, "high": high}
    scores = {"metric": "roc_auc", "label": "ROC AUC", "table": [row], "differences": [price], "higher_is_better": True}
    term = {
        "kind": "number",
        "columns": ["a"],
        "label": "bad",
        "target": "y",
        "importance": 0.3,
        "edges": [1.0],
        "values": [-0.3, 0.3],
        "error": [0.1, 0.1],
        "counts": [5, 5],
        "missing": None,
        "message": "a: up and down",
    }
    found = {
        "terms": [term],
        "parts": [{"columns": ["a"], "importance": 0.3}],
        "n_curves": 1,
        "n_pairs": 0,
        "odds": True,
        "cut": True,
        "rest": 0.0,
    }
    section = next(
        s for s in report_data({"metrics.json": {"scores": scores, "additive": found}}, REPORT)["sections"] if s["id"] == "reading"
    )
    assert words in section["text"][1] and any("clock" in t for t in section["text"])
