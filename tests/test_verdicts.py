"""Verdicts that must be earned, for every kind of model: noise, random walks, copies and seen tests do not SHIP; honest models do."""

import json

import numpy as np
import pandas as pd
import pytest

from aimt.data.series.panel import Panel, airline_passengers
from aimt.data.series.time_step import TimeStep
from aimt.core.problem import Problem
from aimt.decide.series_gates import ForecastLimits, baseline_gate, coverage_gate, forecast_verdict, width_gate
from aimt.decide.table_gates import table_gates
from aimt.decide.text_gates import text_verdict
from aimt.decide.finetune_gates import Figure, TunedLimits, pretraining_gate, tuned_verdict
from aimt.evaluate.text.language_model import block_gain, copied, near_copies, seen_share, text_sketch
from aimt.jobs.verbs.train import train
from aimt.metrics.intervals import clustered_interval, mean_interval
from aimt.models.table.baselines import PriorModel, smoothed_shares
from aimt.models.series.backtest import SIMPLE, backtest, simple_forecasts, told_ahead
from aimt.models.series.forecaster import Forecaster
from aimt.models.text.ngram import NGram

pytestmark = pytest.mark.usefixtures("no_drawing")

DAY, MONTH = TimeStep("tick", 86_400_000_000), TimeStep("month")
WEEK = np.array([5.0, 5, 6, 7, 9, 12, 3])


def forecast(source, **options):
    return train(source, kind="series", **options)


def panel(values, step=DAY, known=None, holes=None) -> Panel:
    k = len(values)
    return Panel(
        [f"s{i}" for i in range(k)],
        [np.asarray(v, float) for v in values],
        [0] * k,
        step,
        known=[x[:, None] for x in known or []],
        known_names=["x"] if known else [],
        holes=holes or [np.zeros(len(v), bool) for v in values],
    )


def verdict_of(p: Panel, attested=None, trees=True) -> dict:
    H, n = p.step.season, len(p.values[0])
    judged = backtest(Forecaster(trees=trees), p, H, n_origins=min(8, (n - n // 3) // H))
    return forecast_verdict(judged, p, 0.9, season=H, horizon=H, attested=attested)


def status(verdict: dict) -> dict[str, str]:
    return {g["gate"]: g["status"] for g in verdict["gates"]}


# ---------------------------------------------------------------------------------------------------- many classes


@pytest.mark.parametrize("shares", [np.ones(50), np.r_[np.ones(25), 2 * np.ones(25)], 1 / np.arange(1, 31)])
def test_the_trivial_answer_is_hard_to_beat_by_another_one(shares):
    """Counts of few rows per class are mostly noise: an answer that only smooths them more must not beat the prior on new rows."""
    rng, p, gains = np.random.default_rng(0), shares / shares.sum(), []
    for _ in range(60):
        y = rng.choice(len(p), 400, p=p)
        prior = PriorModel("multiclass", len(p)).fit(pd.DataFrame(index=range(400)), y).predict_raw(pd.DataFrame(index=range(1)))[0]
        counts = np.bincount(y, minlength=len(p))
        for a in (0.5, 2.0, 10.0, 1e6):
            other = (counts + a) / (counts + a).sum()
            gains.append((a, float(p @ (np.log(other) - np.log(prior)))))
    mean = pd.DataFrame(gains).groupby(0)[1].mean()
    assert mean.max() < 0.004, mean


def test_the_prior_of_few_rows_stays_a_distribution():
    for counts in ([0, 0, 0], [1, 0, 0], [5], [400, 600], [0, 1]):
        shares = smoothed_shares(np.array(counts))
        assert shares.sum() == pytest.approx(1) and (shares > 0).all()
    assert smoothed_shares(np.array([400, 600])) == pytest.approx([0.4, 0.6], abs=0.005)
    assert np.argmax(smoothed_shares(np.array([499, 501]))) == 1


# ---------------------------------------------------------------------------------------------------- intervals


def test_values_at_one_origin_are_not_independent():
    rng = np.random.default_rng(0)
    series, origin, held = np.repeat(np.arange(30), 5), np.tile(np.arange(5), 30), [0, 0]
    for _ in range(200):
        d = rng.normal(size=5)[origin] + 0.5 * rng.normal(size=150)
        for i, found in enumerate((clustered_interval(d, series, origin), mean_interval(d))):
            held[i] += found["low"] <= 0 <= found["high"]
    assert held[0] >= 0.92 * 200 and held[1] < 0.5 * 200
    assert clustered_interval(d, origin, np.zeros(150))["high"] == np.inf  # all values in one cluster: nothing is known


# ---------------------------------------------------------------------------------------------------- forecasts

FAULTY = {
    "random walk": lambda r: panel([r.normal(size=150).cumsum()]),
    "random walk with drift": lambda r: panel([(0.1 + r.normal(size=150)).cumsum()]),
    "white noise": lambda r: panel([10 + r.normal(size=150)]),
    "shuffled season": lambda r: panel([r.permutation(np.tile(WEEK, 22) + r.normal(size=154))]),
    "copy as known": lambda r: panel([y := r.normal(size=150).cumsum()], known=[y + 0.1 * r.normal(size=150)]),
    "next value as known": lambda r: panel([y := r.normal(size=150).cumsum()], known=[np.append(y[1:], y[-1])]),
    "scaled copy as known": lambda r: panel([y := np.tile(WEEK, 22) + r.normal(size=154)], known=[-1000 * y + 5]),
    "level shift": lambda r: panel([20 + np.tile(WEEK, 22) + r.normal(size=154) + 30 * (np.arange(154) >= 144)]),
}


@pytest.mark.parametrize("name", FAULTY)
def test_planted_faults_of_forecasts_do_not_ship(name):
    verdicts = [verdict_of(FAULTY[name](np.random.default_rng([3, i])), trees=False)["verdict"] for i in range(2)]
    assert "SHIP" not in verdicts, verdicts


def test_honest_forecasts_ship():
    rng, week = np.random.default_rng(0), np.tile(WEEK, 28)
    trend = [verdict_of(panel([0.2 * np.arange(196) + 3 * week + rng.normal(0, 2, 196)]), trees=False)["verdict"] for _ in range(2)]
    assert trend.count("SHIP") >= 1 and "HOLD" not in trend, trend
    x = rng.uniform(0, 1, 196)
    driven = panel([50 + 3 * week + 20 * x + rng.normal(0, 2, 196)], known=[x])
    found = backtest(Forecaster(trees=False), driven, 7, n_origins=8)
    word = lambda attested: forecast_verdict(found, driven, 0.9, season=7, horizon=7, attested=attested)["verdict"]
    assert word(None) == "NOT YET"  # it tells most of the target: a person has to say that it is known ahead
    assert word({"x": "the price list of the month"}) == "SHIP" and word({"y": "another column"}) == "NOT YET"


def judged(**changes) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "series": np.repeat([f"s{i}" for i in range(10)], 6),
            "origin": np.tile(range(6), 10),
            "mase": rng.normal(0.8, 0.1, 60),
            **{name: rng.normal(1.2, 0.1, 60) for name in SIMPLE},
            "coverage": rng.choice([0.8, 1.0], 60),
            "inner": 0.6,
        }
    )
    return frame.assign(**changes)


@pytest.mark.parametrize("rival", SIMPLE)
def test_every_simple_forecast_has_to_be_beaten(rival):
    limits = ForecastLimits()
    assert baseline_gate(judged(), limits).status == "pass"
    lost = baseline_gate(judged(**{rival: 0.79}), limits)
    assert lost.status == "hold" and rival in lost.text and rival in lost.advice


def test_gain_of_one_series_alone_is_not_proven():
    frame = judged(**{name: lambda d: d["mase"] + np.where(d["series"] == "s3", 6.0, 0.05) for name in SIMPLE})
    found = baseline_gate(frame, ForecastLimits())
    assert found.status == "not yet" and found.value > 0.5


@pytest.mark.parametrize(
    ("coverage", "inner", "expected"),
    [(0.9, 0.6, ("pass", "pass")), (0.6, 0.3, ("hold", "pass")), (1.0, 0.97, ("pass", "hold")), (0.72, 0.5, ("hold", "pass"))],
)
def test_coverage_is_judged_on_both_sides(coverage, inner, expected):
    rng = np.random.default_rng(1)
    frame = judged(coverage=np.clip(rng.normal(coverage, 0.02, 60), 0, 1), inner=np.clip(rng.normal(inner, 0.02, 60), 0, 1))
    limits = ForecastLimits()
    assert (coverage_gate(frame, 0.9, 12, limits).status, width_gate(frame, 0.9, limits).status) == expected


def test_few_windows_exclude_nothing():
    few = judged(coverage=1.0).query("origin < 1")
    assert coverage_gate(few, 0.9, 6, ForecastLimits()).status == "not yet"
    assert baseline_gate(few, ForecastLimits()).status == "not yet"


def test_steps_that_were_filled_in_are_not_tested():
    y = np.tile(WEEK, 20) + np.random.default_rng(0).normal(size=140)
    holes = np.arange(140) >= 135
    wrong = np.where(holes, 1e6, y)
    found = backtest(Forecaster(trees=False), panel([wrong], holes=[holes]), 7, n_origins=1)
    assert found["mase"][0] < 5
    gone = panel([y], holes=[np.arange(140) % 3 == 0])
    assert status(verdict_of(gone, trees=False))["gaps"] == "hold"


def test_counts_that_are_mostly_zero_are_not_called_too_wide():
    y = np.random.default_rng(0).poisson(0.05, 200)
    found = backtest(Forecaster(trees=False), panel([y]), 7, n_origins=8)
    assert width_gate(found, 0.9, ForecastLimits()).status == "pass"


def test_what_is_told_ahead_is_measured_in_surprises():
    rng, week = np.random.default_rng(0), np.tile(WEEK, 30)
    y = week + rng.normal(size=210).cumsum()
    told = lambda x: float(told_ahead(panel([y], known=[x]), 7, 7)["told"][0])
    assert told(week) < 0.1 and told(np.arange(210.0)) < 0.1 and told(rng.normal(size=210)) < 0.1  # the calendar tells nothing new
    assert told(y) > 0.99 and told(5 - 2 * y) > 0.99 and told(np.append(y[3:], [0, 0, 0])) > 0.9
    levels = pd.qcut(np.diff(y, prepend=y[0]), 4, labels=False)  # a band of the change of today
    assert told_ahead(panel([y], known=[levels.astype(float)]), 1, 7)["told"][0] > 0.3


def test_simple_forecasts_by_hand():
    made = simple_forecasts([np.array([1.0, 2.0, 3.0, 6.0])], 2, 2)
    assert {k: v.tolist() for k, v in made.items()} == {
        "last value": [[6, 6]],
        "last season": [[3, 6]],
        "drift": [[6 + 5 / 3, 6 + 10 / 3]],
        "mean": [[3, 3]],
    }


def test_the_job_ships_the_airline_and_not_a_walk(tmp_path):
    run = forecast(airline_passengers(), target="passengers", time="month", horizon=12, out=tmp_path / "airline", quiet=True)
    metrics = run.read("metrics.json")
    assert metrics["verdict"]["verdict"] == "SHIP" and metrics["scores"]["n_origins"] == 8
    assert set(metrics["scores"]["simple_mase"]) == set(SIMPLE)
    for seed in range(2):
        walk = pd.DataFrame(
            {"day": pd.date_range("2024-01-01", periods=120), "price": 100 + np.random.default_rng(seed).normal(size=120).cumsum()}
        )
        run = forecast(walk, target="price", time="day", horizon=5, out=tmp_path / f"walk{seed}", quiet=True)
        assert run.read("metrics.json")["verdict"]["verdict"] != "SHIP"


# ---------------------------------------------------------------------------------------------------- texts

TEXT = {
    "scores": {"bits_per_character": 1.904},
    "train_scores": {"bits_per_character": 1.75},
    "findings": [],
    "kept": 1.904,
    "evals": [2.4, 2.0, 1.904],
    "baseline": {
        "name": "5-gram",
        "bits_per_character": 2.1,
        "gain": {"value": 0.2, "low": 0.15, "high": 0.25, "blocks": 30, "correlation": 0.0},
    },
    "copies": {
        "samples": {"value": 0.0, "low": 0.0, "high": 0.05, "samples": 16, "windows": 96},
        "length": 50,
        "held_out": {"value": 0.0, "low": 0.0, "high": 0.002, "samples": 30, "windows": 2000},
    },
}


@pytest.mark.parametrize("bits", [1.9, 1.829, 1.5, 1.0])
@pytest.mark.parametrize("seen", [1.7, 1.2, 0.3])
def test_more_training_that_helps_on_new_text_never_makes_a_verdict_worse(bits, seen):
    better = 2.1 - bits
    changes = {
        "scores": {"bits_per_character": bits},
        "train_scores": {"bits_per_character": seen},
        "kept": bits,
        "evals": [2.4, 2.0, 1.904, bits],
        "baseline": TEXT["baseline"] | {"gain": TEXT["baseline"]["gain"] | {"value": better, "low": better - 0.05, "high": better + 0.05}},
    }
    assert text_verdict(**TEXT)["verdict"] == "SHIP" == text_verdict(**TEXT | changes)["verdict"]


def test_a_model_that_became_worse_on_new_text_is_held():
    found = text_verdict(**TEXT | {"kept": 2.0, "evals": [2.4, 1.904, 2.0]})
    assert found["verdict"] == "HOLD" and status(found)["harm"] == "hold"


def test_copies_need_enough_windows():
    rng = np.random.default_rng(0)
    book = "".join(rng.choice(list("abcdefgh "), 30_000))
    own = ["".join(rng.choice(list("abcdefgh "), 300)) for _ in range(16)]
    verdict = lambda samples: status(text_verdict(**TEXT | {"copies": TEXT["copies"] | {"samples": copied(samples, book)}}))["copies"]
    assert verdict(own) == "pass" and verdict(own[:2]) == "not yet"
    assert verdict([book[i * 1000 : i * 1000 + 300] for i in range(16)]) == "hold"


def test_noise_is_no_better_than_counting_characters():
    """A 5-gram loses to anything on noise, so the hardest n-gram is the rival: here that of order 1."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 27, 20_000)
    counted = NGram(5).fit(codes[:18_000], 27)
    bits = {k: -np.log2(counted.likelihoods(codes[18_000:], k)).mean() for k in (1, 3, 5)}
    assert bits[1] == pytest.approx(np.log2(27), abs=0.01) and bits[3] > bits[1] + 0.1 and bits[5] > bits[1] + 0.1
    assert counted.likelihoods(codes[:100], 3) == pytest.approx(NGram(3).fit(codes[:18_000], 27).likelihoods(codes[:100]))


def test_the_gain_is_measured_in_blocks():
    rng = np.random.default_rng(0)
    hard = rng.normal(300, 80, 30)
    assert block_gain(hard, hard + 5, [200] * 30)["low"] > 0
    assert block_gain(hard, hard + rng.normal(0, 5, 30), [200] * 30)["low"] < 0
    assert block_gain([1.0, 2.0], [2.0, 3.0], [100, 100])["low"] == -np.inf


@pytest.mark.parametrize("kind", ["noise", "repeated"])
def test_a_text_without_merit_does_not_ship(tmp_path, kind):
    pytest.importorskip("torch")
    from aimt.jobs.verbs.train import train as train_on_text

    rng = np.random.default_rng(0)
    noise = lambda n: "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz ,."), n))
    path = tmp_path / "some.txt"
    path.write_text(noise(12_000) if kind == "noise" else noise(800) * 15)
    run = train_on_text(path, out=tmp_path / "run", size="nano", steps=4, quiet=True)
    found = run.read("metrics.json")["verdict"]
    assert found["verdict"] != "SHIP"
    assert status(found)["baseline" if kind == "noise" else "repeats"] == "hold"
    sketch = json.loads((run.path / "seen.json").read_text())
    assert seen_share([path.read_text()[:500]], sketch)["value"] == 1


# ---------------------------------------------------------------------------------------------------- fine-tunings


def tuned(**changes) -> dict:
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 300)
    answers = np.where(rng.random(300) < 0.9, truth, "a")
    usual = {
        "figure": Figure("accuracy"),
        "before": (rng.random(300) < 0.4).astype(float),
        "after": (answers == truth).astype(float),
        "baselines": {"words": (rng.random(300) < 0.7).astype(float)},
        "answers": answers.tolist(),
        "truth": truth.tolist(),
        "lost": None,
        "findings": [],
        "near": np.zeros(300, bool),
    }
    return tuned_verdict(**usual | changes)


def test_an_honest_fine_tuning_ships_and_says_what_was_not_checked():
    found = tuned()
    assert found["verdict"] == "SHIP" and "Not checked: pretraining, forgotten" in found["summary"]
    gate = next(g for g in found["gates"] if g["gate"] == "pretraining")
    assert "not known" in gate["text"]


@pytest.mark.parametrize(
    ("changes", "gate", "expected"),
    [
        ({"after": np.zeros(300)}, "gain", "hold"),
        ({"answers": ["a"] * 300}, "collapse", "hold"),
        ({"near": np.arange(300) < 90}, "near-duplicates", "hold"),
        ({"seen": {"value": 0.6, "low": 0.5, "high": 0.7}, "base": "aimt"}, "pretraining", "hold"),
        ({"lost": {"before": 0.9, "after": 0.7, "change": -0.2, "low": -0.25, "high": -0.15}}, "forgotten", "hold"),
        ({"lost": {"before": 0.9, "after": 0.89, "change": -0.01, "low": -0.3, "high": 0.28}}, "forgotten", "not yet"),
        ({"baselines": {}}, "baseline", "not yet"),
    ],
)
def test_planted_faults_of_fine_tunings_do_not_ship(changes, gate, expected):
    found = tuned(**changes)
    assert found["verdict"] != "SHIP" and status(found)[gate] == expected


def test_repeated_inputs_count_once():
    rng = np.random.default_rng(2)
    after, before = (np.repeat((rng.random(15) < p).astype(float), 20) for p in (0.75, 0.5))
    groups = np.repeat(np.arange(15), 20)
    alone, together = (tuned(after=after, before=before, baselines={"words": before}, groups=g) for g in (None, groups))
    width = lambda v: v["gates"][0]["high"] - v["gates"][0]["low"]
    assert width(together) > 3 * width(alone)


def test_three_examples_that_are_right_prove_nothing():
    found = Figure("accuracy").difference(np.ones(3), np.zeros(3))
    assert found["value"] == 1 and found["low"] < 0


def test_a_sketch_tells_what_was_seen():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 9))) for _ in range(500)]
    write = lambda n: " ".join(rng.choice(words, n))
    texts = [write(20_000) for _ in range(3)]
    sketch = text_sketch(texts)
    assert len(sketch["hashes"]) <= 20_000
    old, new = [texts[i % 3][i * 1000 : i * 1000 + 400] for i in range(60)], [write(60) for _ in range(60)]
    assert seen_share(old, sketch)["value"] == 1 and seen_share(new, sketch)["value"] == 0
    assert seen_share(["  ".join(o.upper().split()) for o in old], sketch)["value"] > 0.9  # capitals and spaces do not hide it
    half = seen_share(old[:30] + new[:30], sketch)
    assert half["low"] < 0.5 < half["high"] and half["high"] - half["low"] < 0.5
    grown = text_sketch([write(20_000) for _ in range(4)], base=sketch)
    assert seen_share(old, grown)["value"] == 1, "what was learned first stays in the sketch"
    assert pretraining_gate(half, "aimt", TunedLimits()).status == "hold"


def test_near_copies_are_found_and_short_texts_are_not():
    text = "the parcel that was ordered on monday has not arrived at our door, and nobody answers the telephone"
    asked = [text + "!", "Dear all, " + text, "another sentence about something that is entirely different from the rest", "yes"]
    assert near_copies(asked, [text, "yes"]).tolist() == [True, True, False, True]


def test_too_few_events_do_not_prove_that_there_is_no_gain():
    """Six events: the test is called too small, so a gain of -0.002 [-0.015, 0.011] is undecided, and a proven loss still holds."""
    problem = Problem("binary", "ill", ["x"], "log_loss", ["no", "yes"])
    decision = {"threshold": 0.5, "confusion": {"tp": 2, "fn": 4, "fp": 9, "tn": 385}}
    for high, expected in ((0.011, "not yet"), (-0.001, "hold")):
        gain = {"value": -0.002, "low": -0.015, "high": high}
        scores = {"metric": "log_loss", "n_rows": 400, "difference_to_prior": gain}
        found = {
            g.gate: g for g in table_gates(problem, {"findings": []}, scores, decision=decision | {"gain": gain | {"against": "none"}})
        }
        assert found["data"].status == "not yet" and "only 6 rows" in found["data"].text
        assert (found["score"].status, found["value"].status) == (expected, expected)
    enough = decision | {"confusion": {"tp": 40, "fn": 40, "fp": 9, "tn": 311}}
    assert {g.gate: g for g in table_gates(problem, {"findings": []}, scores, decision=enough)}["score"].status == "hold"
