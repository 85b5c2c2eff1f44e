"""Forecasts that exist already are judged beside simple ones: honest ones pass, planted faults do not, and mistakes are one line."""

import re

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.errors import DataError, ProblemError
from aimt.core.run import Run
from aimt.jobs.shared.pipeline import choose_kind

MONTHS = pd.date_range("2014-01-01", periods=120, freq="MS")
RNG = np.random.default_rng(0)
SALES = {
    name: 100 + 20 * np.sin(2 * np.pi * (np.arange(120) + k) / 12) + RNG.normal(0, 5, 120)
    for k, name in enumerate(["Oslo", "Bergen", "Voss"])
}
HISTORY = pd.concat([pd.DataFrame({"shop": shop, "month": MONTHS[:60], "sales": y[:60]}) for shop, y in SALES.items()])


def same_months(past, horizon: int) -> np.ndarray:
    """Means of the same months of the last four years."""
    past = np.asarray(past)
    return np.array([past[len(past) + h - 12 :: -12][:4].mean() for h in range(horizon)])


def table_of(predict=lambda past, came: same_months(past, 6), half: float = 7.2) -> pd.DataFrame:
    """Forecasts of six months from ten origins."""
    rows = []
    for shop, y in SALES.items():
        for n in range(60, 120, 6):
            forecast = predict(y[:n], y[n : n + 6])
            part = pd.DataFrame(
                {"shop": shop, "month": MONTHS[n : n + 6], "sales": y[n : n + 6], "forecast": forecast, "made": MONTHS[n - 1]}
            )
            rows.append(part.assign(low=forecast - half, high=forecast + half))
    return pd.concat(rows, ignore_index=True)


TABLE = table_of()


@pytest.fixture
def judged(tmp_path):
    """Judge, and give the run with its gates by name."""

    def run(table: pd.DataFrame, **options) -> tuple[str, dict[str, dict], Run]:
        given = {"actual": "sales", "prediction": "forecast", "time": "month", "series_id": "shop", "origin": "made", "history": HISTORY}
        given |= {"low": "low", "high": "high", "coverage": 0.8, "out": tmp_path / "run", "overwrite": True, "quiet": True}
        done = aimt.judge(table, **(given | options))
        verdict = done.read("metrics.json")["verdict"]
        return verdict["verdict"], {g["gate"]: g for g in verdict["gates"]}, done

    return run


# --- honest forecasts -------------------------------------------------------------------------------------------------


def test_honest_forecasts_ship_in_any_order_and_open_again(judged):
    word, gates, run = judged(TABLE.sample(frac=1, random_state=0))
    assert word == "SHIP" and {g["status"] for g in gates.values()} == {"pass"}
    again = Run.open(run.path)
    assert again.kind == "judge-series" and again.read("metrics.json")["scores"]["n_origins"] == 10
    sections = {s["id"]: " ".join(s["text"]) for s in run.read("report.json")["sections"]}
    assert set(sections) == {"scores", "reuse", "made", "task", "plan", "reproduce", "sign-off"}
    assert "could not be" not in (run.path / "report.html").read_text(encoding="utf-8")
    assert "1 to 6 steps ahead" in sections["made"] and "made elsewhere" in (run.path / "card.md").read_text(encoding="utf-8").lower()
    with pytest.raises(ProblemError, match="cannot predict"):
        aimt.predict(run.path)


def test_the_scores_are_those_of_a_hand_calculation(judged):
    _, _, run = judged(TABLE[TABLE["shop"] == "Oslo"], history=HISTORY[HISTORY["shop"] == "Oslo"])
    y, found = SALES["Oslo"], []
    for n in range(60, 120, 6):
        found.append(np.abs(y[n : n + 6] - same_months(y[:n], 6)).mean() / np.abs(y[12:n] - y[: n - 12]).mean())
    assert run.read("metrics.json")["scores"]["mase"] == pytest.approx(np.mean(found))


def test_point_forecasts_promise_no_coverage(judged):
    word, gates, _ = judged(TABLE, low=None, high=None, coverage=None)
    assert word == "SHIP" and gates["coverage"]["status"] == gates["width"]["status"] == "not checked"


def test_quantiles_name_their_level(judged):
    word, gates, run = judged(TABLE.rename(columns={"low": "q10", "high": "q90"}), low=None, high=None, coverage=None, quantiles="q10,q90")
    assert word == "SHIP" and run.read("metrics.json")["scores"]["promised"] == pytest.approx(0.8)


def test_a_forecaster_is_asked_at_rolling_origins_and_told_nothing_later(judged):
    whole, ends = pd.concat([HISTORY, TABLE[["shop", "month", "sales"]]]), []

    def model(history: pd.Series, horizon: int) -> np.ndarray:
        ends.append(history.index[-1])
        return same_months(history, horizon)

    points = {"prediction": None, "low": None, "high": None, "coverage": None, "origin": None, "history": None}
    word, gates, run = judged(whole, model=model, horizon=6, n_origins=10, **points)
    assert word == "SHIP" and sorted(set(ends)) == sorted(set(TABLE["made"]))
    asked = run.read("metrics.json")["scores"]["mase"]
    assert asked == pytest.approx(judged(TABLE)[2].read("metrics.json")["scores"]["mase"])


# --- planted faults -----------------------------------------------------------------------------------------------------


def test_forecasts_that_have_seen_the_values_wait_for_an_attestation(judged):
    rng = np.random.default_rng(1)
    seen = table_of(lambda past, came: (same_months(past, 6) + came) / 2 + rng.normal(0, 0.5, 6), half=4.5)
    word, gates, _ = judged(seen)
    assert word == "NOT YET" and gates["origin"]["status"] == "not yet" and gates["origin"]["value"] > 0.5
    assert judged(seen, attest={"origin": "archived before the month began"})[1]["origin"]["status"] == "pass"


def test_intervals_half_as_wide_are_held(judged):
    word, gates, _ = judged(table_of(half=3.0))
    assert word == "HOLD" and gates["coverage"]["status"] == "hold"


def test_last_season_again_is_no_better_than_last_season(judged):
    word, gates, _ = judged(table_of(lambda past, came: past[-12:-6]))
    assert gates["baseline"]["status"] == "hold" and "the last season" in gates["baseline"]["advice"]


def test_a_better_baseline_holds_the_forecasts(judged):
    table = TABLE.assign(plan=TABLE["forecast"], forecast=TABLE["forecast"] + 8, low=TABLE["low"], high=TABLE["high"] + 8)
    gates = judged(table, baseline="plan")[1]
    assert gates["baseline"]["status"] == "hold" and "'plan'" in gates["baseline"]["advice"]


def test_forecasts_that_are_left_out_are_counted(judged):
    gates = judged(TABLE[TABLE.index % 6 != 3])[1]
    assert gates["gaps"]["status"] == "hold" and gates["gaps"]["value"] == pytest.approx(1 / 6)


# --- what was not given -------------------------------------------------------------------------------------------------


def test_without_a_history_later_origins_have_the_earlier_values(judged):
    word, gates, run = judged(TABLE, history=None)
    assert word != "HOLD" and "10% of the forecasts have no values before them" in gates["baseline"]["text"]
    assert run.read("metrics.json")["scores"]["not_compared"] == 3


def test_without_origins_nothing_ships(judged):
    word, gates, _ = judged(TABLE, origin=None, history=None)
    assert word == "NOT YET" and "--origin" in gates["origin"]["advice"] and "--history" in gates["baseline"]["advice"]
    assert gates["baseline"]["status"] == "not yet"


def test_the_kind_is_found_by_options_or_by_the_times():
    asked = {"actual": "sales", "prediction": "forecast", "time": "month"}
    one = TABLE[TABLE["shop"] == "Oslo"]
    assert choose_kind(one, asked).name == "judge-series"
    assert choose_kind(one, asked | {"task": "regression"}).name == "judge"
    assert choose_kind(TABLE, asked).name == "judge" and choose_kind(TABLE, asked | {"series_id": "shop"}).name == "judge-series"


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_judges_a_csv_and_gates(tmp_path, aimt_here):
    TABLE.assign(half=TABLE["forecast"] - 2, double=TABLE["forecast"] + 2).to_csv(tmp_path / "forecasts.csv", index=False)
    HISTORY.to_csv(tmp_path / "sales.csv", index=False)
    words = ["judge", "forecasts.csv", "--actual", "sales", "--prediction", "forecast", "--time", "month", "--series-id", "shop"]
    words += ["--origin", "made", "--coverage", "0.8", "--history", "sales.csv", "--gate"]
    good = aimt_here(*words, "--low", "low", "--high", "high", cwd=tmp_path)
    assert good.returncode == 0 and "\nSHIP" in good.stdout, good.stderr
    bad = aimt_here(*words, "--low", "half", "--high", "double", cwd=tmp_path)
    assert bad.returncode == 3 and "\nHOLD" in bad.stdout, bad.stderr
    run = Run.open(tmp_path / "runs" / "forecasts-judged")
    assert run.info["command"].startswith("aimt judge forecasts.csv --actual sales --prediction forecast --time month --series-id shop")
    code = next(s["code"] for s in run.read("report.json")["sections"] if s["id"] == "reproduce")
    assert code == run.info["command"]


WRONG = {
    "no time": ({"time": None}, "--time"),
    "no forecasts": ({"prediction": None}, "neither forecasts nor a model"),
    "no such column": ({"prediction": "forcast"}, "Did you mean 'forecast'"),
    "one column twice": ({"prediction": "sales"}, "named for two things"),
    "no such history": ({"history": HISTORY.drop(columns="sales")}, "'sales' of the history"),
    "half an interval": ({"high": None}, "--high too"),
    "coverage in percent": ({"coverage": 90}, "at most 1"),
    "ends exchanged": ({"low": "high", "high": "low"}, "row 1, column 'low'"),
    "a quantile without level": ({"low": None, "high": None, "coverage": None, "quantiles": "low,high"}, "which quantile"),
    "after the fact": ({"origin": "month"}, "named for two things"),
    "two statements": ({"horizon": 3}, "Give one of both"),
    "series not named": ({"series_id": None, "history": None}, "--series-id"),
    "attestation": ({"attest": {"unseen": "x"}}, "cannot be attested"),
    "a model in a file": ({"model": "model.onnx", "prediction": None}, "cannot be read from a file"),
    "a class": ({"model": dict, "prediction": None, "origin": None}, "is a class"),
    "a table's option": ({"probability": "forecast"}, "--kind judge"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line_and_leave_nothing_behind(name, judged, tmp_path):
    change, said = WRONG[name]
    with pytest.raises((ProblemError, DataError), match=re.escape(said)) as caught:
        judged(TABLE, **change)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


FAULTY = {
    "after the fact": (TABLE.assign(made=TABLE["month"]), "when its value was known"),
    "twice": (pd.concat([TABLE, TABLE[:1]], ignore_index=True), "a second forecast of 'Oslo' for 2019-01-01 from 2018-12-01"),
    "no forecast": (TABLE.assign(forecast=TABLE["forecast"].where(TABLE.index != 7)), "row 8, column 'forecast'"),
    "no value at all": (TABLE.assign(sales=np.nan), "no number in 'sales'"),
    "another history": (
        TABLE.assign(sales=TABLE["sales"] + (TABLE["made"] < "2019-02-01"), month=TABLE["month"] - pd.DateOffset(months=6)),
        "'sales' is",
    ),
    "no time": (TABLE.assign(month=TABLE["month"].where(TABLE.index != 4)), "row 5"),
    "irregular": (
        TABLE.assign(month=MONTHS[0] + pd.to_timedelta(np.random.default_rng(2).choice(10**6, len(TABLE), replace=False), "min")),
        "step",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_tables_are_named_by_row_and_column(name, judged, tmp_path):
    table, said = FAULTY[name]
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        judged(table)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_values_that_have_not_come_are_left_out(judged):
    word, gates, run = judged(TABLE.assign(sales=TABLE["sales"].where(TABLE["month"] < "2023-10-01")))
    assert run.read("metrics.json")["made"]["without_value"] == 9 and gates["gaps"]["status"] == "pass" and word != "HOLD"
