"""Wrong labels: planted ones are found without knowing the rate, clean ones are left alone, bad input gets one line."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from aimt.core.errors import DataError
from aimt.evaluate.table.label_errors import f1_cut, find_label_errors
from aimt.jobs.verbs.train import train

pytestmark = pytest.mark.usefixtures("no_drawing")

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def move(true: np.ndarray, rate: float, seed: int) -> np.ndarray:
    rng, y, classes = np.random.default_rng(seed), true.copy(), true.max() + 1
    rows = rng.choice(len(y), round(rate * len(y)), replace=False)
    y[rows] = (true[rows] + rng.integers(1, classes, len(rows))) % classes
    return y


def f1(found, wrong: np.ndarray) -> float:
    return 2 * wrong[found.table["row"]].sum() / (len(found.table) + wrong.sum())


def digits(rate: float, seed: int):
    X, true = load_digits(return_X_y=True)
    y = move(true, rate, seed)
    probs = cross_val_predict(LogisticRegression(max_iter=1000), X / 16, y, cv=FOLDS, method="predict_proba")
    return y, probs, y != true


@pytest.fixture(scope="module")
def planted():
    return {seed: digits(0.05, seed) for seed in range(5)}


def test_the_bar_on_digits(planted):
    found = {seed: find_label_errors(y, p) for seed, (y, p, _) in planted.items()}
    assert np.mean([f1(found[s], planted[s][2]) for s in planted]) >= 0.93
    assert np.mean([average_precision_score(planted[s][2], found[s].probability) for s in planted]) >= 0.98
    for one in found.values():
        assert abs(one.noise_rate["value"] - 0.05) < 0.01 and one.refuted
        assert one.noise_rate["low"] <= one.noise_rate["value"] <= one.noise_rate["high"]


def test_clean_labels_are_left_alone():
    X, true = load_digits(return_X_y=True)
    probs = cross_val_predict(LogisticRegression(max_iter=1000), X / 16, true, cv=FOLDS, method="predict_proba")
    found = find_label_errors(true, probs)
    assert len(found.table) <= 9 and found.noise_rate["low"] < 0.005  # half a per cent of the rows
    X, true = load_wine(return_X_y=True)
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    assert len(find_label_errors(true, cross_val_predict(linear, X, true, cv=FOLDS, method="predict_proba")).table) <= 1


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_calibrated_probabilities_of_clean_labels_raise_no_alarm(classes):
    rng = np.random.default_rng(classes)
    probs = softmax(2 * rng.normal(size=(2500, classes)), axis=1)
    y = (probs.cumsum(axis=1) > rng.random((2500, 1))).argmax(axis=1)
    found = find_label_errors(y, probs)
    assert len(found.table) <= 5 and not found.refuted


def test_more_noise_is_more_noise_and_held():
    for rate in (0.02, 0.2):
        y, probs, wrong = digits(rate, 20)
        found = find_label_errors(y, probs)
        assert f1(found, wrong) > 0.85
        assert abs(found.noise_rate["value"] - rate) < 0.2 * rate + 0.005


def test_probabilities_that_are_too_sure_or_too_timid_give_the_same_rows(planted):
    y, probs, _ = planted[0]
    rows = [set(find_label_errors(y, softmax(a * np.log(probs), axis=1)).table["row"]) for a in (0.5, 1, 2)]
    for other in rows[::2]:
        assert len(rows[1] & other) > 0.9 * len(rows[1] | other)


def test_an_overconfident_kernel_machine(planted):
    X, true = load_digits(return_X_y=True)
    y = planted[1][0]
    scores = cross_val_predict(SVC(C=10, gamma=0.06), X / 16, y, cv=FOLDS, method="decision_function")
    assert f1(find_label_errors(y, softmax(2 * scores, axis=1)), y != true) > 0.87


def test_errors_with_a_direction_show_in_the_matrix():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 4000)
    y = np.where((true == 2) & (rng.random(4000) < 0.3), 3, true)
    found = find_label_errors(y, softmax(6 * np.eye(4)[true] + rng.normal(size=(4000, 4)), axis=1))
    assert found.noise_matrix[2, 3] > 0.2
    assert np.delete(found.noise_matrix[2], [2, 3]).max() < 0.03 and found.noise_matrix[0, 0] > 0.95
    assert set(found.table["given"]) == {3} and set(found.table["suggested"]) == {2}


def test_rows_without_prediction_names_and_a_sample(planted):
    y, probs, wrong = planted[2]
    probs = probs.copy()
    probs[::10] = np.nan
    found = find_label_errors(y, probs, labels=[f"digit {k}" for k in range(10)], max_fit=800)
    assert np.isnan(found.probability[::10]).all() and not (found.table["row"] % 10 == 0).any()
    assert found.table["given"].str.startswith("digit ").all()
    seen = np.arange(len(y)) % 10 > 0
    assert 2 * wrong[found.table["row"]].sum() / (len(found.table) + wrong[seen].sum()) > 0.85
    again = find_label_errors(y, probs, max_fit=800)
    assert found.probability[seen].tolist() == again.probability[seen].tolist()
    assert len(found.to_dict(rows=5)["rows"]) == 5


def test_the_cut_is_the_best_of_all_cuts():
    w = np.random.default_rng(0).beta(0.3, 2, 500)
    cut, expected = f1_cut(w, floor=0)
    every = [2 * w[w >= c].sum() / ((w >= c).sum() + w.sum()) for c in w]
    assert expected == pytest.approx(max(every)) and cut == pytest.approx(max(every) / 2)
    assert 2 * w[w > cut].sum() / ((w > cut).sum() + w.sum()) == pytest.approx(expected)
    assert f1_cut(np.zeros(4)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("y", "probs", "says"),
    [
        ([0, 1, 2], np.full((3, 2), 0.5), "codes from 0 to 1"),
        ([0, -1], np.full((2, 2), 0.5), "codes from 0 to 1"),
        (["a", "b"], np.full((2, 2), 0.5), "codes from 0 to 1"),
        ([0, 1], np.full((3, 2), 0.5), "2 labels"),
        ([0, 1], np.full((2, 1), 1.0), "2 labels"),
        ([0, 1], np.array([[2.0, -1.0], [0.5, 0.5]]), "negative"),
        ([0, 1], np.array([[0.2, 0.2], [0.5, 0.5]]), "sum to 1"),
        ([0, 1], np.full((2, 2), np.nan), "no row has a prediction"),
    ],
)
def test_what_cannot_be_judged_is_said(y, probs, says):
    with pytest.raises(DataError, match=says):
        find_label_errors(np.array(y), probs)


def test_small_and_one_sided_tables_do_not_break():
    assert len(find_label_errors(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])).table) == 0
    one = find_label_errors(np.zeros(40, int), np.tile([0.8, 0.2], (40, 1)))
    assert len(one.table) == 0 and np.isfinite(one.probability).all()
    sure = find_label_errors(np.r_[np.zeros(50, int), np.ones(50, int)], np.repeat(np.eye(2), 50, axis=0))
    assert len(sure.table) == 0


def test_a_run_names_the_rows(tmp_path):
    """Two clear groups, forty labels moved: the run names the rows of the source, and the report shows them."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 800)
    table = pd.DataFrame({"a": truth * 4 + rng.normal(size=800), "b": rng.normal(size=800), "y": np.array(["no", "yes"])[truth]})
    moved = rng.choice(800, 40, replace=False)
    table.loc[moved, "y"] = np.array(["yes", "no"])[truth[moved]]
    run = train(table, target="y", time_limit=4, quiet=True, out=tmp_path / "run")
    found = run.read("metrics.json")["label_errors"]
    named = [row["row"] for row in found["rows"]]
    assert len(named) == 20 and len(set(named) & set(moved)) >= 16 and "may be chance as well as error" in found["message"]
    first = found["rows"][0]
    assert table["y"][first["row"]] == first["given"] != first["suggested"] and first["probability"] < 0.2
    assert "Labels that surprise most" in (run.path / "report.html").read_text()
