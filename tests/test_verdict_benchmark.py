"""The verdict benchmark runs, resumes and tells: an honest table beside one whose target is shuffled."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def verdicts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import verdicts

    return verdicts


def test_an_honest_table_and_noise(verdicts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "lines.jsonl"
    words = f"verdicts.py --out {out} --tables german_credit --seeds 1 --rows 500 --time-limit 1 --scenarios honest noise"
    monkeypatch.setattr(sys, "argv", words.split())
    verdicts.main()
    honest, noise = map(json.loads, out.read_text().splitlines())
    told = capsys.readouterr().out
    assert "2 trials of 1 tables" in told and "planted faults that SHIP" in told
    assert honest["verdict"] in ("SHIP", "NOT YET") and noise["gates"]["score"] != "pass" and noise["verdict"] != "SHIP"
    kinds = {i["kind"] for i in honest["intervals"]}
    assert kinds >= {"score", "gain over the prior", "value per 1,000", "value over no model", "observed to expected", "fault in a group"}
    assert all(i["ratio"] <= 0.25 for i in honest["intervals"] if i["kind"] != "fault in a group")
    assert 0.8 < honest["conformal"] <= 1
    verdicts.main()  # nothing is left to run
    assert len(out.read_text().splitlines()) == 2 and capsys.readouterr().out == told


def test_scenarios_plant_what_they_say(verdicts):
    from leaks import tables
    from planted import SCENARIOS, pool_of

    name, frame, target = next(t for t in tables([]) if t[0] == "german_credit")
    trials = {scenario: about.plant(pool_of(name, frame, target, 400, 0, scenario)) for scenario, about in SCENARIOS.items()}
    for scenario, trial in trials.items():
        assert 350 <= len(trial.given) <= 400, scenario
        again = SCENARIOS[scenario].plant(pool_of(name, frame, target, 400, 0, scenario))
        assert trial.given.equals(again.given), scenario
    honest = trials["honest"]
    assert len(honest.reserve) >= len(honest.given) and not set(honest.given.index) & set(honest.reserve.index)
    entity = trials["honest, entity given"]
    assert (entity.given["person"].value_counts() == 4).all() and not set(entity.given["person"]) & set(entity.reserve["person"])
    assert "person" not in trials["entity not given"].given
    timed = trials["honest, time given"]
    assert (timed.given["when"] >= 750).sum() == 100 and timed.reserve["when"].min() >= 750
    rare = SCENARIOS["honest, rare class"].plant(pool_of(name, frame, target, 300, 0, "honest, rare class"))
    assert all(0.005 < part[target].value_counts(normalize=True).min() < 0.045 for part in (rare.given, rare.reserve))


def test_an_interval_is_widened_for_the_reserve(verdicts):
    interval = verdicts.Interval("score", value=0.0, low=-1.0, high=1.0, truth=1.1, ratio=0.25)
    assert interval.contains() and not interval.contains(widen=False)
