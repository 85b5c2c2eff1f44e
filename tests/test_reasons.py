"""Reasons for a whole model: rules that stand for it, how stable its reasons are, and what the verb `explain` makes of both."""

import json
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from aimt.core.errors import DataError, ProblemError
from aimt.core.problem import Problem
from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.explain.counterfactuals import _Nearness, counterfactuals, offers
from aimt.explain.permutation_importance import permutation_importance
from aimt.explain.rule_conditions import rule_of
from aimt.explain.rule_tree import find_axes, grow_tree, round_cuts
from aimt.explain.shap_values import explain_rows, plot_row
from aimt.explain.selection_stability import column_association, draw_rows, bootstrap_importance, quick_model, selection_stability
from aimt.explain.stability import reason_stability, stability_sentences
from aimt.explain.surrogate_rules import explained_share, rule_lines, rule_set
from aimt.jobs.verbs.explain import explain, reason_lines
from aimt.jobs.shared.table_model import open_model
from aimt.jobs.verbs.train import train
from aimt.models.trees.boosting import member_contributions
from aimt.models.trees.extra_trees import fit_forest

pytestmark = pytest.mark.usefixtures("no_drawing")


def two(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


@pytest.fixture(scope="module")
def mixed():
    """Rows with a number, a date, categories (one with rare levels), a flag and missing values."""
    rng = np.random.default_rng(0)
    n = 900
    town = np.where(rng.random(n) < 0.01, [f"village {i}" for i in range(n)], rng.choice(list("pqrst"), n)).astype(object)
    town[rng.random(n) < 0.1] = None
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, n).astype(float),
            "day": pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 700, n), "D"),
            "town": pd.array(town, dtype="str"),
            "flag": rng.integers(0, 2, n).astype(float),
            "income": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(10, 0.5, n)),
        }
    )


@pytest.fixture(scope="module")
def loans():
    return load_dataset("german-credit").frame


@pytest.fixture(scope="module")
def run(loans, tmp_path_factory):
    return train(loans.head(600), target="credit_risk", out=tmp_path_factory.mktemp("reasons") / "run", time_limit=1, quiet=True)


# --- rules --------------------------------------------------------------------------------------------------------------


def test_a_model_of_rules_comes_back_word_for_word(mixed):
    def model(f):
        old, late = f["age"] > 52, f["day"] >= pd.Timestamp("2024-05-01")
        return two(np.select([old & f["income"].isna(), old, late], [0.9, 0.7, 0.4], 0.1))

    found = rule_set(model, mixed, Problem("binary", "y", list(mixed), "roc_auc", labels=["no", "yes"]))
    assert [r["text"].split(" (")[0] for r in found["rules"]] == [
        "If 'age' > 52 and 'income' is missing: 'yes' 90 %",
        "If 'age' > 52 and 'income' is known: 'yes' 70 %",
        "If 'age' <= 52 and 'day' is from 2024-05-01: 'yes' 40 %",
        "If 'age' <= 52 and 'day' is before 2024-05-01: 'yes' 10 %",
    ]
    assert found["fidelity"]["value"] == pytest.approx(1) and found["equal"]["value"] == 1
    assert found["stability"]["first"] == [{"column": "age", "share": 1.0}]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_falls_under_one_rule_and_the_plain_data_says_which(mixed, seed):
    rng, columns = np.random.default_rng(seed), list(mixed)
    effect = {v: rng.normal() for v in ("p", "q", "r", "s", "t", None)}

    weights = rng.normal(size=5)

    def model(f):
        town = np.array([effect.get(None if pd.isna(v) else v, 2.0) for v in f["town"]])
        return weights @ np.array([f["age"] / 30, town, f["flag"], f["income"].fillna(0) / 3e4, f["day"].dt.month / 6])

    found = rule_set(model, mixed, Problem("regression", "y", columns, "rmse"), min_fidelity=-1)
    rules = json.loads(json.dumps(found, allow_nan=False))["rules"]  # what is written to disk is enough
    number = rule_of(rules, mixed)
    assert (number >= 0).all() and 2 <= len(rules) <= 8
    assert np.bincount(number, minlength=len(rules)).tolist() == [r["rows"] for r in rules]
    answers = model(mixed)
    for i, rule in enumerate(rules):
        assert np.array_equal(rule_of([rule], mixed) == 0, number == i)  # no row meets two of them
        here = answers[number == i]
        assert abs(rule["value"] - here.mean()) < 4 * here.std() / np.sqrt(len(here)) + 1e-9 and rule["low"] <= here.mean() <= rule["high"]
    new = mixed.assign(town="a town nobody knows", age=np.nan)
    assert (rule_of(rules, new) >= 0).all()


def test_thresholds_are_round_where_that_costs_nothing():
    rng = np.random.default_rng(1)
    X = pd.DataFrame({"euros": rng.lognormal(8, 1, 2000)})
    cut = np.sort(X["euros"])[1000] + 1e-9
    found = rule_set(lambda f: 1.0 * (f["euros"] > cut).to_numpy(), X, Problem("regression", "y", ["euros"], "rmse"))
    said = found["rules"][1]["conditions"][0]["high"]
    assert len(found["rules"]) == 2 and said == round(said, -1) and abs(said / cut - 1) < 0.01 and found["fidelity"]["value"] > 0.98
    low = X["euros"].to_numpy()
    for a, b in np.sort(rng.choice(low, (100, 2)), axis=1):
        if a < b:
            assert a <= round_cuts(a, b, np.ptp(low))[-1] < b


def test_what_a_few_rules_cannot_tell_is_not_told():
    rng = np.random.default_rng(2)
    X = pd.DataFrame(rng.normal(size=(1200, 6)), columns=list("abcdef"))
    asked = Problem("binary", "y", list(X), "roc_auc", labels=["no", "yes"])
    model = lambda f: two(1 / (1 + np.exp(-f.sum(axis=1).to_numpy())))
    found = rule_set(model, X, asked)
    assert not found["told"] and found["rules"] == [] and 0.1 < found["fidelity"]["value"] < 0.6
    assert rule_lines(found) == found["messages"] and "they are not shown" in found["messages"][0]
    shares = [rule_set(model, X, asked, max_rules=k, min_fidelity=0, n_samples=0)["fidelity"]["value"] for k in (2, 8, 32)]
    assert shares[0] < shares[1] < shares[2]


def test_fidelity_is_measured_on_rows_held_out():
    """No rule can memorise a model that answers at random."""
    X = pd.DataFrame({"x": np.random.default_rng(3).normal(size=600)})
    noise = np.random.default_rng(4).normal(size=600)
    asked = Problem("regression", "y", ["x"], "rmse")
    found = rule_set(lambda f: noise[: len(f)], X, asked, max_rules=32)
    assert found["fidelity"]["value"] < 0.1 and not found["told"]
    held = np.arange(600) < 200
    told = rule_set(lambda f: np.sign(f["x"].to_numpy()), X, asked, held_out=held)
    assert (told["rows"], told["checked"]) == (400, 200) and told["fidelity"]["value"] > 0.95


def test_rules_of_several_classes_and_the_price_in_the_truth(mixed):
    kinds = np.where(mixed["age"] > 60, 2, np.where(mixed["flag"] == 1, 1, 0))
    model = lambda f: np.eye(3)[np.where(f["age"] > 60, 2, np.where(f["flag"] == 1, 1, 0))] * 0.7 + 0.1
    asked = Problem("multiclass", "kind", list(mixed), "log_loss", labels=["a", "b", "c"])
    y = np.where(np.arange(900) % 7 == 0, -1, kinds)  # some answers are not known
    found = rule_set(model, mixed, asked, y)
    assert [(r["label"], r["value"]) for r in found["rules"]] == [
        ("a", pytest.approx(0.8)),
        ("b", pytest.approx(0.8)),
        ("c", pytest.approx(0.8)),
    ]
    assert [r["actual"] for r in found["rules"]] == [1, 1, 1] and found["truth"]["price"]["value"] == pytest.approx(0, abs=1e-9)
    assert sum(r["actual_rows"] for r in found["rules"]) < found["checked"]
    wrong = rule_set(lambda f: np.roll(model(f), 1, axis=1), mixed, asked, y)["truth"]
    assert wrong["model"]["value"] > found["truth"]["model"]["value"] and wrong["constant"] > found["truth"]["model"]["value"]


def test_columns_that_cannot_be_cut_are_left_alone():
    n = 200
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(n)], "none": np.nan, "one": 1.0, "x": np.arange(n) % 5 * 1.0, "inf": np.inf})
    assert [a.name for a in find_axes(frame, list(frame), np.arange(n)[:, None] * 1.0)] == ["x"]
    places = find_axes(frame, ["x"], np.ones((n, 1)))[0].places(frame["x"])
    tree, asking = grow_tree(places[:, None], (places[:, None] > 2) * 1.0, 8)
    assert len(asking) == 1 and tree.tree_.threshold[0] == 2.5


def test_explained_share_knows_its_ends():
    rng = np.random.default_rng(5)
    y, other = rng.normal(size=(2, 300, 2))
    assert explained_share(y, y) == 1 and explained_share(y, np.tile(y.mean(0), (300, 1))) == pytest.approx(0)
    assert explained_share(y, other) < 0 and np.isnan(explained_share(np.ones(9), np.ones(9)))
    assert explained_share(y + 1e6, y + 1e6 + 0.1) == pytest.approx(explained_share(y, y + 0.1), abs=1e-6)


# --- stability ------------------------------------------------------------------------------------------------------------


class Linear:
    """Least squares, with the shares of its columns."""

    def __init__(self, frame, y, rows):
        X = np.column_stack([frame.iloc[rows], np.ones(len(rows))])
        self.w = np.linalg.solve(X.T @ X + 0.01 * np.eye(X.shape[1]), X.T @ y[rows])

    def predict_raw(self, frame):
        return frame.to_numpy() @ self.w[:-1] + self.w[-1]

    def contributions(self, frame, class_code=None):
        return pd.DataFrame(np.column_stack([frame * self.w[:-1], np.full(len(frame), self.w[-1])]), columns=[*frame, "base"])


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(500, 7)), columns=["strong", "middle", "even_1", "even_2", "twin", "noise_1", "noise_2"])
    X["copy"] = X["twin"] + 0.1 * rng.normal(size=500)
    y = (3 * X["strong"] + 2 * X["middle"] + X["twin"] + 0.7 * X["even_1"] + 0.7 * X["even_2"] + rng.normal(size=500)).to_numpy()
    return X[:250], y[:250], X[250:].reset_index(drop=True), y[250:], Problem("regression", "y", list(X), "rmse")


def stability(planted, **options):
    train, y, test, y_test, asked = planted
    fit = lambda rows, seed, seconds: Linear(train, y, rows)
    return reason_stability(Linear(train, y, np.arange(250)), train, y, test, y_test, asked, **{"fit": fit, "n_models": 15} | options)


def test_planted_columns_get_their_names(planted):
    found = stability(planted)
    columns = {c["column"]: c for c in found["columns"]}
    assert all(columns[c]["stable"] for c in ("strong", "middle", "even_1", "even_2"))
    assert not columns["noise_1"]["stable"] and not columns["noise_2"]["stable"]
    assert [(columns[c]["place_low"], columns[c]["place_high"]) for c in ("strong", "middle")] == [(1, 1), (2, 2)]
    assert any({"even_1", "even_2"} <= set(p["columns"]) for p in found["places"])
    assert [set(p["columns"]) for p in found["exchangeable"]] == [{"twin", "copy"}]
    pair = found["exchangeable"][0]
    assert pair["association"] > 0.9 and pair["swap"] < 0 and pair["together"] > 0
    assert found["likeness"] > 0.6 and 0 < found["training_share"] < 1
    for c in found["columns"]:
        assert c["low"] <= c["value"] + 1e-9 and c["trained_low"] <= c["trained"] <= c["trained_high"] and 0 <= c["top_share"] <= 1
    text = " ".join(found["messages"])
    assert "'noise_1'" in text and "exchangeable" in text and "share places" in text
    json.dumps(found, allow_nan=False)


def test_same_seed_same_answer(planted):
    small = {"n_resamples": 20, "n_models": 6}
    one, two = (stability(planted, **small) for _ in range(2))
    assert one | {"seconds": 0} == two | {"seconds": 0}
    assert stability(planted, **small, seed=1)["columns"] != one["columns"]


def test_more_test_rows_help_against_one_source_only(planted):
    few, many = (stability(planted, max_rows=n) for n in (40, 250))
    width = lambda f, low, high: np.mean([c[high] - c[low] for c in f["columns"] if c["column"] in ("strong", "middle")])
    assert width(few, "low", "high") > 1.7 * width(many, "low", "high")
    assert few["training_share"] < many["training_share"]


def test_an_end_of_time_is_told(planted):
    none = stability(planted, time_limit=1e-6, n_resamples=10)
    assert (none["models"], none["complete"], none["agreement"], none["training_share"]) == (0, False, None, None)
    assert "there was no time" in " ".join(none["messages"]).lower() and "row_reasons" not in none
    only = stability(planted, fit=None, n_models=0, n_resamples=10)
    assert only["models"] == 0 and "No or too few new models" in only["messages"][0]

    class Cut(Linear):
        stopped_by_time_ = True

    cut = stability(planted, fit=lambda rows, seed, seconds: Cut(planted[0], planted[1], rows), n_resamples=10)
    assert cut["models"] == 0 and not cut["complete"]  # a model that was cut short is no witness


def test_signs_of_single_reasons(planted):
    rows = pd.DataFrame(0.0, index=[0, 1], columns=planted[0].columns)
    rows.loc[0, ["strong", "twin", "noise_2"]] = [1.0, 1.0, 3.0]
    rows.loc[1, "middle"] = -2.0
    first, second = stability(planted, rows=rows)["row_reasons"]
    by_name = {r["column"]: r for r in first["reasons"]}
    assert by_name["strong"]["same"] == 15 and by_name["strong"]["low"] > 0
    assert "less sure" in first["message"]
    for shaky in ("twin", "noise_2"):
        assert by_name[shaky]["same"] < 15 and by_name[shaky]["low"] < 0 < by_name[shaky]["high"] and f"'{shaky}' (" in first["message"]
    assert second["reasons"][0]["column"] == "middle" and second["reasons"][0]["high"] < 0 and second["reasons"][0]["value"] == -2


def test_unlike_models_are_no_witnesses(planted):
    train, y, test, y_test, asked = planted
    shuffled = np.random.default_rng(0).permutation(y)
    other = lambda rows, seed, seconds: Linear(train, shuffled, rows)
    found = stability(planted, fit=other, n_resamples=10)
    assert found["likeness"] < 0.5 and any(m.startswith("Caution") for m in found["messages"])


def test_selection_stability_is_kuncheva_for_sets_of_one_size():
    rng = np.random.default_rng(6)
    sets = np.array([rng.permutation(10) < 3 for _ in range(25)])
    pairs = [((sets[i] & sets[j]).sum() - 0.9) / (3 - 0.9) for i in range(25) for j in range(i)]
    found = selection_stability(sets)
    assert found["value"] == pytest.approx(np.mean(pairs)) and found["low"] < found["value"] < found["high"]
    uneven = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], bool)  # 1 - mean(1.5 p (1 - p)) / (1/2 * 1/2), by hand
    assert selection_stability(uneven)["value"] == pytest.approx(1 - np.mean([0, 1.5 * 2 / 9, 1.5 * 2 / 9, 0]) / 0.25)


def test_importance_on_drawn_rows_is_importance_on_repeated_rows(planted):
    _, _, test, y, asked = planted
    model, rng = Linear(*planted[:2], np.arange(250)), np.random.default_rng(7)
    orders, weights = rng.permutation(250)[None], rng.integers(0, 3, (2, 250)).astype(float)
    found = bootstrap_importance(model.predict_raw, test, y, asked, ["strong", ("twin", "copy")], orders, weights)
    shuffled = test.assign(strong=test["strong"].to_numpy()[orders[0]])
    rmse = lambda frame, w: np.sqrt(np.average((model.predict_raw(frame) - y) ** 2, weights=w))
    for b, w in enumerate([np.ones(250), *weights]):
        assert found[b, 0] == pytest.approx(rmse(shuffled, w) - rmse(test, w))
    assert found[0, 1] > 0


def test_people_are_drawn_whole_and_copies_of_a_row_are_tuned_together():
    who = np.repeat(np.arange(40), 3)
    y = np.tile([0, 1, 1], 40)
    rows = draw_rows(y, classification=True, who=who, seed=1)
    counts = np.bincount(rows, minlength=120).reshape(40, 3)
    assert (counts == counts[:, :1]).all() and counts.max() > 1
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=120)})
    y = np.random.default_rng(1).integers(0, 2, 120)
    model = quick_model(frame, y, draw_rows(y, classification=True, seed=0), Problem("binary", "y", ["x"], "roc_auc", labels=["a", "b"]))
    drawn = draw_rows(y, classification=True, seed=0)
    right = (model.oof_[:, 1] - 0.5) * (2 * y[drawn] - 1)  # pure noise: copies in other folds would be memorised
    assert np.mean(right > 0) < 0.62


def test_association_of_copies_and_of_strangers():
    rng = np.random.default_rng(8)
    c = rng.choice(list("abc"), 600)
    frame = pd.DataFrame(
        {"c": c, "copy": np.char.upper(c.astype(str)), "x": rng.normal(size=600), "part": c == "a", "d": rng.choice(list("uvw"), 600)}
    )
    frame["down"] = -(frame["x"] ** 3)
    found = column_association(frame, list(frame))
    assert found[0, 1] == pytest.approx(1, abs=0.01) and found[2, 5] == pytest.approx(1)
    assert found[0, 4] < 0.2 and found[0, 2] == 0 and 0.5 < found[0, 3] < 0.9 and np.allclose(found, found.T)


def test_one_column_and_several_classes():
    rng = np.random.default_rng(9)
    X = pd.DataFrame({"x": rng.normal(size=240)})
    y = np.digitize(X["x"] + 0.3 * rng.normal(size=240), [-0.5, 0.5])
    asked = Problem("multiclass", "y", ["x"], "log_loss", labels=["a", "b", "c"])
    model = quick_model(X, y, np.arange(160), asked)
    found = reason_stability(model, X[:160], y[:160], X[160:], y[160:], asked, n_models=5, n_resamples=10, rows=X[160:162])
    assert found["agreement"] is None and found["models"] == 5 and found["columns"][0]["stable"]
    assert 0 <= found["row_reasons"][0]["same_answer"] <= 5 and found["row_reasons"][0]["prediction"] in "abc"
    assert not any("No or too few" in m for m in stability_sentences(found))


# --- the verb ---------------------------------------------------------------------------------------------------------------


def test_explain_tells_rules_of_a_run(run, loans):
    [own] = run.explain(loans.head(600), surrogate_rules=4)
    assert own["own_table"] and own["checked"] == int((pd.read_parquet(run.file("splits.parquet"))["part"] == "test").sum())
    lines = reason_lines([own])
    assert lines[0] == "Rules are made from the run's training rows and checked on its test rows." and own["n_rules"] <= 4
    if own["told"]:
        assert sum("If '" in line and "'bad' " in line for line in lines) == own["n_rules"]
    assert own["truth"]["metric"] == "roc_auc"
    [new] = run.explain(loans.tail(400).drop(columns="credit_risk"), surrogate_rules=True)
    assert not new["own_table"] and new["truth"] is None and new["n_rules"] <= 8 and "a part of this table" in reason_lines([new])[0]


def test_explain_tells_how_stable_the_reasons_of_a_run_are(run, loans):
    [found] = run.explain(loans.tail(400), stability=True, rows="2,5", time_limit=4)
    assert not found["own_table"] and found["models_wanted"] == 20 and "checking_account" in [c["column"] for c in found["columns"][:4]]
    assert [r["row"] for r in found.get("row_reasons", [])] == ([2, 5] if found["models"] else [])
    lines = reason_lines([found])
    assert any(line.startswith("  checking_account ") for line in lines) and lines[0].startswith("New models are trained on a part")


def test_questions_that_do_not_go_together(run, loans):
    for wrong in (
        {"surrogate_rules": True, "stability": True},
        {"columns": "age", "surrogate_rules": True},
        {"change": True, "stability": True},
    ):
        with pytest.raises(ProblemError, match="are two questions"):
            run.explain(loans.tail(300), **wrong)
    with pytest.raises(ProblemError, match="--time-limit is for --stability"):
        run.explain(loans.tail(300), surrogate_rules=True, time_limit=3)
    with pytest.raises(ProblemError, match="1 rules say nothing"):
        run.explain(loans.tail(300), surrogate_rules=1)
    with pytest.raises(ProblemError, match="--desired says what a change may be"):
        run.explain(loans.tail(300), surrogate_rules=True, desired="good")
    with pytest.raises(DataError, match="has no column 'credit_risk'.*give rows whose answer is known"):
        run.explain(loans.tail(300).drop(columns="credit_risk"), stability=True)
    with pytest.raises(DataError, match="99 rows with a known 'credit_risk' are too few"):
        run.explain(loans.tail(99), stability=True)
    with pytest.raises(DataError, match="are too few.*at least 100 rows"):
        run.explain(loans.tail(50), surrogate_rules=True)
    with pytest.raises(ProblemError, match="there is no row 300"):
        run.explain(loans.tail(300), stability=True, rows="300")


def test_networks_are_refused_before_anything_is_read(tmp_path):
    network = Run.create(tmp_path / "run", settings={"job": "finetune"})
    network.finish()
    for question in ("surrogate_rules", "stability"):
        flag = question.replace("_", "-")
        with pytest.raises(ProblemError, match=f"--{flag} is not for runs of --kind finetune"):
            explain(network, "there is no such file.csv", **{question: True})


# ---- shares of single rows -----------------------------------------------------------------------------------------


def _expectation(node: dict, x: np.ndarray, known: tuple[int, ...]) -> float:
    if "leaf_value" in node:
        return node["leaf_value"]
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in known:
        goes_left = node["default_left"] if np.isnan(x[node["split_feature"]]) else x[node["split_feature"]] <= node["threshold"]
        return _expectation(left if goes_left else right, x, known)
    n = [child.get("internal_count", child.get("leaf_count")) for child in (left, right)]
    return (n[0] * _expectation(left, x, known) + n[1] * _expectation(right, x, known)) / sum(n)


def _shapley(trees: list[dict], x: np.ndarray) -> np.ndarray:
    """By the definition, over all subsets of the columns; the expectation of nothing known comes last."""
    d = len(x)
    v = {S: sum(_expectation(t, x, S) for t in trees) for k in range(d + 1) for S in combinations(range(d), k)}
    phi = np.r_[np.zeros(d), v[()]]
    for S in v:
        for j in set(range(d)) - set(S):
            phi[j] += factorial(len(S)) * factorial(d - len(S) - 1) / factorial(d) * (v[tuple(sorted((*S, j)))] - v[S])
    return phi


@pytest.mark.parametrize(
    ("task", "classes", "log"), [("regression", 1, False), ("regression", 1, True), ("binary", 2, False), ("multiclass", 3, False)]
)
def test_a_forest_has_exact_shapley_values(task, classes, log):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 4))
    X[rng.random((300, 4)) < 0.1] = np.nan
    score = np.nan_to_num(X[:, 0] * X[:, 1]) + np.nan_to_num(X[:, 2])
    y = (
        np.exp(score)
        if log
        else {"regression": score, "binary": (score > 0).astype(int), "multiclass": np.digitize(score, [-0.3, 0.3])}[task]
    )
    member = fit_forest(X, y, task=task, n_classes=classes, max_rounds=10, log_target=log)
    trees = [t["tree_structure"] for t in member.booster.dump_model()["tree_info"]]
    outputs = classes if task == "multiclass" else 1
    for i in range(4):
        found = np.atleast_2d(member_contributions(member, X[[i]])[0])
        for k in range(outputs):
            exact = _shapley(trees[k::outputs], X[i])
            assert found[k].sum() == pytest.approx(np.atleast_1d(member.margin(X[[i]])[0])[k], abs=1e-9)
            ratio = found[k][:-1][np.abs(exact[:-1]) > 1e-6] / exact[:-1][np.abs(exact[:-1]) > 1e-6]
            assert np.ptp(ratio) < 1e-6 * abs(ratio.mean()) and ratio.mean() > 0  # one factor a row, so that they add up to the margin
            if task == "regression" and not log:
                assert ratio.mean() == pytest.approx(1, abs=1e-9)


def test_the_base_value_is_not_called_average_or_base_rate(run):
    saved = open_model(run)
    frame = load_dataset("german-credit").frame.iloc[:20]
    example = explain_rows(saved.model, frame, None, saved.problem, rows=[3])[0]
    assert "not the base rate" in example["base_means"] and "mean margin" in example["base_means"]
    figure = plot_row(example)
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    said = [t.get_text() for t in figure.axes[0].texts]
    assert labels[0] == "base value" and said[0] == f"mean log-odds {example['base']:.2f}" and said[1].endswith("%")


# ---- importance ----------------------------------------------------------------------------------------------------


def test_importance_has_an_interval_of_rows_and_models():
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[pd.DataFrame, np.ndarray]:
        X = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
        return X, (rng.random(n) < 1 / (1 + np.exp(-(1.2 * X["a"] + 0.5 * X["b"])))).to_numpy().astype(int)

    def fit(X: pd.DataFrame, y: np.ndarray) -> list:
        fold = rng.permutation(len(X)) % 5
        return [LogisticRegression().fit(X[fold != k], y[fold != k]).predict_proba for k in range(5)]

    def mean(models: list):
        return lambda f: np.mean([m(f) for m in models], axis=0)

    problem = Problem("binary", "y", list("abc"), "roc_auc", ["no", "yes"])
    X_many, y_many = draw(6000)
    models = [fit(*draw(120)) for _ in range(25)]
    many = [permutation_importance(mean(m), X_many, y_many, problem, repeats=1, max_rows=6000) for m in models]
    truth = pd.DataFrame([{c["column"]: c["value"] for c in r["columns"]} for r in many]).mean()
    covered = {"all": [], "rows": []}
    for m in models:
        test = draw(1500)
        for name, members in (("all", m), ("rows", ())):
            found = permutation_importance(mean(m), *test, problem, members=members)
            assert found["models"] == len(members)
            covered[name] += [c["low"] <= truth[c["column"]] <= c["high"] for c in found["columns"]]
    assert np.mean(covered["all"]) >= 0.9 > np.mean(covered["rows"])


def test_importance_of_rows_that_hang_together_is_less_sure():
    rng = np.random.default_rng(1)
    each = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)})
    y = (rng.random(60) < 1 / (1 + np.exp(-1.5 * each["a"]))).to_numpy().astype(int)
    frame, y, who = each.loc[each.index.repeat(20)].reset_index(drop=True), np.repeat(y, 20), np.repeat(np.arange(60), 20)
    problem = Problem("binary", "y", ["a", "b"], "roc_auc", ["no", "yes"])
    p = lambda f: (lambda q: np.column_stack([1 - q, q]))(1 / (1 + np.exp(-f["a"].to_numpy())))
    wide, narrow = (permutation_importance(p, frame, y, problem, clusters=c)["columns"][0] for c in (who, None))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])
    few = permutation_importance(p, frame.iloc[:30], y[:30], problem)["columns"][0]
    assert few["low"] is None and few["value"] is not None


# ---- counterfactuals -----------------------------------------------------------------------------------------------


def workers(n: int, seed: int, columns: int = 8) -> pd.DataFrame:
    """Nobody has worked since before the age of 16, and no end is before its start."""
    rng = np.random.default_rng(seed)
    age, start = rng.integers(17, 66, n), rng.integers(1990, 2020, n)
    frame = pd.DataFrame(
        {
            "age": age,
            "years": np.floor((age - 16) * rng.beta(4, 1.2, n)).astype(int),
            "start": start,
            "end": start + rng.integers(0, 8, n),
            "home": rng.choice(["rented", "own"], n),
        }
    )
    return frame.assign(**{f"x{k}": rng.normal(size=n).round(2) for k in range(columns)})


def by(column: str, above: float):
    def predict(frame: pd.DataFrame) -> np.ndarray:
        p = 1 / (1 + np.exp(2.0 * (frame[column].to_numpy(float) - above)))
        return np.column_stack([1 - p, p])

    return predict


@pytest.mark.parametrize("columns", [0, 8, 25])
def test_twenty_years_old_with_thirty_six_years_of_work_is_not_plausible(columns):
    staff = workers(600, 0, columns)
    row = staff[(staff["age"] == 20)].iloc[[0]]
    problem = Problem("binary", "refused", list(staff), "roc_auc", ["granted", "refused"], sensitive_features=["age"])
    ways = counterfactuals(by("years", 36), staff, row, problem)
    assert ways and ways[0]["changes"][0]["column"] == "years" and not any(w["plausible"] for w in ways)
    assert {c["column"] for c in ways[0]["strange"]} == {"years", "age"} and "together with 'age' 20" in ways[0]["message"]
    old = staff[(staff["age"] > 60) & (staff["years"] < 35)].iloc[[0]]
    assert counterfactuals(by("years", 36), staff, old, problem)[0]["plausible"]


def test_an_order_of_two_columns_is_learned_and_kept():
    staff = workers(800, 1)
    row = staff[(staff["start"] == 2010) & (staff["end"] == 2012)].iloc[[0]]
    problem = Problem("binary", "refused", list(staff), "roc_auc", ["granted", "refused"])
    earlier = counterfactuals(lambda f: by("end", 2009)(f)[:, ::-1], staff, row, problem, immutable=["start"])
    assert earlier and not earlier[0]["plausible"] and {c["column"] for c in earlier[0]["strange"]} == {"start", "end"}


def test_a_row_is_not_its_own_neighbour():
    """Far from everybody else: with one change it is still near to itself, and to no other."""
    staff = workers(300, 2)
    alone = staff.iloc[[0]].assign(age=17, years=0, start=1990, end=1990, home="own", **{f"x{k}": 9.0 for k in range(8)})
    known = pd.concat([staff, alone, alone], ignore_index=True)
    problem = Problem("binary", "refused", list(staff), "roc_auc", ["granted", "refused"])
    ways = counterfactuals(by("years", 0.5), known, alone, problem, immutable=[c for c in staff if c != "years"])
    assert ways and not ways[0]["plausible"]


def test_real_people_are_mostly_plausible():
    staff, others = workers(600, 3), workers(120, 4)
    offered = offers(staff, list(staff))
    said = []
    for i in range(120):
        row = others.iloc[[i]]
        near = _Nearness(staff, offered, row)
        said.append(near.near(row) and near.strange_pair(row, ["years", "home"]) is None)
    assert np.mean(said) > 0.75
