"""What a person attests: asked for by name, recorded word for word, and passed; nothing else passes a doubt."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import aimt
from aimt.cli.main import app
from aimt.core.errors import ProblemError
from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.decide.gate import read_attestations

pytestmark = pytest.mark.usefixtures("no_drawing")

CREDIT = load_dataset("german-credit").frame
BAD = (CREDIT.credit_risk == "bad").to_numpy()


def with_code(seed=0, wrong=0.05):
    """A code that names the class in 19 rows of 20."""
    return CREDIT.assign(code=np.where(np.random.default_rng([seed, 99]).random(1000) < wrong, ~BAD, BAD).astype(int))


def train(frame, place, **options):
    options = {"target": "credit_risk", "positive_label": "bad", "sensitive_features": "none", "time_limit": 1, "quiet": True} | options
    return aimt.train(frame, out=place, **options)


def gate(run, name):
    return next(g for g in run.read("metrics.json")["verdict"]["gates"] if g["gate"] == name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("attest")
    return {
        "asked": train(with_code(), place / "asked"),
        "attested": train(
            with_code(), place / "attested", attest=["code=written at the door, before anything is decided", "order=sorted by name"]
        ),
    }


def test_a_suspicious_column_is_asked_about(runs):
    asked = gate(runs["asked"], "leakage")
    assert asked["status"] == "not yet" and asked["needs_attestation"] == ["code"]
    assert '--attest code="REASON"' in asked["command"] and "'code'" in asked["text"]
    assert runs["asked"].read("metrics.json")["verdict"]["verdict"] != "SHIP"
    assert "code" in runs["asked"].problem.inputs  # it stays in use


def test_an_attestation_passes_and_is_recorded(runs):
    run, why = runs["attested"], "written at the door, before anything is decided"
    passed = gate(run, "leakage")
    assert passed["status"] == "pass" and passed["attested"] == f"code: {why}"
    assert run.info["settings"]["attest"] == {"code": why, "order": "sorted by name"}
    assert why in (run.path / "card.md").read_text() and why in (run.path / "report.html").read_text()
    assert run.read("metrics.json")["verdict"]["attested"]["code"] == why


def test_an_attestation_that_nothing_asks_about_is_noted(runs):
    assert runs["attested"].read("metrics.json")["verdict"]["unasked"] == ["order"]
    assert any("'order' was attested, and nothing asked about it" in note for note in runs["attested"].info["notes"])


@pytest.mark.parametrize(
    "given, told",
    [
        ("code=", "no reason"),
        ("code=   ", "no reason"),
        ("code", "no attestation"),
        ("kode=known", "cannot be attested"),
        ({"code": ""}, "no reason"),
        ({"near-duplicate": "x"}, "cannot be attested"),
        ("=x", "cannot be attested"),
    ],
)
def test_what_is_no_attestation_is_refused_before_training(tmp_path, given, told):
    with pytest.raises(ProblemError, match=told):
        train(with_code(), tmp_path / "run", attest=given)
    assert not (tmp_path / "run").exists()


def test_reading_attestations():
    assert read_attestations(None) == {} and read_attestations([], ["a"]) == {}
    assert read_attestations("a=b = c", ["a"]) == {"a": "b = c"}
    assert read_attestations(["x=y=because it is so"], ["x", "x=y"]) == {"x=y": "because it is so"}
    assert read_attestations({"labels": "looked at\n all of  them"}) == {"labels": "looked at all of them"}


def test_a_leak_that_is_kept_holds_until_it_is_attested(tmp_path):
    leak = CREDIT.assign(closed=np.where(BAD, "yes", "no"))
    kept = train(leak, tmp_path / "kept", keep="closed")
    assert gate(kept, "leakage")["status"] == "hold" and gate(kept, "leakage")["needs_attestation"] == ["closed"]
    aside = train(leak, tmp_path / "aside", attest={"closed": "known"})
    assert gate(aside, "leakage")["status"] == "pass" and "closed" not in aside.problem.inputs
    assert any("give --keep as well" in note for note in aside.info["notes"])
    both = train(leak, tmp_path / "both", keep="closed", attest={"closed": "known"})
    assert gate(both, "leakage")["status"] == "pass" and "closed" in both.problem.inputs


def near_copies(kind, seed=0):
    """A fifth of the loans again, with noise in each number or with one cell changed."""
    r = np.random.default_rng([seed, 99])
    some = CREDIT.iloc[r.permutation(1000)[:250]].copy()
    if kind == "noise":
        for c in ("duration_months", "credit_amount_dm", "age"):
            some[c] = some[c] + r.normal(0, 0.01 * CREDIT[c].std(), len(some))
    else:
        for i in range(len(some)):
            c = r.choice(CREDIT.columns[:-1])
            some.iloc[i, some.columns.get_loc(c)] = CREDIT[c].iloc[r.integers(1000)]
    return pd.concat([CREDIT, some], ignore_index=True).sample(frac=1, random_state=seed).reset_index(drop=True)


@pytest.mark.parametrize("kind", ["noise", "cell"])
def test_near_duplicates_across_the_split(tmp_path, kind):
    asked = gate(train(near_copies(kind), tmp_path / "asked"), "leakage")
    assert asked["status"] != "pass" and asked["needs_attestation"] == ["near-duplicates"]
    if kind == "noise":
        said = gate(train(near_copies(kind), tmp_path / "said", attest={"near-duplicates": "two loans of one customer each"}), "leakage")
        assert said["status"] == "pass" and "two loans" in said["attested"]


def drifting(seed=0):
    """The relation turns between the first row and the last, and a meter betrays the time."""
    r = np.random.default_rng([seed, 99])
    frame, t = CREDIT.sample(frac=1, random_state=seed).reset_index(drop=True), np.arange(1000) / 1000
    a, b = (frame[c].rank(pct=True).to_numpy() * 2 - 1 for c in ("credit_amount_dm", "duration_months"))
    bad = np.cos(np.pi * t) * a + np.sin(np.pi * t) * b + r.normal(0, 0.15, 1000) > 0
    return frame.assign(meter=1000 * t + r.normal(0, 20, 1000), credit_risk=np.where(bad, "bad", "good"))


def test_an_order_of_time_that_nobody_named(tmp_path):
    asked = gate(train(drifting(), tmp_path / "asked"), "data")
    assert asked["status"] == "not yet" and asked["needs_attestation"] == ["order"] and "--attest order" in asked["command"]
    assert gate(train(drifting(), tmp_path / "said", attest={"order": "sorted by the office"}), "data")["status"] == "pass"
    timed = train(drifting(), tmp_path / "timed", time="meter")
    assert not gate(timed, "data")["needs_attestation"] and timed.read("metrics.json")["split"]["strategy"] == "time"


def test_labels_that_are_wrong(tmp_path):
    r = np.random.default_rng([0, 99])
    x = r.normal(size=(1500, 4))
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    frame = pd.DataFrame(x, columns=list("abcd")).assign(y=np.where(r.random(1500) < 0.12, 1 - y, y))
    options = {"target": "y", "positive_label": "1", "time_limit": 3}
    asked = train(frame, tmp_path / "asked", **options)
    assert gate(asked, "data")["needs_attestation"] == ["labels"] and gate(asked, "data")["status"] == "not yet"
    assert gate(train(frame, tmp_path / "said", **options, attest="labels=read by two people"), "data")["status"] == "pass"


def test_the_loans_as_they_are_need_no_attestation(tmp_path):
    run = train(CREDIT, tmp_path / "run")
    assert not any(g["needs_attestation"] for g in run.read("metrics.json")["verdict"]["gates"] if g["gate"] in ("data", "leakage"))


def test_on_the_command_line(tmp_path):
    with_code().to_csv(tmp_path / "t.csv", index=False)
    words = [
        "train",
        str(tmp_path / "t.csv"),
        "--target",
        "credit_risk",
        "--time-limit",
        "1",
        "--sensitive-features",
        "none",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    done = CliRunner().invoke(app, [*words, "--attest", "code=written at the door", "--attest", "labels=checked"])
    assert done.exit_code == 0, done.output
    run = Run.open(tmp_path / "run")
    assert run.info["settings"]["attest"] == {"code": "written at the door", "labels": "checked"}
    wrong = CliRunner().invoke(app, [*words[:-3], "--out", str(tmp_path / "no"), "--attest", "code="])
    assert wrong.exit_code in (1, 2) and "Traceback" not in wrong.output
