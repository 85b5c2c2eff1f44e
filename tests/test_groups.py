"""Gaps between groups and where groups cross, probabilities in each group, and whom a table speaks for."""

import json

import numpy as np
import pandas as pd
import pytest

import aimt
import aimt.data.table.infer_schema
import aimt.data.split.split
from aimt.core.errors import DataError, ProblemError
from aimt.core.problem import Problem
from aimt.decide.gate import GateResult
from aimt.decide.groups_gate import GroupLimits, groups_gate
from aimt.deploy.report.groups import groups_section
from aimt.deploy.report.sections import RunParts
from aimt.evaluate.table.group_metrics import JUDGED, group_report
from aimt.evaluate.table.population_weights import effective_rows, population_weights, rake, read_population
from aimt.evaluate.table.representativeness import compare_population, population_findings, population_lines, population_report
from aimt.metrics.fairness import equalized_odds, event_interval, group_calibration, group_rates, implied_rates
from aimt.metrics.groups import bin_names, cross_groups, quantile_cuts

pytestmark = pytest.mark.usefixtures("no_drawing")

PROBLEM = Problem(task="binary", target="y", inputs=["x"], metric="accuracy", labels=["no", "yes"], sensitive_features=["sex", "region"])


def people(n: int, extra: float, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Two of the four crossings are wrongly accused more often; every single column is fair."""
    rng = np.random.default_rng([seed, n])
    frame = pd.DataFrame({"sex": rng.choice(["man", "woman"], n), "region": rng.choice(["north", "south"], n)})
    y = (rng.random(n) < 0.4).astype(int)
    hit = (frame["sex"] == "man") == (frame["region"] == "north")
    return frame, y, np.where(rng.random(n) < np.where(y == 1, 0.8, 0.2 + extra * hit), 0.8, 0.2)


@pytest.mark.parametrize("groups", [2, 4])
def test_gaps_equal_those_of_fairlearn(groups):
    metrics = pytest.importorskip("fairlearn.metrics")
    from sklearn.metrics import precision_score

    for seed in range(5):
        rng = np.random.default_rng([seed, groups])
        code = rng.integers(0, groups, 2000)
        p = 1 / (1 + np.exp(-rng.normal(0.4 * code, 1.2)))
        y, d, g = (rng.random(2000) < p).astype(int), (p >= 0.45).astype(int), code.astype(str)
        gaps = group_rates(y, d, g)["gaps"]
        fixed = {"y_true": y, "y_pred": d, "sensitive_features": g}
        assert gaps["equalized_odds"]["value"] == pytest.approx(metrics.equalized_odds_difference(**fixed), abs=1e-9)
        assert gaps["equalized_odds"]["ratio"] == pytest.approx(metrics.equalized_odds_ratio(**fixed), abs=1e-9)
        precision = metrics.MetricFrame(metrics=precision_score, **fixed)
        assert gaps["precision"]["value"] == pytest.approx(precision.difference(), abs=1e-9)
        assert gaps["selection_rate"]["value"] == pytest.approx(metrics.demographic_parity_difference(**fixed), abs=1e-9)
        parity = np.where(np.arange(2000) % 2, "odd", "even")
        crossing = cross_groups(g, parity)
        by_two = {**fixed, "sensitive_features": pd.DataFrame({"g": g, "parity": parity})}
        crossed = group_rates(y, d, crossing)["gaps"]["equalized_odds"]
        assert crossed["value"] == pytest.approx(metrics.equalized_odds_difference(**by_two), abs=1e-9)


def test_equalized_odds_covers_and_stays_silent():
    rng, covered, false = np.random.default_rng(0), [], []
    for _ in range(300):
        n = {"a": 200, "b": 300, "c": 150}
        tpr = {g: (rng.binomial(k, t), k) for (g, k), t in zip(n.items(), (0.8, 0.7, 0.75), strict=True)}
        fpr = {g: (rng.binomial(k, t), k) for (g, k), t in zip(n.items(), (0.2, 0.4, 0.3), strict=True)}
        gap = equalized_odds(tpr, fpr)
        covered.append(gap["low"] <= 0.2 <= gap["high"])
        same = equalized_odds(*({g: (rng.binomial(k, t), k) for g, k in n.items()} for t in (0.7, 0.3)))
        false.append(same["low"] > 0)
    assert np.mean(covered) > 0.95 and np.mean(false) <= 0.06
    assert np.isnan(equalized_odds({"a": (1, 2), "b": (1, 2)}, {"a": (5, 20), "b": (9, 20)})["value"])


def test_calibration_inside_groups():
    off, clean, bias = [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        p = rng.beta(2, 3, 1500)
        code = np.repeat([0, 1, 2], 500)
        y = (rng.random(1500) < p).astype(int)
        said = np.where(code == 2, np.clip(p + 0.12, 0, 1), p)
        found = group_calibration(y, said, (["a", "b", "c"], code, False))
        off.append(found["groups"][2]["ece"]["off"])
        clean += [g["ece"]["off"] for g in found["groups"][:2]]
        bias.append(found["gaps"]["bias"]["low"] > 0 and found["gaps"]["bias"]["highest"] == "c")
        assert found["groups"][2]["bias"]["low"] > 0
        assert all(g["ece"]["low"] <= g["ece"]["value"] <= g["ece"]["high"] for g in found["groups"])
    assert np.mean(off) > 0.9 and np.mean(bias) > 0.9 and np.mean(clean) <= 0.12
    few = group_calibration(y[:60], p[:60], ["x"] * 40 + ["y"] * 20, min_size=30)["groups"]
    assert few[0]["ece"] and few[1]["ece"] is None and few[1]["bias"] is None


def test_a_gap_that_only_the_crossing_has_is_found():
    for seed in range(3):
        report = group_report(PROBLEM, *people(4000, 0.2, seed))
        first = report["ranked"][0]
        assert (first["column"], first["rate"]) == ("sex × region", "fpr") and first["low"] > 0.08
        assert report["crossings"][0]["parts"] == ["sex", "region"]
        assert all(c["gaps"]["fpr"]["value"] < 0.1 for c in report["columns"])


def test_without_a_gap_the_ranked_list_stays_silent():
    sure = [any(r["low"] > 0 for r in group_report(PROBLEM, *people(800, 0.0, seed))["ranked"]) for seed in range(25)]
    assert np.mean(sure) <= 0.08


def test_a_crossing_can_be_named_and_small_ones_stay_empty():
    frame, y, pred = people(3000, 0.0, 1)
    frame["sex, old"] = "a name with a comma"
    for columns in (["sex,region"], ["sex, region"], [("sex", "region")]):
        report = group_report(PROBLEM, frame, y, pred, columns=columns)
        assert [c["column"] for c in report["columns"]] == ["sex × region"] and report["crossings"] == []
        found = {g["group"] for g in report["columns"][0]["groups"]}
        assert found == {"man & north", "man & south", "woman & north", "woman & south"}
    assert group_report(PROBLEM, frame, y, pred, columns=["sex, old"])["columns"][0]["column"] == "sex, old"
    with pytest.raises(DataError, match="no column 'regoin'"):
        group_report(PROBLEM, frame, y, pred, columns=["sex,regoin"])
    assert group_report(PROBLEM, frame[:150], y[:150], pred[:150])["crossings"] == []
    few = group_report(PROBLEM, frame[:150], y[:150], pred[:150], columns=["sex,region"])["columns"][0]
    small = [g for g in few["groups"] if not g["enough"]]
    assert small and all(g["fpr"] is None and g["bias"] is None for g in small)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_task_has_crossings_that_are_plain_data(task):
    frame, y, pred = people(1200, 0.0, 2)
    three = np.arange(1200) % 3, np.full((1200, 3), 1 / 3)
    given = {"binary": (y, pred), "multiclass": three, "regression": (y * 2.0, pred)}[task]
    labels = {"binary": ["a", "b"], "multiclass": ["a", "b", "c"], "regression": []}[task]
    metric = {"binary": "accuracy", "multiclass": "accuracy", "regression": "mae"}[task]
    problem = Problem(task=task, target="y", inputs=["x"], metric=metric, labels=labels, sensitive_features=["sex", "region"])
    report = group_report(problem, frame, *given)
    json.dumps(report, allow_nan=False)
    assert {r["rate"] for r in report["ranked"]} <= set(JUDGED[task]) and len(report["crossings"]) == 1
    lows = [(r["low"], r["value"]) for r in report["ranked"]]
    assert lows == sorted(lows, reverse=True)


# ---- the gate ------------------------------------------------------------------------------------------------------

BANK = Problem(task="binary", target="bad", inputs=["x"], metric="roc_auc", labels=["no", "yes"], sensitive_features=["branch"])


def bank(n: int, seed: int, *, gap: float = 0.0, skill: float = 1.5) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """True probabilities and outcomes of two branches whose base rates differ by a log-odds."""
    rng = np.random.default_rng([seed, n])
    branch = rng.choice(["north", "south"], n)
    p = 1 / (1 + np.exp(-(skill * rng.normal(size=n) - 0.8 + gap * (branch == "north"))))
    return pd.DataFrame({"branch": branch}), (rng.random(n) < p).astype(int), p


def blind(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """25 points fewer of the bad loans are found in the south, and the model does not know it."""
    frame, y, p = bank(n, seed, skill=2.5)
    rng, south = np.random.default_rng([7, seed, n]), (frame["branch"] == "south").to_numpy()
    return frame, y, np.where(south & (rng.random(n) < 0.655), rng.permutation(p), p)


def answer(frame: pd.DataFrame, y: np.ndarray, p: np.ndarray, fairness: str | None = None, **options) -> GateResult:
    problem = BANK.replace(fairness=fairness)
    report = group_report(problem, frame, y, np.column_stack([1 - p, p]), 0.4, **options)
    json.dumps(report, allow_nan=False)
    return groups_gate(problem, report)


def shares(found: list[GateResult]) -> dict[str, float]:
    return {status: float(np.mean([f.status == status for f in found])) for status in ("hold", "not yet", "pass")}


@pytest.mark.parametrize("n", [400, 1000, 4000])
def test_a_gap_of_25_points_is_never_let_through(n):
    found = shares([answer(*blind(n, seed)) for seed in range(15)])
    assert found["pass"] == 0 and found["hold"] >= {400: 0.1, 1000: 0.6, 4000: 1.0}[n]


@pytest.mark.parametrize("n", [400, 1000, 4000])
def test_true_probabilities_are_not_held_for_error_rates_alone(n):
    tables = [bank(n, seed, gap=1.25) for seed in range(15)]
    assert shares([answer(*t) for t in tables])["hold"] == 0
    chosen = shares([answer(*t, fairness="calibration") for t in tables])
    assert chosen["hold"] == 0 and chosen["pass"] >= {400: 0.3, 1000: 0.8, 4000: 1.0}[n]
    undecided = answer(*bank(4000, 0, gap=1.25))
    assert undecided.status == "not yet" and "base rates" in undecided.text and "--fairness" in undecided.advice and undecided.command
    assert answer(*bank(4000, 0, gap=1.25), fairness="equalised-odds").status == "hold"


@pytest.mark.parametrize("base", [-0.8, -3.5])
def test_twice_too_high_in_one_group_is_never_let_through(base):
    rng, found = np.random.default_rng(0), []
    for _ in range(12):
        branch = rng.choice(["north", "south"], 3000)
        p = 1 / (1 + np.exp(-(rng.normal(size=3000) + base)))
        y = (rng.random(3000) < p).astype(int)
        found.append(
            answer(pd.DataFrame({"branch": branch}), y, np.where(branch == "south", np.minimum(2 * p, 0.999), p), fairness="calibration")
        )
    assert shares(found)["pass"] == 0 and shares(found)["hold"] >= 0.7
    assert all("south" in f.text for f in found)


def test_half_the_probability_and_a_model_that_is_wrong_both_ways():
    frame, y, p = bank(4000, 1)
    south = (frame["branch"] == "south").to_numpy()
    assert answer(frame, y, np.where(south, p / 2, p), fairness="calibration").status == "hold"
    mean_right = np.where(south, np.where(p > 0.4, p + 0.4 * (1 - p), p), p)  # too high above the threshold
    low = south & (p <= 0.4)
    mean_right[low] -= (mean_right[south].sum() - p[south].sum()) / low.sum()  # and too low below it: right on the whole
    mean_right = np.clip(mean_right, 0.001, 0.999)
    found = group_report(BANK.replace(fairness="calibration"), frame, y, np.column_stack([1 - mean_right, mean_right]), 0.4)
    whole = next(c for c in found["comparisons"] if c["group"] == "south" and c["measure"] == "calibration")
    parts = [c for c in found["comparisons"] if c["group"] == "south" and c["measure"] != "calibration"]
    assert whole["low"] == 0.0 and min(c["low"] for c in parts) > 0.01


def test_the_gate_says_what_it_could_see_and_how_many_rows_would_settle_it():
    found = answer(*bank(300, 4))
    assert found.status == "not yet" and found.detectable > found.limit and "rows" in found.text
    said = int(found.text.split("About ")[1].split(" ")[0].replace(",", ""))
    assert 150 < said < 20_000
    assert answer(*bank(6000, 4)).detectable < found.detectable


def test_small_groups_are_named_and_large_ones_that_cannot_be_judged_wait():
    rng = np.random.default_rng(0)
    for n, status in ((180, "not yet"), (4000, "pass")):
        frame, y, p = bank(n, 3)
        frame.loc[rng.permutation(n)[:30], "branch"] = "islands"
        found = answer(frame, y, p, fairness="calibration")
        assert found.status == status and "'islands' (30 rows)" in found.text
    lonely = answer(pd.DataFrame({"branch": np.repeat(["a", "b", "c", "d"], 12)}), *bank(48, 0)[1:])
    assert lonely.status == "not yet"


def test_a_fault_that_only_a_crossing_has_is_held():
    frame, y, p = bank(6000, 5)
    frame["sex"] = np.random.default_rng(1).choice(["f", "m"], 6000)
    hit = (frame["branch"] == "south").to_numpy() == (frame["sex"] == "f").to_numpy()
    wrong = np.clip(np.where(hit, p * 1.5, p * 0.5), 0.001, 0.999)
    problem = BANK.replace(sensitive_features=["branch", "sex"], fairness="calibration")
    found = groups_gate(problem, group_report(problem, frame, y, np.column_stack([1 - wrong, wrong]), 0.4))
    assert found.status == "hold" and "branch × sex" in found.measure
    honest = groups_gate(problem, group_report(problem, frame, y, np.column_stack([1 - p, p]), 0.4))
    assert honest.status == "pass"


def test_rows_of_one_customer_do_not_count_as_many():
    """40 visits each: the luck of a few customers looks like a fault unless the rows are known to hang together."""
    alone, together = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(60), 40)
        frame = pd.DataFrame({"branch": np.where(who % 2, "north", "south")})
        p, y = np.full(2400, 0.3), np.repeat((rng.random(60) < 0.3).astype(int), 40)
        alone.append(answer(frame, y, p, fairness="calibration"))
        together.append(answer(frame, y, p, fairness="calibration", clusters=who))
    assert shares(alone)["hold"] > 0.15 and shares(together)["hold"] <= 0.08


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_judged_by_group_too(task):
    rng = np.random.default_rng(0)
    place = rng.choice(["near", "far"], 3000)
    frame, near = pd.DataFrame({"place": place}), place == "near"
    if task == "regression":
        problem = Problem(task, "fare", ["x"], "rmse", sensitive_features=["place"])
        y = np.where(near, rng.gamma(4, 2, 3000), rng.gamma(4, 30, 3000))  # a small group must not hide behind the spread of the other
        honest = y * rng.uniform(0.7, 1.3, 3000)
        wrong = np.where(near, 2 * honest, honest)
    else:
        problem = Problem(task, "kind", ["x"], "log_loss", ["a", "b", "c"], sensitive_features=["place"])
        honest = rng.dirichlet([2, 1, 1], 3000)
        y = np.array([rng.choice(3, p=q) for q in honest])
        sure = honest**4 / (honest**4).sum(1, keepdims=True)
        wrong = np.where(near[:, None], sure, honest)
    for pred, status in ((honest, "pass"), (wrong, "hold")):
        found = groups_gate(problem, group_report(problem, frame, y, pred))
        assert found.status == status, found.text
    assert "near" in found.text


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("equal-opportunity", "tpr"),
        ("predictive-equality", "fpr"),
        ("predictive-parity", "precision"),
        ("demographic-parity", "selection_rate"),
    ],
)
def test_each_criterion_asks_about_its_own_rate(criterion, measure):
    report = group_report(
        BANK.replace(fairness=criterion), *(lambda f, y, p: (f, y, np.column_stack([1 - p, p])))(*bank(2000, 0, gap=1.0)), 0.4
    )
    assert {c["measure"] for c in report["comparisons"]} == {measure} and report["fairness"]["chosen"]
    gap = report["columns"][0]["gaps"][measure]
    assert report["comparisons"][0]["value"] == pytest.approx(gap["value"])  # the largest gap is the largest


def test_a_criterion_has_to_fit_the_task_and_needs_groups():
    with pytest.raises(ProblemError, match="no fairness criterion of a regression problem"):
        Problem("regression", "y", ["x"], "rmse", fairness="calibration")
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2})
    with pytest.raises(ProblemError, match="needs groups"):
        aimt.train(frame, target="y", sensitive_features="none", fairness="calibration", quiet=True)
    assert groups_gate(BANK, None).status == "not checked"
    assert groups_gate(BANK, {"columns": [{"column": "branch"}]}).status == "not checked"  # of an earlier version


def test_limits_can_be_changed_without_measuring_again():
    frame, y, p = bank(3000, 2)
    p = np.where(frame["branch"] == "south", np.minimum(1.5 * p, 0.999), p)
    report = group_report(BANK, frame, y, np.column_stack([1 - p, p]), 0.4)
    assert groups_gate(BANK, report).status == "hold"
    assert groups_gate(BANK, report, GroupLimits(calibration=1.5, gap=1.0)).status == "pass"


def test_implied_rates_are_those_of_outcomes_drawn_from_the_probabilities():
    frame, _, p = bank(200_000, 0, gap=1.0)
    y, decision = (np.random.default_rng(1).random(200_000) < p).astype(int), (p >= 0.4).astype(int)
    drawn = {r["group"]: r for r in group_rates(y, decision, frame["branch"])["groups"]}
    for name, rates in implied_rates(p, decision, frame["branch"]).items():
        for rate, value in rates.items():
            assert value == pytest.approx(drawn[name][rate]["value"], abs=0.01)


@pytest.mark.parametrize(("n", "scale"), [(300, 1.0), (2000, 0.02), (500, 0.1)])
def test_the_interval_of_a_rate_covers_for_rare_events_too(n, scale):
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        p = np.clip(scale * rng.beta(0.6, 3.0, n), 1e-6, 1 - 1e-6)
        found = event_interval((rng.random(n) < p).astype(int), p)
        covered.append(found["low"] <= p.mean() <= found["high"])
    assert np.mean(covered) >= 0.92
    for y in (np.zeros(50), np.ones(50)):
        ends = event_interval(y, np.full(50, 0.3))
        assert 0 <= ends["low"] <= y.mean() <= ends["high"] <= 1


@pytest.mark.parametrize(
    "values", [np.arange(18, 80), np.random.default_rng(0).normal(size=400), np.array([0.0] * 50 + [1.5, 2.5, 9.0, 11.0] * 9)]
)
def test_bins_hold_what_their_names_say(values):
    cuts, whole = quantile_cuts(values)
    names = bin_names(cuts, whole)
    for cut, name in zip(cuts, names, strict=False):
        assert float(name.removesuffix(" or less").split(" to ")[-1]) == cut  # the cut belongs to the bin that ends with it
    assert len(names) == len(cuts) + 1 and names[-1].startswith("over " if not whole else str(int(cuts[-1]) + 1))


def test_thresholds_of_a_run_do_not_come_from_test_rows(tmp_path):
    """The run is told another truth about its test rows: the thresholds that it proposes stay the same."""
    from aimt.jobs.steps.table_evaluate import _mitigation

    class Work:
        pass

    frame, y, p = bank(3000, 6, gap=1.5)
    work = Work()
    work.frame, work.problem = frame, BANK.replace(cost={"fn": 2.0, "fp": 1.0})
    work.schema, work.y = aimt.data.table.infer_schema.infer_schema(frame), y
    work.split = aimt.data.split.split.Split(np.where(np.arange(3000) % 4 == 0, -1, np.arange(3000) % 5).astype(np.int16), "stratified")
    both = np.column_stack([1 - p, p])
    ours = {"oof": both[work.split.train], "test": both[work.split.test]}
    columns = group_report(BANK, frame, y, both, 0.4)["columns"]
    first = _mitigation(work, ours, 0.4, columns)
    work.y = np.where(work.split.part == "test", 1 - y, y)
    second = _mitigation(work, ours, 0.4, columns)
    assert first and first[0]["thresholds"] == second[0]["thresholds"] and first[0]["strength"] == second[0]["strength"]
    assert (
        first[0]["n"] == 750
        and first[0]["gain"] != second[0]["gain"]
        and first[0]["criterion"] in ("equal-opportunity", "predictive-equality")
    )


def test_the_report_shows_crossings_gaps_and_calibration():
    report = group_report(PROBLEM, *people(4000, 0.2, 0))
    section = groups_section(RunParts(metrics={"groups": report}))
    captions = " ".join(t.caption for t in section.tables)
    assert "sex × region" in captions and "surest first" in captions
    heads = {h for t in section.tables for h in t.head}
    assert {"Precision", "Calibration error", "By chance up to", "Added by the model"} <= heads
    assert any("Nobody chose a criterion" in t for t in section.text)
    old = {"columns": [{k: v for k, v in c.items() if k != "gaps"} for c in report["columns"]]}  # of an earlier version
    assert groups_section(RunParts(metrics={"groups": old})).tables


# ---- the population ------------------------------------------------------------------------------------------------


def drawn(n: int, seed: int, p: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Rows of three regions, and decisions that are right in 60, 75 and 90 % of them."""
    rng = np.random.default_rng([seed, n])
    code = rng.choice(3, n, p=p)
    right, y = rng.random(n) < np.array([0.6, 0.75, 0.9])[code], rng.integers(0, 2, n)
    return pd.DataFrame({"region": np.array(["north", "middle", "south"])[code]}), y, np.where(right, y, 1 - y).astype(float)


STATED = {"region": {"north": 0.2, "middle": 0.3, "south": 0.5}}
TRUE = 0.2 * 0.6 + 0.3 * 0.75 + 0.5 * 0.9


def test_a_biased_sample_is_found_and_its_score_mended():
    nearer, holds = [], []
    for seed in range(25):
        frame, y, pred = drawn(500, seed)
        report = population_report(PROBLEM, frame, y, pred, read_population(STATED))
        score = report["scores"][0]
        assert [g["status"] for g in report["columns"][0]["groups"]] == ["over", "as stated", "under"]
        assert [f["severity"] for f in population_findings(report)] == ["warning"]
        nearer.append(abs(score["population"]["value"] - TRUE) < abs(score["found"]["value"] - TRUE))
        holds.append(score["population"]["low"] <= TRUE <= score["population"]["high"])
        assert score["difference"]["low"] > 0
    assert np.mean(nearer) > 0.95 and np.mean(holds) > 0.85


def test_a_fair_sample_is_silent():
    found = []
    for seed in range(60):
        frame, *_ = drawn(800, seed, (0.2, 0.3, 0.5))
        found += population_findings(compare_population(frame, read_population(STATED)))
    assert len(found) <= 4 and all(f["severity"] == "note" for f in found)


def test_many_rows_do_not_make_a_trifle_a_finding():
    frame, *_ = drawn(200_000, 0, (0.205, 0.30, 0.495))
    compared = compare_population(frame, read_population(STATED))
    assert compared["columns"][0]["p"] < 0.01 and population_findings(compared) == []


def test_raking_meets_every_margin_and_joint_shares_are_exact():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], 900, p=[0.7, 0.3]), "age": rng.integers(18, 90, 900)})
    stated = read_population({"sex": {"f": 0.5, "m": 0.5}, "age": {"18-39": "30%", "40-64": "45%", "65+": "25%"}})
    w = population_weights(frame, stated)
    assert w.mean() == pytest.approx(1) and effective_rows(w) < 900
    assert w[frame.sex == "f"].sum() / 900 == pytest.approx(0.5) and w[frame.age >= 65].sum() / 900 == pytest.approx(0.25)
    joint = read_population({"sex,age": {"f,18-39": 0.1, "f,40+": 0.4, "m,18-39": 0.3, "m,40+": 0.2}})
    w = population_weights(frame, joint)
    assert w[(frame.sex == "m") & (frame.age < 40)].sum() / 900 == pytest.approx(0.3)
    codes = (frame.sex == "m").to_numpy().astype(int)
    raked, miss = rake(np.ones((2, 900)), [(codes, np.array([0.5, 0.5]))])
    assert raked[:, codes == 1].sum(1) / 900 == pytest.approx([0.5, 0.5]) and miss < 1e-9


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("column,value,share\nregion,north,0.2\nregion,middle,0.3\nregion,south,0.5\n", "s.csv"),
        ("\ufeffColumn;Value;Share\nregion;north;20\nregion;middle;30\nregion;south;50\n\n", "s.csv"),
        ("column;value;share\nregion;north;0,2\nregion;middle;0,3\nregion;south;0,5\n", "s.txt"),
        (json.dumps(STATED), "s.json"),
    ],
)
def test_shares_are_read_from_files(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_population(path)["region"] == pytest.approx(STATED["region"])


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"region": {"north": 0.5, "south": 0.4}}, r"add up to 0\.9, not to 1"),
        ({"region": {"north": -0.5, "south": 1.5}}, "is no share"),
        ({"region": {"north": "much", "south": 0.5}}, "'much' is no share"),
        ({"region": 0.5}, "no table of value and share"),
        ({}, "no share is stated"),
        (pd.DataFrame({"column": ["a"], "value": ["b"]}), "no column 'share'"),
        (pd.DataFrame({"column": ["a", "a"], "value": ["b", "b"], "share": [0.5, 0.5]}), "stated twice"),
        ("no such file.csv", "cannot be read"),
        ({"town": {"a": 0.5, "b": 0.5}}, "no column 'town'"),
        ({"region": {"nort": 0.2, "middle": 0.3, "south": 0.5}}, "holds no 'nort'"),
        ({"age": {"18-40": 0.5, "30-90": 0.5}}, "overlap"),
        ({"age": {"young": 0.5, "old": 0.5}}, "no range"),
        ({"age": {"200-300": 0.5, "300+": 0.5}}, "no row has a stated value"),
        ({"region,age": {"north": 0.5, "south": 0.5}}, "does not have 2 parts"),
        ({"region": STATED["region"], "twin": {"north": 0.6, "middle": 0.2, "south": 0.2}}, "no weights give these shares"),
    ],
)
def test_what_makes_no_sense_is_said(stated, says):
    frame, *_ = drawn(300, 0)
    frame = frame.assign(age=np.arange(300) % 70 + 18, twin=frame["region"])
    with pytest.raises(DataError, match=says):
        compare_population(frame, read_population(stated))


def test_an_absent_group_is_reported_and_missing_values_are_left_out():
    frame, y, pred = drawn(400, 1)
    stated = read_population({"region": {"north": 0.2, "middle": 0.3, "south": 0.4, "islands": 0.1}})
    compared = compare_population(frame, stated)
    assert compared["columns"][0]["groups"][3]["status"] == "absent" and "absent" in compared["message"]
    assert population_findings(compared)[0]["severity"] == "warning"
    frame.loc[:49, "region"] = None
    report = population_report(PROBLEM, frame, y, pred, read_population(STATED))
    assert report["n_used"] == 350 and report["columns"][0]["n_unknown"] == 50
    assert np.all(population_weights(frame, read_population(STATED))[:50] == 0)
    json.dumps(report, allow_nan=False)
    assert any("as found" in line for line in population_lines(report)) and "under" in "\n".join(population_lines(compared))


def test_the_report_shows_the_population_whoever_asked_for_it():
    frame, y, pred = drawn(400, 2)
    stated = read_population(STATED)
    scored, compared = population_report(PROBLEM, frame, y, pred, stated), compare_population(frame, stated)
    for run, kind, tables in (
        (RunParts(metrics={"population": scored}), "population", 2),
        (RunParts(audit={"population": compared}), "sample", 1),
    ):
        section = groups_section(run)
        assert [f.kind for f in section.figures] == [kind] and len(section.tables) == tables
        assert any("Under-represented: region 'south'" in t for t in section.text)
    assert list(groups_section(RunParts()).tables) == []


def test_a_range_ends_where_it_says_and_whole_numbers_leave_no_gap():
    frame = pd.DataFrame({"u": np.linspace(0, 1, 101).round(2), "age": np.arange(101) % 70 + 18})
    found = compare_population(frame, {"u": {"0-0.3": 0.5, "0.6-1": 0.5}, "age": {"18-29": 0.3, "30-44": 0.3, "45+": 0.4}})
    counts = {c["column"]: [g["n"] for g in c["groups"]] for c in found["columns"]}
    assert counts["u"] == [31, 41] and sum(counts["age"]) == 101


def test_groups_of_dates_are_the_same_from_a_file_of_text_and_after_compacting(tmp_path):
    rng = np.random.default_rng(0)
    born = pd.to_datetime("1940-01-01") + pd.to_timedelta(rng.integers(0, 365 * 60, 500), "D")
    x, old = rng.normal(size=500), born.year < 1970
    y = np.where(x + rng.normal(size=500) + 3 * old > 1.5, "yes", "no")
    frame = pd.DataFrame({"x": x, "born": born, "y": y})
    frame.assign(born=born.strftime("%d.%m.%Y")).to_csv(tmp_path / "born.csv", index=False)
    frame.to_parquet(tmp_path / "born.parquet")
    options = {"target": "y", "sensitive_features": "born", "time_limit": 4, "quiet": True}
    runs = [aimt.train(tmp_path / f"born.{kind}", out=tmp_path / kind, **options) for kind in ("csv", "parquet")]
    runs.append(aimt.compact(runs[0], data=tmp_path / "born.csv", quiet=True))
    groups = [[(g["group"], g["n"]) for g in run.read("metrics.json")["groups"]["columns"][0]["groups"]] for run in runs]
    assert groups[0] == groups[1] == groups[2] and len(groups[0]) == 4 and sum(n for _, n in groups[0]) == 500
    gates = [next(g for g in run.read("metrics.json")["verdict"]["gates"] if g["gate"] == "groups") for run in runs]
    assert all(g["status"] in ("hold", "not yet") for g in gates)  # of very different base rates, and nobody chose a criterion
