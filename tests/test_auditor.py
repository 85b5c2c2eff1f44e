"""What an auditor asks: how often the test was used, at which costs the decision flips, which inputs are fragile, and who signs."""

import json
import os
import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.errors import RunError
from aimt.core.ledger import LEDGER, MOST_LEDGER, count_looks, note_look, read_ledger
from aimt.core.problem import Problem
from aimt.core.run import Run
from aimt.decide.cost_sensitivity import cost_sensitivity, scenarios
from aimt.decide.threshold import decision_report
from aimt.jobs.verbs.compare import compare_runs

pytestmark = pytest.mark.usefixtures("no_drawing")


def table(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Two classes that `x` tells apart, and a column that says nothing."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n))
    return pd.DataFrame({"x": x, "noise": noise, "y": np.where(x + 0.4 * rng.normal(size=n) > 0, "yes", "no")})


def trained(frame: pd.DataFrame, place, **options) -> Run:
    return aimt.train(frame, target="y", sensitive_features="none", out=place, time_limit=1, quiet=True, **options)


def counts(run: Run) -> tuple[int, int, int]:
    """Looks at the test rows, models that were scored on them, and models that were scored on other test rows of the table."""
    looked = run.read("metrics.json")["reuse"]
    found = count_looks(run.path, looked["rows"], looked["data"])
    return found.looks, found.models, found.other_models


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trainings on the same split, with an evaluation between them, and one with another seed."""
    folder, frame = tmp_path_factory.mktemp("runs"), table()
    first = trained(frame, folder / "first", cost="fn=5,fp=1")
    first.evaluate(frame)  # the whole table, and so its test rows too
    second = trained(frame, folder / "second", cost="fn=5,fp=1")
    other = trained(frame.copy(), folder / "other", seed=1)
    return frame, first, second, other


def test_the_ledger_counts_each_training_and_each_evaluation(runs):
    _, first, second, other = runs
    looks = read_ledger(first.path)[0]
    assert [look.verb for look in looks] == ["train", "evaluate"] and {look.model for look in looks} == {first.id}
    assert counts(first) == counts(second) == (3, 2, 1) and counts(other) == (1, 1, 2)


def test_the_verdict_allows_for_the_trainings_before_it(runs):
    _, first, second, other = runs
    known = [run.read("metrics.json")["reuse"]["choices"] for run in (first, second, other)]
    assert known == [1, 2, 3]
    gates = [{g["gate"]: g for g in run.read("metrics.json")["verdict"]["gates"]} for run in (first, second)]
    assert "corrected" not in gates[0]["score"]["limit_text"] and "corrected for 2 models" in gates[1]["score"]["limit_text"]
    plain = second.read("metrics.json")["scores"]["difference_to_prior"]
    assert gates[1]["score"]["low"] < plain["low"] and gates[1]["score"]["value"] == plain["value"]
    assert gates[1]["calibration"]["limit"] == pytest.approx(gates[0]["calibration"]["limit"], rel=0.5)  # faults are not corrected
    assert "corrected" not in gates[1]["calibration"]["limit_text"]


def test_a_report_that_is_built_again_knows_of_later_trainings(runs):
    _, first, _, _ = runs
    first.report()
    section = next(s for s in json.loads((first.path / "report.json").read_text())["sections"] if s["id"] == "reuse")
    said = " ".join(section["text"])
    assert "scored 3 times (train 2, evaluate 1), for 2 trained models" in said and "1 further model of the same question" in said
    assert "Since the verdict 2 further models were scored" in said and "Gaussian maximal inequality" in said
    assert [row[1:3] for row in section["tables"][0]["rows"]] == [["first", "train"], ["first", "evaluate"], ["second", "train"]]
    assert "scored 3 times" in (first.path / "card.md").read_text()


def test_a_comparison_is_a_look_for_each_of_its_runs(tmp_path):
    frame = table(seed=2)
    both = [trained(frame, tmp_path / name) for name in ("a", "b")]
    compare_runs(*both)
    assert [[look.verb for look in read_ledger(run.path)[0]] for run in both] == [["train", "compare"]] * 2
    assert counts(both[0]) == (4, 2, 0)


def test_fresh_rows_are_counted_apart(runs):
    frame, first, second, _ = runs
    before, fresh = counts(first), table(seed=9)
    scores = [run.evaluate(fresh)["reuse"] for run in (first, second)]
    assert scores == [{"looks": 1, "models": 1}, {"looks": 2, "models": 2}] and counts(first) == before
    from aimt.jobs.verbs.evaluate import score_lines

    assert any("scored 3 times, for 2 models" in line for line in score_lines(second.evaluate(fresh)))


def test_training_again_in_the_same_place_does_not_make_the_test_new(tmp_path):
    frame = table(seed=3)
    first = trained(frame, tmp_path / "run")
    again = trained(frame, tmp_path / "run", overwrite=True)
    assert again.id != first.id and counts(again) == (2, 2, 0)
    assert again.read("metrics.json")["reuse"]["choices"] == 2


def test_a_resumed_training_is_another_look_of_the_same_model(tmp_path, monkeypatch):
    frame = table(seed=4)
    monkeypatch.setattr("aimt.jobs.steps.table_evaluate.more_data", lambda work: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trained(frame, tmp_path / "run")
    assert len(read_ledger(tmp_path / "run")[0]) == 1  # the scores were shown before it stopped
    monkeypatch.undo()
    run = trained(frame, tmp_path / "run", resume=True)
    assert counts(run) == (2, 1, 0) and run.read("metrics.json")["reuse"]["choices"] == 1


def test_doctored_ledgers_do_no_harm(tmp_path):
    frame = table(seed=5)
    run = trained(frame, tmp_path / "runs" / "run")
    before, looked = counts(run), run.read("metrics.json")["reuse"]
    line = json.dumps(asdict(read_ledger(run.path)[0][0]))
    lines = {
        "not json": "{",
        "another type": line.replace(run.id, "1").replace('"n": ', '"n": "'),
        "markup": re.sub('"verb": "train"', '"verb": "<b>"', line),
        "an infinite count": re.sub(r'"n": \d+', '"n": Infinity', line),
        "a field more": line.replace("{", '{"x": 1, '),
        "bytes": "\ud800",
        "deep": "[" * 10**5,
        "long": "y" * (3 * MOST_LEDGER),
    }
    for i, content in enumerate(lines.values()):
        place = tmp_path / "runs" / f"doctored-{i}"
        place.mkdir()
        (place / LEDGER).write_bytes(content.encode("utf-8", "surrogatepass"))
    outside = tmp_path / "outside"
    outside.mkdir()
    note_look(outside, "train", model="a" * 12, rows=looked["rows"], data=looked["data"], n=1)
    if os.name == "posix":
        (tmp_path / "runs" / "link").symlink_to(outside)
        (tmp_path / "runs" / "fifo").mkdir()
        os.mkfifo(tmp_path / "runs" / "fifo" / LEDGER)
    assert counts(run) == before
    found = count_looks(run.path, looked["rows"], looked["data"])
    assert found.left_out == len(lines)
    run.report()
    assert "<b>" not in (run.path / "report.html").read_text().split("</style>")[1]
    assert f"{len(lines)} lines in the ledgers of this folder" in (run.path / "report.html").read_text()
    assert trained(frame, tmp_path / "runs" / "next").read("metrics.json")["reuse"]["choices"] == 2


def test_a_ledger_that_cannot_be_written_is_said_and_a_link_is_not_written_through(tmp_path):
    run = trained(table(seed=6), tmp_path / "run")
    (run.path / LEDGER).unlink()
    (run.path / LEDGER).mkdir()
    assert any("could not be written into the ledger" in text for text in run.evaluate(table(seed=7))["warnings"])
    (run.path / LEDGER).rmdir()
    if os.name == "posix":
        (run.path / LEDGER).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="link"):
            note_look(run.path, "evaluate", model=run.id, rows="0", data="0", n=1)
        with pytest.raises(RunError, match="link"):
            Run.open(run.path)
        assert not (tmp_path / "elsewhere").exists()


def test_the_same_answers_that_are_judged_twice_are_one_model(tmp_path):
    rng = np.random.default_rng(0)
    y = (rng.random(200) < 0.4).astype(int)
    scored = pd.DataFrame({"outcome": np.where(y, "yes", "no"), "p": np.clip(0.4 * y + 0.5 * rng.random(200), 0, 1)})
    ask = {"actual": "outcome", "probability": "p", "positive_label": "yes", "quiet": True}
    judged = [aimt.judge(scored, out=tmp_path / name, **ask) for name in ("a", "b")]
    assert counts(judged[1]) == (2, 1, 0)
    better = scored.assign(p=np.clip(scored["p"] + 0.05 * y, 0, 1))
    judged.append(aimt.judge(better, out=tmp_path / "c", **ask))
    assert counts(judged[2])[:2] == (3, 2)


def test_a_forecast_writes_its_look_down(tmp_path):
    days = pd.date_range("2026-01-01", periods=90)
    sold = pd.DataFrame({"day": days, "n": 10 + np.sin(np.arange(90) * 2 * np.pi / 7) + 0.1 * np.arange(90)})
    run = aimt.train(sold, kind="series", target="n", time="day", horizon=7, out=tmp_path / "run", time_limit=5, quiet=True)
    assert counts(run) == (1, 1, 0)
    assert "scored once" in (run.path / "card.md").read_text()


LOANS = Problem("binary", "default", ["x"], "roc_auc", labels=["good", "bad"], cost={"fn": 100.0, "fp": 20.0})


def test_the_decision_flips_where_it_is_computed_to():
    """Per ten rows the model misses one of three, without a false alarm: it gains 140 - c over treating all, at a cost c of a miss."""
    y, p = np.tile([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 2000), np.tile([0.9, 0.9, 0.1, *[0.1] * 7], 2000)
    found = cost_sensitivity(LOANS, decision_report(LOANS, y, p, y, p), y, p, y, p)
    region = next(r for r in found["regions"] if r["outcome"] == "fn")
    error = lambda c: np.sqrt((c**2 + 2800) / 10 - ((140 - c) / 10) ** 2) / np.sqrt(len(y))
    flip = next(c for c in np.arange(100, 141, 0.05) if (140 - c) / 10 < 1.96 * error(c))
    assert region["above"] == pytest.approx(flip, rel=0.015) and region["above_status"] == "not yet"
    assert f"when a false negative, now 100, costs more than {region['above']:.0f} (to 'not yet')" in found["message"]
    measure = scenarios(y, p, y, p)
    assert [measure({"fn": c, "fp": 20.0}).status for c in (flip - 3, flip + 2, 141.0)] == ["pass", "not yet", "hold"]


def test_only_ratios_of_costs_matter():
    rng = np.random.default_rng(1)
    y = (rng.random(500) < 0.3).astype(int)
    p = np.clip(0.3 + 0.3 * (y - 0.3) + 0.15 * rng.normal(size=500), 0.01, 0.99)
    grid = {(g["fn"], g["fp"]): g for g in cost_sensitivity(LOANS, decision_report(LOANS, y, p, y, p), y, p, y, p)["grid"]}
    for factors in ((0.5, 0.5), (2.0, 2.0)):
        assert grid[factors]["threshold"] == pytest.approx(grid[1.0, 1.0]["threshold"])
        assert grid[factors]["value"] == pytest.approx(factors[0] * grid[1.0, 1.0]["value"])
        assert grid[factors]["status"] == grid[1.0, 1.0]["status"]


def test_a_model_that_depends_on_one_column_is_named_fragile_in_report_and_card(runs):
    _, first, _, _ = runs
    found = first.read("metrics.json")["robustness"]
    assert found["fragile"] == ["x"] and found["columns"][0]["column"] == "x"
    lost = {row["fault"]: row["value"] for row in found["trials"] if row["column"] == "x"}
    assert lost["30 % missing"] > lost["5 % missing"] >= 0
    card, html = (first.path / "card.md").read_text(), (first.path / "report.html").read_text()
    assert "- Warning, robustness: The model depends most fragilely on 'x'" in card and "depends most fragilely on &#39;x&#39;" in html


def test_the_sign_off_names_run_data_and_model(runs):
    _, first, second, _ = runs
    blocks = {}
    for run in (first, second):
        sections = json.loads((run.path / "report.json").read_text())["sections"]
        assert sections[-1]["id"] == "sign-off"
        facts, stated, people = sections[-1]["tables"]
        blocks[run.id] = dict(facts["rows"])
        assert people["blank"] and [row[0] for row in people["rows"]][1] == "Independent reviewer" and people["head"][-1] == "Signature"
        assert stated["rows"][0][0] == "Nothing" and run.id in (run.path / "card.md").read_text()
    a, b = blocks[first.id], blocks[second.id]
    assert a["Run"] != b["Run"] and a["Model (SHA-256)"] != b["Model (SHA-256)"]
    assert (
        a["Data (SHA-256)"] == b["Data (SHA-256)"] == first.info["data"]["fingerprint"]
        and a["Test rows (SHA-256)"] == b["Test rows (SHA-256)"]
    )


def test_the_card_names_each_gate_that_did_not_pass(tmp_path):
    rng = np.random.default_rng(8)
    run = trained(pd.DataFrame({"x": rng.normal(size=300), "y": rng.choice(["yes", "no"], 300)}), tmp_path / "noise")
    gates = run.read("metrics.json")["verdict"]["gates"]
    card = (run.path / "card.md").read_text()
    findings = card[card.index("## Findings") : card.index("## Sign-off")]
    words = {"hold": "failed", "not yet": "undecided", "not checked": "not checked"}
    expected = [(g["gate"], words[g["status"]]) for g in gates if g["status"] != "pass"]
    assert ("score" in dict(expected)) and re.findall(r"^- Gate (\w+), ([a-z ]+): \S", findings, flags=re.M) == expected
