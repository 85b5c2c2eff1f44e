"""Models of tables: what no single notebook shows. Files that must not load, limits that hold, odd tables, sklearn's checks."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from aimt.core.errors import DataError, ModelFormatError
from aimt.core.files import sha256
from aimt.data.sources.catalog import load_dataset
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.features import FeatureEncoder, dense
from aimt.data.table.infer_schema import infer_schema
from aimt.data.split.split import split_rows
from aimt.models.table import recipe_search
from aimt.models.table.bagging import Candidate, Encoded, cross_fit
from aimt.models.table.baselines import fold_pairs
from aimt.models.trees.boosting import Member
from aimt.models.table.ensemble import FORMAT
from aimt.models.table.estimators import TabularClassifier, TabularRegressor, load_model
from aimt.models.table.recipe_search import _in_part, _Maker, _race, _regrow, _short
from aimt.models.table.search_budget import affordable_rows, affordable_texts
from aimt.train.table.fit import train_table


def loans() -> tuple[pd.DataFrame, pd.Series]:
    frame = load_dataset("german-credit").frame
    return frame, frame.pop("credit_risk")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A fitted model and the folder it is stored in."""
    frame, y = loans()
    model = TabularClassifier(n_repeats=1, rounds=40).fit(frame, y)
    folder = tmp_path_factory.mktemp("stored") / "model"
    model.save(folder)
    return model, folder


@pytest.fixture
def copy(stored, tmp_path):
    return shutil.copytree(stored[1], tmp_path / "model")


def edit(folder, change) -> None:
    """Change model.json as somebody who knows the format would, checksums included."""
    path = folder / "model.json"
    state = json.loads(path.read_text())
    change(state)
    state["files"] = {name: sha256(folder / name) for name in state["files"] if (folder / name).exists()}
    path.write_text(json.dumps(state))


# ---------------------------------------------------------------------------------------------------- storing


def test_round_trip_is_exact(stored):
    model, folder = stored
    frame, _ = loans()
    again = TabularClassifier.load(folder)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    assert again.predict(frame).tolist() == model.predict(frame).tolist()
    assert again.classes_.tolist() == ["bad", "good"]
    assert again.get_params()["n_repeats"] == 1
    pd.testing.assert_frame_equal(again.contributions(frame[:20]), model.contributions(frame[:20]))


def test_an_empty_table_has_predictions_and_reasons_of_no_rows(stored):
    frame, _ = loans()
    assert stored[0].predict(frame[:0]).shape == (0,) and stored[0].predict_proba(frame[:0]).shape == (0, 2)
    reasons = stored[0].contributions(frame[:0])
    assert reasons.shape == (0, frame.shape[1] + 1) and reasons.attrs["additivity_error"] == 0


def test_nothing_stored_executes(stored):
    kinds = {p.name.split(".", 1)[1] for p in stored[1].iterdir()}
    assert kinds <= {"json", "safetensors", "txt", "txt.gz"}


@pytest.mark.parametrize("kind", [str, int, float, bool])
def test_labels_keep_their_type(kind, tmp_path):
    frame = pd.DataFrame({"x": np.arange(60.0)})
    y = (np.arange(60) >= 30).astype(int).astype(bool if kind is bool else kind if kind is not str else "U1")
    TabularClassifier(effort="fast").fit(frame, y).save(tmp_path)
    assert load_model(tmp_path).predict(frame).dtype.kind == y.dtype.kind


def test_saving_over_an_older_model_leaves_no_stale_member(tmp_path):
    frame, y = loans()
    TabularClassifier(n_recipes=4, n_repeats=1, rounds=20).fit(frame[:300], y[:300]).save(tmp_path)
    TabularClassifier(effort="fast").fit(frame[:300], y[:300]).save(tmp_path)
    named = set(json.loads((tmp_path / "model.json").read_text())["files"])
    assert {p.name for p in tmp_path.iterdir()} == named | {"model.json"}


def test_every_file_is_needed_and_checked(stored, tmp_path):
    for i, path in enumerate(sorted(stored[1].iterdir())):
        for j, content in enumerate((None, b"", path.read_bytes()[:-20], path.read_bytes() + b"x")):
            folder = shutil.copytree(stored[1], tmp_path / f"{i}-{j}")
            if content is None:
                (folder / path.name).unlink()
            else:
                (folder / path.name).write_bytes(content)
            with pytest.raises(ModelFormatError):
                load_model(folder)
        if i > 3:
            break


def a_tree(state) -> dict:
    """The first member that is stored as trees."""
    return next(part for part in state["parts"] if "rounds" in part)


CHANGES = {
    "newer format": lambda s: s.update(format=FORMAT + 1),
    "format is text": lambda s: s.update(format="1"),
    "unknown key": lambda s: s.update(on_load="import os"),
    "missing key": lambda s: s.pop("task"),
    "unknown kind": lambda s: s.update(kind="Tabular"),
    "another task": lambda s: s.update(task="regression"),
    "more classes": lambda s: s.update(n_classes=3),
    "no members": lambda s: s.update(parts=[]),
    "weights not one": lambda s: s["parts"][0].update(weight=5.0),
    "negative weight": lambda s: s["parts"][0].update(weight=-0.1),
    "unknown entry of a member": lambda s: s["parts"][0].update(hook="x"),
    "file elsewhere": lambda s: a_tree(s).update(file="../../etc/passwd"),
    "rounds are a list": lambda s: a_tree(s).update(rounds=[1]),
    "calibrator unknown": lambda s: s["calibrator"].update(kind="magic"),
    "calibrator is text": lambda s: s.update(calibrator="none"),
    "levels are numbers": lambda s: s["encoder"]["parts"][0].update(levels=[1, 2]),
    "a column less": lambda s: (s["encoder"]["inputs"].pop(), s["encoder"]["parts"].pop()),
    "unknown parameter": lambda s: s["about"]["params"].update(evil=1),
    "a label less": lambda s: s["about"]["labels"].pop(),
    "parts is null": lambda s: s.update(parts=None),
    "encoder is a list": lambda s: s.update(encoder=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_doctored_description_is_refused(copy, name):
    edit(copy, CHANGES[name])
    with pytest.raises(ModelFormatError):
        load_model(copy)


def test_newer_format_says_what_to_do(copy):
    edit(copy, CHANGES["newer format"])
    with pytest.raises(ModelFormatError, match="Upgrade aimt"):
        load_model(copy)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelFormatError, match="missing"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ModelFormatError, match="must hold an object"):
        load_model(tmp_path)


def test_the_wrong_kind_of_model(stored):
    with pytest.raises(ModelFormatError, match="TabularClassifier, not a TabularRegressor"):
        TabularRegressor.load(stored[1])


# ---------------------------------------------------------------------------------------------------- limits


def bigger(n: int = 30_000, columns: int = 20) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, columns))
    y = X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + rng.normal(size=n)
    return pd.DataFrame(X, columns=[f"c{i}" for i in range(columns)]), y


# One thread's CPU time is at most the wall time: it cannot fail on a busy machine, and finds an overrun on an idle one.
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_time_limit_holds(task):
    frame, y = bigger()
    if task != "regression":
        y = np.digitize(y, np.quantile(y, [0.5] if task == "binary" else [0.2, 0.4, 0.6, 0.8]))
    kind = TabularRegressor if task == "regression" else TabularClassifier
    model = kind(n_threads=1)
    start = time.process_time()
    model.fit(frame, y, time_limit=3)
    seconds = time.process_time() - start
    assert seconds < 3.4
    assert model.stopped_by_time_
    assert np.isfinite(model.predict_raw(frame[:100])).all()


def test_time_limit_covers_baselines_and_predictions():
    frame, y = bigger()
    frame["y"] = y
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target="y")
    split = split_rows(frame, problem, y)
    start = time.process_time()
    trained = train_table(frame, y, problem, schema, split, time_limit=4, threads=1)
    assert time.process_time() - start < 4.5
    assert all(np.isfinite(made["test"]).all() for made in trained.predictions.values())


def test_a_recipe_cut_short_counts_with_most_of_its_folds():
    frame, y = bigger(300, 3)
    table, folds = Encoded(frame.to_numpy(), y, "regression"), fold_pairs(np.arange(300) % 5)
    tree = Candidate("tree", "trees", {"num_leaves": 3, "learning_rate": 0.3})
    bag = cross_fit(tree, table, folds, start_by=time.perf_counter(), max_rounds=5)
    assert len(bag.members) == 1 and not bag.complete  # the first is always fitted
    bag = cross_fit(tree, table, folds, go_on=lambda oof, members: members < 3, max_rounds=5)
    assert len(bag.members) == 3 and not bag.complete
    assert np.isfinite(bag.oof).sum() == 180
    assert _in_part(bag, 5) and not _in_part(bag, 6)  # three are most of five, not of six
    assert not _in_part(cross_fit(tree, table, folds, max_rounds=5), 5)  # a whole one lacks nothing


def test_a_limit_far_too_short_still_gives_a_model():
    frame, y = bigger(5000)
    model = TabularRegressor(n_threads=1).fit(frame, y, time_limit=0.05)
    assert np.isfinite(model.predict(frame[:10])).all()
    assert model.stopped_by_time_


def test_large_table_uses_one_holdout_and_few_trees():
    frame, y = bigger(60_000, 8)
    model = TabularClassifier(effort="fast", n_threads=1).fit(frame, (y > 0).astype(int))
    known = np.isfinite(model.oof_[:, 0])
    assert known.sum() == 12_000
    assert len(model.ensemble_.parts) == 1
    assert model.n_trees_ < 1500


@pytest.mark.parametrize("n", [1200, 10_500])
def test_below_ten_thousand_rows_half_of_the_trees_weight_has_seen_all_rows(n, tmp_path):
    frame, y = bigger(n, 6)
    model = TabularClassifier(effort="fast", n_threads=1).fit(frame, (y > 0).astype(int))
    trees = [p for p in model.ensemble_.parts if isinstance(p.model, Member)]
    whole = [p for p in trees if p.model.stopped == "whole"]
    assert len(trees) - len(whole) == 3 and sum(p.weight for p in model.ensemble_.parts) == pytest.approx(1)
    if n > 10_000:
        assert not whole
        return
    assert sum(p.weight for p in whole) == pytest.approx(sum(p.weight for p in trees) / 2)
    rounds = np.mean([p.model.rounds for p in trees if p not in whole])
    assert {p.model.rounds for p in whole} == {round(1.1 * rounds)} and len({p.model.booster.model_to_string() for p in whole}) == 2
    model.save(tmp_path)
    assert [p.model.stopped for p in load_model(tmp_path).ensemble_.parts] == [p.model.stopped for p in model.ensemble_.parts]


# ---------------------------------------------------------------------------------------------------- the same again


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_same_seed_same_model(kind):
    frame, y = loans()
    y = y if kind is TabularClassifier else frame.pop("credit_amount_dm")
    options = {"n_repeats": 1, "random_state": 7}
    one, two = (kind(**options).fit(frame[:150], y[:150]) for _ in range(2))
    np.testing.assert_array_equal(one.predict_raw(frame), two.predict_raw(frame))
    np.testing.assert_array_equal(one.oof_, two.oof_)
    other = kind(n_repeats=1, random_state=8, n_recipes=3).fit(frame[:150], y[:150])
    assert not np.array_equal(one.predict_raw(frame), other.predict_raw(frame))


def test_a_budget_in_recipes_and_rounds_is_repeatable():
    frame, y = bigger(600, 4)
    options = {"n_recipes": 4, "rounds": 30, "n_repeats": 2, "n_threads": 1}
    one, two = (TabularRegressor(**options).fit(frame, y) for _ in range(2))
    np.testing.assert_array_equal(one.predict(frame), two.predict(frame))
    assert len(one.candidates_) == 4 and not one.stopped_by_time_
    assert all(p.model.rounds <= 33 for p in one.ensemble_.parts if isinstance(p.model, Member))  # on all rows a tenth more
    with pytest.raises(ValueError, match="n_recipes is 0"):
        TabularRegressor(n_recipes=0).fit(frame, y)


def test_order_of_columns_does_not_matter_at_prediction(stored):
    model, _ = stored
    frame, _ = loans()
    np.testing.assert_array_equal(model.predict_proba(frame[list(frame)[::-1]]), model.predict_proba(frame))


# ---------------------------------------------------------------------------------------------------- odd tables


def test_later_tables_may_be_odd(stored):
    model, _ = stored
    frame, _ = loans()
    odd = frame.head(5).copy()
    odd["purpose"] = ["a spaceship", None, "", "🚀\n=1+1", "new car"]
    odd["age"] = [np.nan, np.inf, -1, 1e300, 30]
    odd["extra"] = 1
    probs = model.predict_proba(odd)
    assert np.isfinite(probs).all() and np.allclose(probs.sum(1), 1)
    texts = frame.head(5).astype({"age": str, "duration_months": str})
    np.testing.assert_array_equal(model.predict_proba(texts), model.predict_proba(frame.head(5)))
    assert model.predict_proba(frame.head(0)).shape == (0, 2)


def test_missing_column_is_named(stored):
    frame, _ = loans()
    with pytest.raises(DataError, match="duration_months"):
        stored[0].predict(frame.drop(columns="duration_months"))


@pytest.mark.parametrize("n", [8, 20])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_tiny_tables(task, n, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=n), "b": rng.choice(["x", "y"], n)})
    y = {"binary": np.arange(n) % 2, "multiclass": np.arange(n) % 3, "regression": rng.normal(size=n)}[task]
    model = (TabularRegressor if task == "regression" else TabularClassifier)().fit(frame, y)
    pred = model.predict_raw(frame)
    assert np.isfinite(pred).all()
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_raw(frame), pred)
    assert len(model.predict(frame.iloc[:0])) == 0


def test_a_class_with_one_member():
    frame, y = loans()
    labels = y.astype(object).to_numpy(copy=True)
    labels[17] = "only once"
    model = TabularClassifier(n_repeats=1, rounds=30).fit(frame[:400], labels[:400])
    probs = model.predict_proba(frame)
    assert probs.shape == (1000, 3) and np.isfinite(probs).all()
    assert probs[:, list(model.classes_).index("only once")].mean() < 0.05
    two = TabularClassifier(effort="fast").fit(frame[:40], ["a"] * 39 + ["b"])
    assert np.isfinite(two.predict_proba(frame)).all()


def test_a_class_that_is_not_in_the_training_rows():
    frame, y = loans()
    model = TabularClassifier(effort="fast").fit(frame, np.where(y == "bad", 2, 0), classes=[0, 1, 2])
    probs = model.predict_proba(frame)
    assert probs.shape == (1000, 3) and probs[:, 1].max() < 0.05


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([None] * 200, dtype=object),
        pd.Series([1.0] * 200),
        pd.Series([np.inf, 1, 2, -np.inf] * 50),
        pd.Series([1, "two", None, 4.5] * 50, dtype=object),
        pd.date_range("1990-01-01", periods=200).to_series(index=range(200)),
        pd.Series([f"a text of many words number {i} about loans" for i in range(200)]),
        pd.Series([f"id-{i}" for i in range(200)]),
        pd.Series([True, False] * 100),
        pd.Series(pd.Categorical(["u", "v"] * 100)),
        pd.Series([2**60 + i for i in range(200)]),
        pd.Series([1, 2, None, 4] * 50, dtype="Int64"),
        pd.Series(pd.to_timedelta(range(200), unit="D")),
    ],
)
def test_columns_of_every_kind(column, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"odd": column, "x": rng.normal(size=200)})
    y = (frame["x"] + rng.normal(size=200) > 0).to_numpy().astype(int)
    model = TabularClassifier(effort="fast").fit(frame, y)
    assert np.isfinite(model.predict_proba(frame)).all()
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(frame), model.predict_proba(frame))
    parts = model.contributions(frame)
    assert parts.attrs["additivity_error"] < 1e-6 and list(parts)[:2] == ["odd", "x"]


def test_names_that_are_not_plain_text():
    frame, y = bigger(300, 4)
    frame.columns = ["=1+1", "naïve 🚀", "a\nb", "base"]
    model = TabularRegressor(effort="fast").fit(frame, y)
    assert list(model.contributions(frame))[:4] == list(frame.columns)


def test_a_constant_target_and_huge_targets():
    frame, y = bigger(200, 3)
    assert np.allclose(TabularRegressor(effort="fast").fit(frame, np.full(200, 3.0)).predict(frame), 3.0)
    huge = TabularRegressor(n_repeats=1, rounds=30).fit(frame, np.exp(4 * y) * 1e6).predict(frame)
    assert np.isfinite(huge).all()


def test_many_columns_and_few_rows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 2000)), columns=[f"c{i}" for i in range(2000)])
    start = time.process_time()
    model = TabularClassifier(n_threads=1).fit(frame, (frame["c3"] > 0).astype(int), time_limit=4)
    assert time.process_time() - start < 4.4
    assert np.isfinite(model.predict_proba(frame)).all()


@pytest.mark.parametrize(
    "y, message", [(["a"] * 50, "one class"), ([None] * 50, "NaN"), (np.linspace(0, 1, 50), "Unknown label type|continuous")]
)
def test_targets_that_cannot_be_learned(y, message):
    with pytest.raises(ValueError, match=message):
        TabularClassifier(effort="fast").fit(pd.DataFrame({"x": range(50)}), y)


def test_regression_target_must_be_finite():
    with pytest.raises(ValueError, match="NaN"):
        TabularRegressor(effort="fast").fit(pd.DataFrame({"x": range(50)}), [np.nan] * 50)


def test_groups_stay_in_one_fold():
    frame, y = loans()
    groups = np.arange(600) // 10
    noise = np.random.default_rng(0).normal(size=60)[groups]  # tells the group, and nothing else
    member = pd.DataFrame({"noise": noise})
    target = np.random.default_rng(1).integers(0, 2, 60)[groups]
    free = TabularClassifier(n_repeats=1, n_recipes=3).fit(member, target)
    kept = TabularClassifier(n_repeats=1, n_recipes=3).fit(member, target, groups=groups)
    accuracy = [(m.oof_.argmax(1) == target).mean() for m in (free, kept)]
    assert accuracy[0] > 0.9 and accuracy[1] < 0.65


# ---------------------------------------------------------------------------------------------------- conventions


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [TabularClassifier(effort="fast"), TabularRegressor(effort="fast")], ids=lambda e: type(e).__name__)
def test_scikit_learn_checks(estimator):
    folds = {"check_sample_weight_equivalence_on_dense_data": "a row of weight two lies in one fold, two rows may lie in two"}
    results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=folds)
    assert [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"] == []
    assert len(results) > 40


def two_regimes(n: int = 900) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Rows where y follows x, and about as many where it follows -x; which they are is not told."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"x": rng.normal(size=n), "shop": rng.choice([f"s{i}" for i in range(40)], n)})
    first = rng.random(n) < 0.5
    return frame, np.where(first, frame["x"], -frame["x"]) + 0.1 * rng.normal(size=n), first


@pytest.mark.parametrize("kind", ["trees", "means", "symmetric", "forest", "linear", "network"])
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_every_learner_hears_weights(kind, task):
    frame, y, first = two_regimes()
    encoder = FeatureEncoder(infer_schema(frame), ["x", "shop"]).fit(frame)
    X = encoder.transform(frame)
    line = dense(encoder).fit(X)
    target = y if task == "regression" else np.digitize(y, [0.0] if task == "binary" else [-0.4, 0.4])
    made = {}
    for heavy in (True, False):
        weight = np.where(first == heavy, 1.9, 0.1)
        table = Encoded(X, target, task, {"binary": 2, "multiclass": 3}.get(task, 1), encoder.categorical, line.transform(X), weight=weight)
        bag = cross_fit(Candidate(kind, kind), table, fold_pairs(np.arange(len(y)) % 2), max_rounds=40)
        score = bag.oof if bag.oof.ndim == 1 else bag.oof[:, -1] - bag.oof[:, 0]
        made[heavy] = np.corrcoef(score, frame["x"])[0, 1]
    assert made[True] > 0.5 and made[False] < -0.5


def test_weights_decide_the_whole_model():
    frame, y, first = two_regimes(1500)
    model = TabularRegressor(effort="fast", n_threads=1).fit(frame, y, np.where(first, 9.0, 1.0))
    assert np.polyfit(frame["x"], model.predict(frame), 1)[0] == pytest.approx(0.8, abs=0.1)
    model = TabularClassifier(n_threads=1, n_repeats=1).fit(frame, y > 0, np.where(first, 9.0, 1.0), time_limit=4)
    assert model.predict_proba(frame[frame["x"] > 1])[:, 1].mean() == pytest.approx(0.9, abs=0.04)  # calibrated to the weights


def test_a_row_of_weight_zero_is_not_there():
    frame, y, first = two_regimes(600)
    some = TabularRegressor(effort="fast", n_threads=1).fit(frame[first], y[first])
    weighted = TabularRegressor(effort="fast", n_threads=1).fit(frame, y, 3.0 * first)
    np.testing.assert_array_equal(weighted.predict(frame), some.predict(frame))
    np.testing.assert_array_equal(np.isnan(weighted.oof_), ~first)
    assert not weighted.stopped_by_time_


@pytest.mark.parametrize(
    "weight, message", [([1.0, 2.0], "expected"), ([0.0] * 60, "zero"), ([-1.0] * 60, "row 0"), ([np.nan] * 60, "NaN")]
)
def test_weights_that_are_none(weight, message):
    frame, y, _ = two_regimes(60)
    with pytest.raises(ValueError, match=message):
        TabularRegressor(effort="fast").fit(frame, y, weight)


def test_thousands_of_levels():
    rng = np.random.default_rng(0)
    code, effect = rng.integers(0, 900, 4000), rng.normal(size=900)
    frame = pd.DataFrame({"item": [f"item {c}" for c in code], "x": rng.normal(size=4000)})
    y = effect[code] + frame["x"].to_numpy() + 0.5 * rng.normal(size=4000)
    model = TabularRegressor(n_threads=1, n_repeats=1).fit(frame[:3000], y[:3000], time_limit=4)
    error = np.mean((y[3000:] - model.predict(frame[3000:])) ** 2) / np.var(y[3000:])
    assert error < 0.4  # what is noise is 0.11, what 'x' leaves is 0.55
    assert sum(c["weight"] for c in model.candidates_ if c["recipe"].startswith(("means", "symmetric", "forest"))) > 0.8


def test_memory_that_ends_while_trees_grow_once_more(monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(recipe_search, "grow_whole", fails)
    frame, y = bigger(300, 3)
    model = TabularRegressor(n_threads=1, n_repeats=1, n_recipes=3, rounds=30).fit(frame, y)
    assert np.isfinite(model.predict(frame)).all()
    assert any(c["recipe"].endswith("on all rows") and "MemoryError" in c["error"] for c in model.candidates_)


def test_contributions_add_up(stored):
    model, frame = stored[0], loans()[0][:200]
    parts = model.contributions(frame)
    p = model.predict_proba(frame)[:, 1]
    np.testing.assert_allclose(parts.sum(axis=1), np.log(p / (1 - p)), atol=1e-8)
    assert parts.attrs["additivity_error"] < 1e-8


def test_train_table_on_every_task_and_strategy():
    frame, _ = loans()
    full = load_dataset("german-credit").frame
    for target, options in (("credit_risk", {}), ("property", {}), ("credit_amount_dm", {}), ("credit_risk", {"time": "duration_months"})):
        schema = infer_schema(full)
        problem, _ = define_problem(full, schema, target=target, **options)
        y, kept = encode_target(full, problem, schema)
        split = split_rows(full, problem, y)
        trained = train_table(full, y, problem, schema, split, time_limit=1)
        for made in trained.predictions.values():
            assert len(made["oof"]) == len(split.train) and len(made["test"]) == len(split.test)
            assert np.isfinite(made["test"]).all()
        assert trained.summary and kept.all() and frame is not None


def test_days_between_two_dates(tmp_path):
    rng = np.random.default_rng(1)
    ordered = pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 700, 1500), "D")
    days = rng.integers(0, 21, 1500)
    frame = pd.DataFrame({"ordered": ordered, "sent": ordered + pd.to_timedelta(days, "D")})
    model = TabularClassifier(effort="fast", n_threads=1).fit(frame[:1000], days[:1000] > 10)
    assert (model.predict(frame[1000:]) == (days[1000:] > 10)).mean() > 0.98
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict_proba(frame), model.predict_proba(frame))
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    assert '"since": ["ordered"]' in json.dumps(about)


def test_a_hopeless_recipe_is_left_after_two_folds():
    frame, y = bigger(600, 4)
    table, folds = Encoded(frame.to_numpy(), y, "regression"), fold_pairs(np.arange(600) % 5)
    good = cross_fit(Candidate("good", "trees", {"num_leaves": 15}), table, folds, max_rounds=80)
    race = _race([good], table, None)
    hopeless = cross_fit(Candidate("hopeless", "trees", {"num_leaves": 2, "learning_rate": 0.001}), table, folds, max_rounds=5, go_on=race)
    assert len(hopeless.members) == 2 and not hopeless.complete
    other = cross_fit(Candidate("other", "trees", {"num_leaves": 15, "extra_trees": True}), table, folds, max_rounds=80, go_on=race)
    assert other.complete
    assert _short([good], [{}], [good.candidate] * 100, time.perf_counter() + good.seconds)
    assert not _short([good], [{}], [good.candidate] * 2, time.perf_counter() + 100 * good.seconds)


@pytest.mark.parametrize("members_that_fit", [0, 1, 2, 3, 9])
def test_as_many_members_are_grown_on_all_rows_as_there_is_time_for(members_that_fit):
    frame, y = bigger(300, 4)
    table = Encoded(frame.to_numpy(), y, "regression")
    bag = cross_fit(Candidate("trees", "trees", {"num_leaves": 7}), table, fold_pairs(np.arange(300) % 5), max_rounds=9)
    bag.seconds = 1000.0  # so that one more member takes 300
    maker = _Maker(table, time.perf_counter() + 300 * members_that_fit + 100, None, 1, 0, None, lambda text: None)
    assert _regrow(maker, [bag], [], None) == (members_that_fit < 3)
    assert len(bag.whole) == min(members_that_fit, 3)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_stacked_weights(task, tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 4)), columns=list("abcd"))
    score = X["a"] + 0.5 * X["b"] ** 2
    y = score if task == "regression" else pd.cut(score, 2 if task == "binary" else 3, labels=False)
    kind = TabularRegressor if task == "regression" else TabularClassifier
    model = kind(blend="stacked", n_recipes=3, rounds=30, n_repeats=1).fit(X, y)
    weights = [c["weight"] for c in model.candidates_ if c["weight"] > 0]
    assert abs(sum(weights) - 1) < 1e-3 and min(weights) >= 0.02
    model.save(tmp_path)
    assert load_model(tmp_path).blend == "stacked"
    with pytest.raises(ValueError, match="greedy, stacked"):
        kind(blend="voted").fit(X, y)


def test_groups_and_limits_that_make_no_sense():
    frame, y = pd.DataFrame({"a": np.arange(40.0)}), np.arange(40) % 2
    fast = TabularClassifier(effort="fast")
    with pytest.raises(ValueError, match="all rows are of one group"):
        clone(fast).fit(frame, y, groups=["a"] * 40)
    clone(fast).fit(frame, y, groups=[None, "a", "b", "c"] * 10)  # a row without a group stands alone
    for limit in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="must be more than 0 seconds"):
            clone(fast).fit(frame, y, time_limit=limit)


def test_a_time_limit_knows_of_texts():
    words = pd.Series([f"w{i}" for i in range(500)])
    texts = [" ".join(words.sample(25, random_state=i)) for i in range(200)]
    schema = infer_schema(pd.DataFrame({"a": np.arange(200.0), "note": texts}), kinds={"note": "text"})
    plain = infer_schema(pd.DataFrame({"a": np.arange(200.0), "b": np.arange(200.0)}))
    assert affordable_texts(schema, None) == affordable_texts(schema, 60) == 30_000
    assert 1000 <= affordable_texts(schema, 1) < affordable_texts(schema, 3) < 30_000
    assert len(affordable_rows(10**5, schema, 2)) < 0.5 * len(affordable_rows(10**5, plain, 2)) == 0.5 * 10**5
