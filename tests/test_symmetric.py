"""Symmetric trees need CatBoost to grow, and nothing to predict."""

import sys

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import MissingExtraError
from aimt.models.trees import oblivious_trees as symmetric
from aimt.models.table.compact import compact
from aimt.models.trees.oblivious_trees import SymmetricTrees, can_grow_symmetric, fit_symmetric
from aimt.models.table.estimators import TabularRegressor, load_model


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=400), "b": rng.normal(size=400), "place": rng.choice(list("uvwxyz"), 400)})
    y = np.abs(frame["a"]) + frame["b"] ** 2 + (frame["place"] == "u") + 0.05 * rng.normal(size=400)
    return frame, y.to_numpy()


@pytest.fixture(scope="module")
def fitted(table) -> TabularRegressor:
    pytest.importorskip("catboost")
    return TabularRegressor(n_repeats=1, n_threads=1).fit(*table)


@pytest.fixture
def no_catboost(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "catboost", None)
    monkeypatch.setattr(symmetric.importlib.util, "find_spec", lambda name: None)


def test_the_search_tries_symmetric_trees_and_a_forest(fitted):
    weights = {c["recipe"]: c["weight"] for c in fitted.candidates_}
    assert weights["symmetric-6"] > 0 and "forest" in weights
    assert any(isinstance(p.model, SymmetricTrees) for p in fitted.ensemble_.parts)


def test_a_stored_model_predicts_and_explains_without_catboost(fitted, table, tmp_path, no_catboost):
    fitted.save(tmp_path)
    again = load_model(tmp_path)
    assert np.array_equal(again.predict(table[0]), fitted.predict(table[0]))
    assert again.contributions(table[0].head(20)).attrs["additivity_error"] < 1e-9


def test_without_catboost_the_search_goes_on_without_its_recipe(table, no_catboost):
    assert not can_grow_symmetric(100, 3)
    model = TabularRegressor(effort="full", n_repeats=1, n_threads=1, rounds=20).fit(*table)
    tried = {c["recipe"] for c in model.candidates_}
    assert "trees-31" in tried and not any(name.startswith("symmetric") for name in tried)


def test_without_catboost_the_extra_is_named(fitted, table, no_catboost):
    X = np.zeros((10, 1))
    with pytest.raises(MissingExtraError, match=r"aimt\[catboost\]"):
        fit_symmetric(X, np.arange(10.0), X, np.arange(10.0), task="regression")
    with pytest.raises(MissingExtraError, match=r"aimt\[catboost\]"):
        compact(fitted, *table)


def test_a_class_that_the_rows_lack(table):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = np.digitize(X[:, 0], [-0.5, 0.5])  # of four classes, three
    trees = fit_symmetric(X[:150], y[:150], X[150:], y[150:], task="multiclass", n_classes=4, max_rounds=50)
    margin = trees.margin(X)
    assert margin.shape == (200, 4) and np.isfinite(margin).all() and (margin[:, 3] < margin[:, :3].max(axis=1)).all()
    assert (margin.argmax(axis=1) == y).mean() > 0.9
