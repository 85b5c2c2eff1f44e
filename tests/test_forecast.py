"""Forecasts: what no single notebook shows. Odd tables, odd series, files that must not load, no leak from the future."""

import json
import os

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError, RunError
from aimt.core.run import Run
from aimt.data.series.panel import Panel, airline_passengers, read_panel
from aimt.jobs.steps.series import forecast_ahead
from aimt.jobs.verbs.evaluate import score_lines
from aimt.jobs.verbs.train import train
from aimt.metrics.forecast import coverage, mase, seasonal_error, smape, wql
from aimt.models.series.backtest import backtest, summarise
from aimt.models.series.forecaster import Forecaster, member_weights, quantile_name, weighted_midmean
from aimt.models.series.lag_features import fit_lags, known_ahead, lag_rows
from aimt.models.series.exponential_smoothing import local_forecasts, seasonal_naive


def forecast(source, **options):
    return train(source, kind="series", **options)


AIRLINE = airline_passengers()


def daily(n: int, level: float = 50.0, seed: int = 0, start: str = "2024-01-01") -> pd.DataFrame:
    rng, days = np.random.default_rng(seed), pd.date_range(start, periods=n, freq="D")
    return pd.DataFrame({"day": days, "sales": rng.poisson(level * np.where(days.day_of_week < 5, 1.0, 1.6))})


def stores(n: int = 60) -> pd.DataFrame:
    return pd.concat([daily(n, level, seed).assign(store=name) for seed, (name, level) in enumerate({"a": 80, "b": 9, "c": 30}.items())])


@pytest.fixture(scope="module")
def fitted():
    return Forecaster().fit(stores(), "sales", "day", "store", horizon=7)


# ---------------------------------------------------------------------------------------------------- scores


def test_scores_by_hand():
    assert seasonal_error([1, 3, 2, 4], season=2) == 1
    assert mase([3, 5], [2, 8], [1, 3, 2, 4], season=2) == 2
    assert smape([100], [50]) == pytest.approx(100 / 150)
    assert wql([10], np.array([[11, 8]]), [0.1, 0.9]) == pytest.approx(0.27)
    assert coverage([1, 2, 3], [1, 3, 0], [1, 4, 9]) == pytest.approx(2 / 3)
    assert np.isnan(mase([1], [2], [3, 3, 3]))


# ---------------------------------------------------------------------------------------------------- tables


def test_order_of_rows_and_index_do_not_matter(fitted):
    mixed = stores().sample(frac=1, random_state=1).reset_index(drop=True)
    again = Forecaster().fit(mixed, "sales", "day", "store", horizon=7)
    pd.testing.assert_frame_equal(again.predict(), fitted.predict())


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d/%m/%Y", "%Y-%m-%dT%H:%M:%S+02:00"])
def test_dates_as_text(form):
    frame = daily(40).assign(day=lambda d: d.day.dt.strftime(form))
    out = Forecaster(trees=False).fit(frame, "sales", "day", horizon=3).predict()
    assert str(out.day.iloc[0])[:10] in ("2024-02-10", "2024-02-09") and len(out) == 3


def test_tie_names_series_and_time():
    frame = pd.concat([stores(), stores()[:1]])
    with pytest.raises(DataError, match=r"'a' has 2 values for the day 2024-01-01"):
        read_panel(frame, target="sales", time="day", series="store")
    panel = read_panel(frame, target="sales", time="day", series="store", freq="day")
    assert panel.values[0][0] == 2 * stores().sales.iloc[0]


def test_mixed_time_zones_are_refused_and_summer_time_is_not():
    two = pd.DataFrame({"day": ["2024-01-01T00:00+09:00", "2024-01-02T00:00-05:00", "2024-01-03T00:00+09:00"], "sales": [1, 2, 3]})
    with pytest.raises(DataError, match="mixes time zones"):
        read_panel(two, target="sales", time="day")
    days = pd.date_range("2024-03-25", periods=12, freq="D", tz="Europe/Berlin")
    panel = read_panel(pd.DataFrame({"day": days, "sales": range(12)}), target="sales", time="day")
    assert str(panel.step) == "day" and len(panel.values[0]) == 12 and not panel.notes
    hours = pd.date_range("2024-10-26 20:00", periods=24, freq="h", tz="Europe/Berlin")  # one hour comes twice on the wall
    panel = read_panel(pd.DataFrame({"day": hours, "sales": range(24)}), target="sales", time="day")
    assert panel.values[0].tolist() == list(range(24))


def test_gaps_are_named_and_filled():
    frame = daily(40).drop(index=[10, 11])
    panel = read_panel(frame, target="sales", time="day")
    assert len(panel.values[0]) == 40 and panel.holes[0].sum() == 2
    assert "2 of 40 steps are missing (the first is 2024-01-11)" in panel.notes[0]


def test_irregular_steps_are_refused_with_a_way_out():
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.uniform(0, 40 * 86400, 300)).round(), unit="s")
    frame = pd.DataFrame({"at": at, "amount": rng.uniform(1, 9, 300)})
    with pytest.raises(DataError, match='freq="day"'):
        read_panel(frame, target="amount", time="at")
    out = Forecaster(freq="day").fit(frame, "amount", "at", horizon=3).predict()
    assert (out["at"].diff().dropna() == pd.Timedelta(days=1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:0], "no rows"),
        (lambda d: d[:1], "no series has two different times"),
        (lambda d: d.assign(sales="x"), "no number"),
        (lambda d: d.assign(sales=np.nan), "no number"),
        (lambda d: d.assign(day=[pd.NaT, *d.day[1:]]), "no time"),
        (lambda d: d.assign(day=range(len(d))), "no years"),
        (lambda d: d.rename(columns={"sales": "sale"}), "no column 'sales'"),
    ],
)
def test_unusable_tables_say_why(change, message):
    with pytest.raises(AimtError, match=message):
        Forecaster().fit(change(daily(30)), "sales", "day")


@pytest.mark.parametrize(
    ("freq", "step", "season"),
    [
        ("YS", "year", 1),
        ("QE", "quarter", 4),
        ("ME", "month", 12),
        ("W", "week", 52),
        ("D", "day", 7),
        ("B", "weekday", 5),
        ("h", "hour", 24),
        ("30min", "30 minutes", 48),
    ],
)
def test_steps_and_the_times_ahead(freq, step, season):
    times = pd.date_range("2000-01-31", periods=45, freq=freq)
    panel = read_panel(pd.DataFrame({"t": times[:40], "y": np.arange(40.0)}), target="y", time="t")
    assert (str(panel.step), panel.step.season) == (step, season)
    assert (panel.future(0, 5) == times[40:]).all()


# ---------------------------------------------------------------------------------------------------- series


def test_short_constant_and_negative_series_in_one_panel():
    frame = pd.concat(
        [
            stores(),
            daily(60).assign(store="flat", sales=4),
            daily(1).assign(store="one"),
            daily(3).assign(store="three"),
            daily(60).assign(store="below", sales=lambda d: -d.sales),
            daily(60).assign(store="zero", sales=0),
        ]
    )
    out = Forecaster().fit(frame, "sales", "day", "store", horizon=7).predict().set_index("store")
    columns = ["forecast", *(quantile_name(q) for q in Forecaster().levels)]
    assert np.isfinite(out[columns].to_numpy()).all()
    np.testing.assert_allclose(out.loc["flat", "forecast"], 4, atol=1e-6)
    np.testing.assert_allclose(out.loc["zero", columns], 0, atol=1e-6)
    np.testing.assert_allclose(out.loc["one", "forecast"], daily(1).sales[0])
    assert (out.loc["below", "forecast"] < 0).all() and (out.loc[["a", "b", "c"], "q5"] >= 0).all()


@pytest.mark.parametrize("n", [2, 3, 4, 7, 12, 25])
def test_any_length_alone(n):
    out = Forecaster().fit(AIRLINE[:n], "passengers", "month", horizon=4).predict()
    assert np.isfinite(out[["forecast", "q5", "q95"]].to_numpy()).all() and (out.q5 <= out.q95).all()


def test_unknown_series_and_too_far_ahead(fitted):
    with pytest.raises(ProblemError, match="no series 'd'"):
        fitted.predict(series=["d"])
    with pytest.raises(ProblemError, match="7 steps ahead, not 8"):
        fitted.predict(8)
    short = fitted.predict(3)
    assert len(short) == 9 and short.columns[:3].tolist() == ["store", "day", "forecast"]


def test_no_value_after_the_end_enters_a_row():
    y = AIRLINE.passengers.to_numpy(float)
    spoilt = np.where(np.arange(144) > 99, 1e9, y)
    ends, steps, none = np.arange(5, 100), np.arange(1, 13), np.zeros((160, 0))
    for season in (1, 12):
        for a, b in zip(lag_rows(y, ends, steps, season, none), lag_rows(spoilt, ends, steps, season, none), strict=True):
            np.testing.assert_array_equal(a, b)


def test_backtest_knows_nothing_of_what_comes():
    panel = read_panel(stores(), target="sales", time="day", series="store")
    judged = backtest(Forecaster(trees=False), panel, 7, n_origins=1)
    direct = Forecaster(trees=False).fit(stores()[lambda d: d.day < "2024-02-23"], "sales", "day", "store", horizon=7).predict()
    for name, part in direct.groupby("store"):
        past, came = (panel.values[panel.names.index(name)][s] for s in (slice(None, -7), slice(-7, None)))
        expected = mase(came, part.forecast, past, season=7)
        assert judged.set_index("series").mase[name] == pytest.approx(expected)
    assert summarise(judged)["n"] == 3


def test_better_than_the_seasonal_naive_on_a_real_series():
    result = summarise(backtest(Forecaster(), read_panel(AIRLINE, target="passengers", time="month"), 12, n_origins=3))
    assert result["mase"] < 0.8 * result["naive_mase"] and result["wql"] < 0.05


def test_a_plan_that_is_known_ahead_pays():
    rng = np.random.default_rng(0)
    promo = rng.uniform(size=97) < 0.2
    frame = daily(97).assign(promo=promo, sales=lambda d: d.sales + 100 * promo)
    model = Forecaster(trees=False).fit(frame[:90], "sales", "day", horizon=7, known=["promo"])
    future = frame[90:].drop(columns="sales").assign(promo=[True, False] * 3 + [True])
    out = model.predict(future=future).forecast.to_numpy()
    assert out[[0, 2, 4]].min() > 100 > out[[1, 3]].max()
    with pytest.raises(DataError, match="has no 'promo' for 2024-04-02"):
        model.predict(future=future[:2])
    with pytest.raises(ProblemError, match="needed: promo"):
        model.predict()


# ---------------------------------------------------------------------------------------------------- parts


def test_weights_and_their_midmean():
    errors, owner = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]), np.array([0, 0, 1])
    w = member_weights(errors, owner, 3)
    assert w[0, 0] > w[2, 0] > w[1, 0] and np.allclose(w.sum(1), 1)  # own record, all, own record
    blind = member_weights(errors, owner, 3, leave_out=True)
    assert blind[2, 0] > 0.5  # without its own lucky origin, only the record of the others is left
    runaway = np.array([1.0, 2.0, 1e300, 3.0, 4.0]).reshape(5, 1, 1)
    assert weighted_midmean(runaway, np.full((1, 5), 0.2)) == 3


def test_neighbours_do_not_change_local_members():
    y = AIRLINE.passengers.to_numpy(float)
    alone, beside = local_forecasts([y[:60]], 12, 6), local_forecasts([y[:60], y, -y[:20]], 12, 6)
    for name in alone:
        np.testing.assert_allclose(beside[name][0], alone[name][0], rtol=1e-8)


def test_trees_direct_and_recursive_learn_the_week():
    panel = read_panel(stores(90), target="sales", time="day", series="store")
    past = [v[:-7] for v in panel.values]
    extra = [known_ahead(panel, i, 0) for i in range(3)]
    flat = [np.full(7, v[-7:].mean()) for v in past]
    for recursive in (False, True):
        made = fit_lags(past, extra, 7, 7, recursive=recursive).predict(past, extra, 7)
        ours, dull = (
            np.mean([mase(v[-7:], p, h, season=7) for v, p, h in zip(panel.values, ps, past, strict=True)]) for ps in (made, flat)
        )
        assert ours < dull
    assert seasonal_naive(past, 7, 7)[0].tolist() == past[0][-7:].tolist()


# ---------------------------------------------------------------------------------------------------- storing


def test_round_trip_is_exact(tmp_path):
    model = Forecaster(n_origins=3).fit(stores(90), "sales", "day", "store", horizon=7)
    model.save(tmp_path)
    again = Forecaster.load(tmp_path)
    pd.testing.assert_frame_equal(again.predict(), model.predict())
    assert again.get_params() == model.get_params() | {"levels": list(model.levels)} and again.notes_ == model.notes_
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".txt"}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("weights"),
        lambda s: s.update(version=3),
        lambda s: s["weights"].pop(),
        lambda s: s["panel"]["values"].pop(),
        lambda s: s["panel"]["step"].update(count=0),
        lambda s: s["spread"].update(scores=[]),
        lambda s: s.update(horizon="7"),
        lambda s: s["settings"].update(levels=[2]),
        lambda s: s["settings"].update(evil=1),
        lambda s: s["panel"]["values"][0].append("x"),
    ],
)
def test_changed_files_are_refused(fitted, tmp_path, change):
    fitted.save(tmp_path)
    path = tmp_path / "forecaster.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(ModelFormatError):
        Forecaster.load(tmp_path)


def test_changed_trees_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    promo = rng.uniform(size=120) < 0.3
    frame = pd.concat([daily(120, 30, s).assign(store=str(s), promo=promo, sales=lambda d: d.sales * (1 + promo)) for s in range(8)])
    model = Forecaster().fit(frame, "sales", "day", "store", horizon=7, known=["promo"])
    assert model.trees_ is not None and "trees" in model.members_
    model.save(tmp_path)
    path = tmp_path / "trees.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ModelFormatError, match="not those that were stored"):
        Forecaster.load(tmp_path)


def test_panel_survives_json():
    panel = read_panel(stores().drop(index=5), target="sales", time="day", series="store", known=[])
    again = Panel.from_dict(json.loads(json.dumps(panel.to_dict())))
    assert again.to_dict() == panel.to_dict() and again.step == panel.step


# ---------------------------------------------------------------------------------------------------- the job


def test_job_keeps_everything_and_is_used_again(tmp_path):
    table = tmp_path / "sales.csv"
    stores().to_csv(table, index=False)
    run = forecast(table, target="sales", time="day", series_id="store", horizon=7, out=tmp_path / "run", quiet=True)
    assert Run.open(run.path).status == "done"
    metrics = run.read("metrics.json")
    assert metrics["verdict"]["verdict"] in {"SHIP", "NOT YET", "HOLD"} and metrics["scores"]["mase"] < metrics["scores"]["naive_mase"]
    assert {g["gate"] for g in metrics["verdict"]["gates"]} == {"baseline", "coverage", "width", "gaps", "future"}
    kept = pd.read_parquet(run.file("predictions.parquet"))
    pd.testing.assert_frame_equal(forecast_ahead(run.path), kept)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "could not be" not in page and "sales.csv" in page and str(tmp_path) not in page
    path = run.path / "model" / "forecaster.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(RunError, match="changed"):
        forecast_ahead(run.path)


def test_job_holds_when_values_are_missing(tmp_path):
    frame = daily(120)
    frame = frame[(np.arange(120) % 4 != 1) | (np.arange(120) < 8)]
    verdict = forecast(frame, target="sales", time="day", horizon=7, out=tmp_path / "run", quiet=True).read("metrics.json")["verdict"]
    assert verdict["verdict"] == "HOLD" and {g["gate"]: g["status"] for g in verdict["gates"]}["gaps"] == "hold"
    assert any("--freq" in a for a in verdict["advice"])


def test_job_that_cannot_work_leaves_no_done_run(tmp_path):
    with pytest.raises(ProblemError, match="no column 'store'"):
        forecast(daily(40), target="sales", time="day", series_id="store", out=tmp_path / "a", quiet=True)
    assert not (tmp_path / "a").exists()
    with pytest.raises(DataError, match="no series is long enough"):
        forecast(daily(9), target="sales", time="day", horizon=8, out=tmp_path / "b", quiet=True)
    assert Run.open(tmp_path / "b", unfinished=True).status == "failed"


def test_train_forecasts(tmp_path, monkeypatch):
    """From a file to a verdict, by the same verb as tables; and one line for what does not go with it."""
    monkeypatch.chdir(tmp_path)
    airline_passengers().to_csv("air.csv", index=False)
    target, time = "passengers", "month"
    run = aimt.train("air.csv", target=target, time=time, horizon=12, quiet=True)
    assert run.kind == "series" and len(pd.read_parquet(run.path / "predictions.parquet")) == 12
    page = (run.path / "report.html").read_text()
    assert page.count("<figure>") == 1 and "could not be" not in page
    (run.path / "report.html").unlink()
    assert aimt.report(run).read_text() == page
    for call, says in [
        (lambda: aimt.train("air.csv", target=target, horizon=12), "a forecast needs the column of --time"),
        (
            lambda: aimt.train("air.csv", target=target, time=time, horizon=12, sensitive_features=time),
            "--sensitive-features is an option of --kind table",
        ),
        (lambda: aimt.predict(run, "air.csv"), "1949-01-01 is not ahead: the last known value is of 1960-12-01"),
        (lambda: aimt.predict(run, coverage=0.9, conditional_on="group"), "--conditional-on is not for runs of --kind series"),
    ]:
        with pytest.raises(AimtError, match=says):
            call()


def test_what_is_known_ahead_carries_through_by_the_command(tmp_path, aimt_here):
    """Train with a plan, fill in the table that the run left, forecast it; a wrong row is one line."""
    frame = stores(70).assign(promo=lambda d: (d.day.dt.day % 5 == 0).astype(int), sales=lambda d: d.sales + 100 * d.promo)
    frame.to_csv(tmp_path / "sales.csv", index=False)
    words = "train sales.csv --target sales --time day --series-id store --known-covariates promo --horizon 6 --recursive --out run"
    done = aimt_here(*words.split(), cwd=tmp_path)
    assert done.returncode == 0 and "aimt predict run future.csv" in done.stderr, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.info["settings"]["recursive"] and run.read("metrics.json")["scores"]["ets_mase"] > 0
    future = pd.read_csv(run.file("future.csv"))
    assert future.columns.tolist() == ["store", "day", "promo"] and len(future) == 18 and future.promo.isna().all()
    future.to_csv(tmp_path / "empty.csv", index=False)
    filled = future.assign(promo=[0, 1, 0, 0, 0, 0] * 3)
    filled.sample(frac=1, random_state=0).to_csv(tmp_path / "future.csv", index=False)
    for name in ("ahead.csv", "ahead.parquet"):
        done = aimt_here("predict", "run", "future.csv", "-o", name, "--coverage", 0.8, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    made = pd.read_csv(tmp_path / "ahead.csv")
    assert made.columns.tolist() == ["store", "day", "promo", "forecast", "low", "high"]
    pd.testing.assert_frame_equal(
        made.drop(columns="day"), pd.read_parquet(tmp_path / "ahead.parquet").drop(columns="day"), check_dtype=False
    )
    direct = forecast_ahead(run, future=filled).set_index(["store", "day"]).forecast
    direct.index = direct.index.set_levels(direct.index.levels[1].astype(str), level=1)
    np.testing.assert_allclose(made.forecast, direct.loc[list(zip(made.store, made.day.str[:10], strict=True))])
    with_promo = made.promo == 1
    assert made.forecast[with_promo].min() > 70 and (made.forecast[with_promo].mean() - made.forecast[~with_promo].mean()) > 60
    for words, code, says in [
        ("predict run -o x.csv", 2, "Fill in a copy of run/future.csv"),
        ("predict run empty.csv -o x.csv", 1, "row 1, column 'promo': no value"),
        ("predict run sales.csv -o x.csv", 1, "row 1, column 'day': 2024-01-01 is not ahead: the last known value of 'a' is of 2024-03-10"),
        ("predict run future.csv -o x.csv --coverage 1.5", 2, "is not between 0 and 1"),
    ]:
        done = aimt_here(*words.split(), cwd=tmp_path)
        assert done.returncode == code and says.replace("/", os.sep) in done.stderr and not (tmp_path / "x.csv").exists(), done.stderr


def test_weekdays_and_rows_of_a_finer_step_ahead(tmp_path):
    days = pd.date_range("2024-01-01", periods=60, freq="B")
    run = forecast(pd.DataFrame({"day": days, "y": np.arange(60.0)}), target="y", time="day", horizon=5, out=tmp_path / "b", quiet=True)
    ahead = pd.DataFrame({"day": pd.date_range(days[-1], periods=6, freq="B")[1:]})
    made = aimt.predict(run, ahead, quiet=True)
    assert made.day.equals(ahead.day) and np.abs(made.forecast - np.arange(60, 65)).max() < 3
    with pytest.raises(DataError, match="2024-03-23 lies between two steps"):
        aimt.predict(run, pd.DataFrame({"day": ["2024-03-23"]}), quiet=True)
    hours = pd.date_range("2024-01-01", periods=24 * 40, freq="h")
    frame = pd.DataFrame({"hour": hours, "y": 1.0 + (hours.day % 2), "open": (hours.hour > 8).astype(int)})
    run = forecast(frame, target="y", time="hour", freq="day", known_covariates="open", horizon=2, out=tmp_path / "h", quiet=True)
    with pytest.raises(DataError, match="step 1 is there twice. Give one row for each series and day"):
        aimt.predict(run, pd.DataFrame({"hour": hours[-2:] + pd.Timedelta(days=1), "open": 1}), quiet=True)
    assert len(aimt.predict(run, pd.DataFrame({"hour": ["2024-02-11", "2024-02-10"], "open": 1}), quiet=True)) == 2


# ---------------------------------------------------------------------------------------------------- values that came since


@pytest.fixture(scope="module")
def three_stores(tmp_path_factory):
    past = stores(74).groupby("store").head(60)
    out = tmp_path_factory.mktemp("evaluate") / "run"
    return forecast(past, target="sales", time="day", series_id="store", horizon=7, time_limit=1, out=out, quiet=True)


@pytest.mark.parametrize("kind", ["frame", "csv", "shuffled", "last days"])
def test_evaluate_scores_values_of_the_training_apart(three_stores, tmp_path, kind):
    rows = stores(74)
    alone = three_stores.evaluate(rows[rows.day.between("2024-03-01", "2024-03-06")])
    assert alone["n_rows"] == 18 and "trained_on" not in alone
    given = rows[rows.day <= "2024-03-06"].sample(frac=1, random_state=1)
    if kind == "last days":
        given = rows[rows.day.between("2024-02-20", "2024-03-06")]
    found = three_stores.evaluate(given if kind != "csv" else _csv(given, tmp_path / "t.csv"))
    n = int((given.day < "2024-03-01").sum())
    assert found["n_rows"] == 18 and found["trained_on"]["n_rows"] == n
    assert [row["value"] for row in found["table"]] == pytest.approx([row["value"] for row in alone["table"]])
    lines = "\n".join(score_lines(found))
    assert f"{n} other rows are rows that the model was trained on. They are not in these scores" in lines
    assert ("too early to be forecast again" in lines) == (kind != "last days")


def _csv(rows, path):
    rows.assign(day=rows.day.dt.strftime("%Y-%m-%d")).to_csv(path, index=False)
    return path


def test_evaluate_of_the_training_alone_says_so(three_stores):
    found = three_stores.evaluate(stores(60).query("day >= '2024-02-20'"))
    assert "The model was trained on all 30 of these rows" in "\n".join(score_lines(found))
    with pytest.raises(DataError, match="too early to be forecast again"):
        three_stores.evaluate(stores(10))


def test_evaluate_counts_what_it_leaves_out(three_stores):
    rows = pd.concat([stores(74), daily(74).assign(store="new")])
    said = " ".join(three_stores.evaluate(rows)["warnings"])
    assert "74 rows are of series that were not there in training ('new')" in said
    assert "21 values are more than 7 steps after the training" in said
    with pytest.raises(ProblemError, match="--permutations"):
        three_stores.evaluate(rows, permutations=99)
    with pytest.raises(DataError, match="'sales'"):
        three_stores.evaluate(rows.drop(columns="sales"))
    with pytest.raises(DataError, match="two values"):
        three_stores.evaluate(pd.concat([stores(66), stores(66)]))


def test_evaluate_of_summed_values_and_a_column_known_ahead(tmp_path):
    rows = daily(70).assign(promo=lambda d: np.arange(70) % 3 == 0)
    twice = pd.concat([rows.assign(sales=rows.sales // 2), rows.assign(sales=rows.sales - rows.sales // 2)])
    options = {"target": "sales", "time": "day", "horizon": 7, "known_covariates": "promo", "time_limit": 1, "quiet": True}
    plain = forecast(rows[:60], out=tmp_path / "a", **options).evaluate(rows[50:66], coverage=0.8)
    summed = forecast(twice[twice.day <= rows.day[59]], freq="day", out=tmp_path / "b", **options)
    assert summed.evaluate(twice[twice.day.between(rows.day[50], rows.day[65])], coverage=0.8)["table"] == plain["table"]
    assert (plain["n_rows"], plain["trained_on"]["n_rows"]) == (6, 10) and "q10 to q90" in plain["table"][-1]["label"]
