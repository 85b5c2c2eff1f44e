"""A compact model: fewer members, the same kind of model, as fast as asked, stored and read like any other."""

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import ProblemError
from aimt.metrics.classification import log_loss
from aimt.metrics.regression import rmse
from aimt.models.table import estimators as tabular
from aimt.models.trees.boosting import Member
from aimt.models.table.compact import compact, latency_ms
from aimt.models.table.estimators import TabularClassifier, TabularRegressor, load_model

pytestmark = pytest.mark.usefixtures("no_drawing")


def rows(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"a": rng.normal(size=n), "b": rng.normal(size=n), "c": rng.choice(["x", "y", "z"], n), "d": rng.choice([1.0, np.nan], n)}
    )
    return frame, (frame["a"] + (frame["c"] == "x") * frame["b"] + 0.3 * rng.normal(size=n)).to_numpy()


@pytest.fixture(autouse=True)
def few_recipes(monkeypatch):
    every = tabular.recipes_for
    names = ("trees-7", "linear", "random-15", "log-63")
    monkeypatch.setattr(tabular, "recipes_for", lambda *a, **k: [c for c in every(*a, **k) if c.name in names])


@pytest.fixture(scope="module")
def train():
    return rows(600, 0)


@pytest.fixture(scope="module")
def fresh():
    return rows(3000, 1)


@pytest.mark.parametrize("cuts", [(0,), (-0.7, 0.7)], ids=["two classes", "three classes"])
def test_classes(train, fresh, cuts, tmp_path):
    y, truth = (np.digitize(v, cuts) for v in (train[1], fresh[1]))
    names = np.array(["low", "middle", "high"])
    model = TabularClassifier(n_repeats=1).fit(train[0], names[y])
    small = compact(model, train[0], names[y])
    order = np.searchsorted(model.classes_, names[truth])
    losses = [log_loss(order, m.predict_proba(fresh[0])) for m in (model, small)]
    assert losses[1] < 1.1 * losses[0]
    assert len(small.ensemble_.parts) < len(model.ensemble_.parts) and small.n_trees_ < 0.6 * model.n_trees_
    assert {p.recipe for p in small.ensemble_.parts} == {p.recipe for p in model.ensemble_.parts}
    assert sum(p.weight for p in small.ensemble_.parts) == pytest.approx(1)
    small.save(tmp_path)
    loaded = load_model(tmp_path)
    assert np.array_equal(loaded.predict_proba(fresh[0]), small.predict_proba(fresh[0]))
    again = compact(loaded, train[0], names[y], members=1)  # of a stored compact model, once more
    assert np.isfinite(again.predict_proba(fresh[0])).all()


def test_numbers_on_a_logarithm(train, fresh):
    model = TabularRegressor(n_repeats=1).fit(train[0], np.exp(1.5 * train[1]))
    small = compact(model, train[0], np.exp(1.5 * train[1]))
    errors = [rmse(np.exp(1.5 * fresh[1]), m.predict(fresh[0])) for m in (model, small)]
    assert errors[1] < 1.15 * errors[0]
    logs = [p.model.log_target for p in small.ensemble_.parts if isinstance(p.model, Member)]
    assert any(logs) == any(p.model.log_target for p in model.ensemble_.parts if isinstance(p.model, Member))


def test_a_limit_gives_up_members_and_recipes(train):
    y = train[1] > 0
    model = TabularClassifier(n_repeats=1).fit(train[0], y)
    small = compact(model, train[0], y)
    one = compact(model, train[0], y, max_latency_ms=1e9)
    assert len(one.ensemble_.parts) == len(small.ensemble_.parts)
    took = []
    for limit in (0.5, 0.25):  # of what the crowd takes
        sample = train[0].iloc[np.arange(1000) % 600]
        fast = compact(model, train[0], y, max_latency_ms=limit * latency_ms(model, sample))
        took.append(len(fast.ensemble_.parts))
        assert sum(p.weight for p in fast.ensemble_.parts) == pytest.approx(1)
    assert took[1] <= took[0] <= len(small.ensemble_.parts)
    with pytest.raises(ProblemError, match="1,000 rows take"):
        compact(model, train[0], y, max_latency_ms=0)


def test_labels_and_recipes_that_do_not_belong(train):
    y = train[1] > 0
    model = TabularClassifier(n_repeats=1).fit(train[0], np.where(y, "yes", "no"))
    with pytest.raises(ProblemError, match="does not know the label.*maybe"):
        compact(model, train[0], np.where(y, "yes", "maybe"))
    for part in model.ensemble_.parts:
        part.recipe = "trees of yore"
    with pytest.raises(ProblemError, match="trees of yore"):
        compact(model, train[0], np.where(y, "yes", "no"))
