"""The `aimt` command as people and programs meet it: real processes, real files, real faults."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import ProblemError
from aimt.core.files import read_json
from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.verbs.train import train as aimt_train

FAST = ("--time-limit", 1, "--quiet")
LONGER = ("--time-limit", 4, "--quiet")  # for a model of several members on a busy machine too


@pytest.fixture(scope="session")
def loans() -> pd.DataFrame:
    return load_dataset("german-credit").frame


@pytest.fixture(scope="session")
def finished(aimt, tmp_path_factory, loans) -> Path:
    """A run on a part of the loans, with an id and a date column, made by the command."""
    folder = tmp_path_factory.mktemp("finished")
    table = loans.sample(400, random_state=1).reset_index(drop=True)
    table["loan number"] = [f"L{i:05d}" for i in range(len(table))]
    table.to_csv(folder / "loans.csv", index=False)
    (folder / "shares.csv").write_text("column,value,share\nhousing,own,40%\nhousing,rent,50%\nhousing,for free,10%\n")
    done = aimt(
        "train",
        folder / "loans.csv",
        "--target",
        "credit_risk",
        "--out",
        folder / "run",
        "--sensitive-features",
        "age",
        "--cost",
        "fn=5,fp=1",
        "--population",
        folder / "shares.csv",
        *LONGER,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def mends(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """The error is one line, holds these words, and is no traceback."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[-1].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[-1], lines[-1]


# -- the main job ------------------------------------------------------------------------------------------------


def test_no_file_trains_on_the_bundled_loans(aimt_here, tmp_path):
    (tmp_path / "runs/german-credit").mkdir(parents=True)
    (tmp_path / "runs/german-credit/notes.txt").write_text("mine")  # the first name is taken
    done = aimt_here("train", "--time-limit", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"]["verdict"] in {"SHIP", "NOT YET", "HOLD"}
    run = Run.open(tmp_path / "runs/german-credit-2")
    assert run.problem.target == "credit_risk" and run.problem.cost["fn"] == 5
    for name in (
        "audit.json",
        "metrics.json",
        "report.html",
        "report.json",
        "card.md",
        "splits.parquet",
        "predictions.parquet",
        "schema.json",
        "model/model.json",
    ):
        assert (run.path / name).stat().st_size > 0


def test_each_step_is_one_plain_line(aimt, tmp_path, loans):
    loans.head(200).to_csv(tmp_path / "loans.csv", index=False)
    done = aimt("train", "loans.csv", "--time-limit", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [s.split("]")[0] for s in steps] == [f"[{i:2d}/{len(STEPS)}" for i in range(1, len(STEPS) + 1)]
    assert "\x1b" not in done.stderr and "\r" not in done.stderr


def test_a_model_that_is_too_slow_is_made_compact(monkeypatch, tmp_path, loans):
    """The whole run stays, with a compact one beside it; that no model is as fast as asked is said when the run is there."""
    options = {"target": "credit_risk", "sensitive_features": "none", "time_limit": 2, "quiet": True}
    monkeypatch.setattr("aimt.jobs.steps.table_evaluate.latency_ms", lambda model, rows: 2e6)
    small = aimt_train(loans.head(300), out=tmp_path / "run", max_latency_ms=1e6, **options)
    whole = Run.open(tmp_path / "run")
    assert small.path == tmp_path / "run-compact" and small.info["settings"]["compact"]["max_latency_ms"] == 1e6
    assert len(small.model.ensemble_.parts) <= len(whole.model.ensemble_.parts)
    with pytest.raises(ProblemError, match="the run is done, but .* 1,000 rows take .* The report is there: aimt report"):
        aimt_train(loans.head(300), out=tmp_path / "again", max_latency_ms=1e-3, **options)
    assert Run.open(tmp_path / "again").status == "done" and not (tmp_path / "again-compact").exists()


def test_gate_exits_with_3_unless_it_ships(aimt_here, tmp_path):
    rng = np.random.default_rng(0)
    noise = pd.DataFrame(rng.normal(size=(300, 4)), columns=list("abcd")).assign(y=rng.integers(0, 2, 300))
    noise.to_csv(tmp_path / "noise.csv", index=False)
    done = aimt_here("train", "noise.csv", "--target", "y", "--gate", *FAST, cwd=tmp_path)
    assert done.returncode == 3 and done.stdout.lstrip().startswith(("NOT YET", "HOLD"))
    assert aimt_here("train", "noise.csv", "--target", "y", *FAST, cwd=tmp_path).returncode == 0


def test_regression_and_many_classes(aimt_here, tmp_path, loans):
    loans.to_csv(tmp_path / "loans.csv", index=False)
    for target, task in {
        "credit_amount_dm": "regression",
        "property": "multiclass",
    }.items():  # fast enough by a wide margin: nothing is made compact
        done = aimt_here("train", "loans.csv", "--target", target, "--out", target, "--max-latency-ms", 1e6, *LONGER, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert Run.open(tmp_path / target).problem.task == task
        done = aimt_here("compact", target, "--data", "loans.csv", "--json", "--quiet", cwd=tmp_path)
        found = json.loads(done.stdout)
        members = {name: model["members"] for name, model in found["models"].items()}  # in little time the original may have one alone
        assert members["compact"] <= max(2, members["original"]) and found["times_faster"] > 0
        done = aimt_here("compare", target, f"{target}-compact", "--json", cwd=tmp_path)
        pair = json.loads(done.stdout)["pairs"][0]
        assert (pair["mcnemar"] is None) == (task == "regression") and pair["gain"] == pytest.approx(found["gain"])


def test_groups_are_found_named_or_switched_off(aimt_here, tmp_path, loans):
    loans.head(150).rename(columns={"foreign_worker": "foreign, worker"}).to_csv(tmp_path / "t.csv", index=False)
    for asked, found in {
        None: {"age", "foreign, worker", "personal_status_sex"},
        "none": set(),
        "foreign, worker": {"foreign, worker"},
    }.items():
        words = () if asked is None else ("--sensitive-features", asked)
        done = aimt_here("train", "t.csv", *words, "--out", "run", "--overwrite", *FAST, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert set(Run.open(tmp_path / "run").problem.sensitive_features) == found


def test_a_database_a_time_and_an_id(aimt_here, tmp_path, loans):
    table = loans.assign(
        day=pd.date_range("2024-01-01", periods=len(loans)).strftime("%Y-%m-%d"), customer=[f"C{i // 2}" for i in range(len(loans))]
    )
    with sqlite3.connect(tmp_path / "bank.db") as database:
        table.to_sql("loans", database, index=False)
    query = "select * from loans where age < 60"
    done = aimt_here(
        "train", query, "--sql", "sqlite:///bank.db", "--target", "credit_risk", "--time", "day", "--out", "late", *FAST, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    late = pd.read_parquet(tmp_path / "late/splits.parquet")
    assert late.loc[late["part"] == "test", "row"].min() > late.loc[late["part"] == "train", "row"].max()
    done = aimt_here(
        "train",
        "loans",
        "--sql",
        "sqlite:///bank.db",
        "--target",
        "credit_risk",
        "--entity",
        "customer",
        "--drop",
        "day",
        "--out",
        "apart",
        *FAST,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    apart = pd.read_parquet(tmp_path / "apart/splits.parquet")
    assert (apart.groupby(apart["row"] // 2)["part"].nunique() == 1).all()
    assert not {"customer", "day"} & set(Run.open(tmp_path / "apart").problem.inputs)


@pytest.mark.parametrize("n", [1000, pytest.param(5000, marks=pytest.mark.slow(reason="a minute"))])
def test_thousands_of_columns(aimt_here, tmp_path, n):
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(300, n)).round(3), columns=[f"gene {i}" for i in range(n)])
    wide.assign(ill=(wide["gene 7"] + rng.normal(size=300) > 0).astype(int)).to_csv(tmp_path / "genes.csv", index=False)
    done = aimt_here("train", "genes.csv", "--time-limit", 2, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/genes/report.html").stat().st_size < 1_500_000
    assert len(Run.open(tmp_path / "runs/genes").predict(wide.head(3), quiet=True)) == 3


def test_leak_is_set_aside_unless_kept(aimt_here, tmp_path, loans):
    rng = np.random.default_rng(0)
    leak = (loans["credit_risk"] == "bad") * 3.0 + rng.normal(0, 0.05, len(loans))
    loans.assign(reminder_fee=leak)[["reminder_fee", *loans.columns]].to_csv(tmp_path / "leak.csv", index=False)
    done = aimt_here("train", "leak.csv", "--out", "honest", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reminder_fee" not in Run.open(tmp_path / "honest").problem.inputs
    kept = aimt_here("train", "leak.csv", "--out", "kept", "--keep", "reminder_fee", "--gate", *FAST, cwd=tmp_path)
    assert kept.returncode == 3, kept.stderr
    verdict = Run.open(tmp_path / "kept").read("metrics.json")["verdict"]
    assert next(g for g in verdict["gates"] if g["gate"] == "leakage")["status"] == "hold"


# -- using a run -------------------------------------------------------------------------------------------------


def test_predict_adds_columns_and_keeps_the_rest(aimt, tmp_path, finished, loans):
    loans.to_csv(tmp_path / "new.csv", index=False)
    done = aimt("predict", finished, tmp_path / "new.csv", "-o", tmp_path / "scored.csv")
    assert done.returncode == 0, done.stderr
    scored = pd.read_csv(tmp_path / "scored.csv", keep_default_na=False)
    assert len(scored) == len(loans) and list(scored.columns[: loans.shape[1]]) == list(loans.columns)
    assert scored["probability"].between(0, 1).all() and set(scored["prediction"]) <= {"good", "bad"}
    assert set(scored["decision"]) <= {"good", "bad"}
    threshold = Run.open(finished).read("metrics.json")["decision"]["threshold"]
    assert ((scored["probability"] >= threshold) == (scored["decision"] == "bad")).all()


def test_predictions_do_not_depend_on_the_chunks(finished, tmp_path, loans):
    run, whole = Run.open(finished), load_dataset("german-credit").frame
    loans.to_csv(tmp_path / "new.csv", index=False)
    run.predict(tmp_path / "new.csv", out=tmp_path / "chunks.parquet", chunk_rows=64, quiet=True)
    chunks = pd.read_parquet(tmp_path / "chunks.parquet")
    np.testing.assert_allclose(chunks["probability"], run.predict(whole)["probability"], rtol=1e-12)


def test_predict_meets_unseen_missing_extra_and_retyped_columns(aimt_here, tmp_path, finished, loans):
    new = loans.head(50).assign(purpose="space travel 🚀", surplus=1, age=lambda d: d["age"].astype(str) + " ")
    new.to_csv(tmp_path / "odd.csv", index=False)
    done = aimt_here("predict", finished, tmp_path / "odd.csv", "-o", tmp_path / "odd-scored.csv")
    assert done.returncode == 0, done.stderr
    assert "surplus" in done.stderr and "purpose" in done.stderr
    new.drop(columns="purpose").to_csv(tmp_path / "gap.csv", index=False)
    done = aimt_here("predict", finished, tmp_path / "gap.csv", "-o", tmp_path / "gap-scored.csv")
    mends(done, 1, "purpose")
    assert not (tmp_path / "gap-scored.csv").exists()


def test_report_is_rebuilt_and_env_and_audit_stand_alone(aimt, aimt_here, tmp_path, finished, loans):
    (finished / "report.html").unlink()
    assert aimt("report", finished).returncode == 0
    assert (finished / "report.html").stat().st_size < 1_500_000
    assert json.loads(aimt("env", "--json").stdout)["versions"]["aimt"]
    loans.assign(copy=loans["age"], empty=None).to_csv(tmp_path / "loans.csv", index=False)
    done = aimt_here("audit", tmp_path / "loans.csv", "--json")
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert any("copy" in f["columns"] for f in found.values()) and any("empty" in f["columns"] for f in found.values())


def test_evaluate_and_explain(aimt, aimt_here, tmp_path, finished, loans):
    loans.tail(300).to_csv(tmp_path / "labelled.csv", index=False)
    scores = json.loads(aimt("evaluate", finished, tmp_path / "labelled.csv", "--json").stdout)
    auc = next(r for r in scores["table"] if r["metric"] == "roc_auc")
    assert auc["low"] <= auc["value"] <= auc["high"] and auc["value"] > 0.6
    reasons = json.loads(aimt_here("explain", finished, tmp_path / "labelled.csv", "--rows", "0,7", "--json").stdout)
    assert [r["row"] for r in reasons] == [0, 7] and all(r["contributions"] for r in reasons)
    table, names = tmp_path / "labelled.csv", ["duration_months", "purpose"]
    effects = json.loads(aimt_here("explain", finished, table, "--columns", ",".join(names), "--json").stdout)
    assert [e["column"] for e in effects] == names and all(len(e["values"]) == len(e["mean"]) for e in effects)
    assert "chance of" in aimt_here("explain", finished, table, "--columns", "age").stdout
    answers = json.loads(aimt_here("explain", finished, table, "--rows", "0,1,2,3", "--change", "--immutable", "purpose", "--json").stdout)
    changed = {c["column"] for a in answers for w in a["ways"] for c in w["changes"]}
    assert [a["row"] for a in answers] == [0, 1, 2, 3] and changed and not changed & {"purpose", "age", "foreign_worker"}
    for words, said in (
        ("--columns age --change", "one at a time"),
        ("--immutable age", "--change"),
        ("--columns agee", "'age'"),
        ("--change --desired excellent", "excellent"),
        ("--change --immutable agee", "'age'"),
    ):
        done = aimt_here("explain", finished, table, *words.split())
        assert done.returncode in (1, 2) and said in done.stderr, (words, done.stderr)


def test_a_compact_run_beside_the_old_one(aimt_here, tmp_path, finished, loans):
    """Made, measured, used and compared; the old run stays as it is; what cannot be says so in a line."""
    run, table = tmp_path / "run", finished.parent / "loans.csv"
    shutil.copytree(finished, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    moved = shutil.copy(table, tmp_path / "moved.csv")
    done = aimt_here("compact", "run", "--data", "moved.csv", "--members", 1, cwd=tmp_path)
    assert done.returncode == 0 and "times as fast" in done.stdout, done.stderr
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    small = Run.open(tmp_path / "run-compact")
    for name in ("report.html", "card.md", "metrics.json", "model/model.json", "predictions.parquet"):
        assert (small.path / name).stat().st_size > 0
    assert "could not be" not in (small.path / "report.html").read_text(encoding="utf-8")
    loans.tail(20).to_csv(tmp_path / "new.csv", index=False)
    for verb, *words in (["predict", "-o", "scored.csv", "--coverage", 0.9], ["evaluate"], ["explain"]):
        done = aimt_here(verb, small.path, "new.csv", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "scored.csv")) == 20
    done = aimt_here("compare", "run", "run-compact", cwd=tmp_path)
    assert done.returncode == 0 and "McNemar" in done.stdout and "100 common test rows" in done.stdout, done.stderr
    (tmp_path / "other.csv").write_text(Path(moved).read_text().replace("good", "bad", 1))
    for words, code, said in (
        ("compact run --data other.csv", 1, "it has changed since. Give the same table with --data: 400 rows"),
        ("compact run --data gone.csv", 1, "gone.csv"),
        ("compact run --data moved.csv --max-latency-ms 0.001", 2, "1,000 rows take"),
        ("compact run", 1, "name the table again"),
        ("compact run --out run --overwrite", 1, "the run itself stays as it is"),
        ("compact run-compact", 2, "compact already"),
        ("compare run run", 2, "compared with itself"),
        ("compare run runs", 1, "runs"),
        ("compare run run-compact --metric rmse", 2, "rmse"),
    ):
        mends(
            aimt_here(*words.split(), "--quiet", cwd=tmp_path) if words.startswith("compact") else aimt_here(*words.split(), cwd=tmp_path),
            code,
            said,
        )


def test_a_population_and_shuffled_outcomes(aimt_here, tmp_path, finished, loans):
    shares, table = finished.parent / "shares.csv", tmp_path / "labelled.csv"
    loans.tail(80).assign(credit_risk=lambda d: np.where(d["duration_months"] > 18, "bad", "good")).to_csv(table, index=False)
    found = json.loads(aimt_here("audit", table, "--population", shares, "--json", "--quiet").stdout)
    assert found["population"]["n_rows"] == 80 and any(f["check"] == "sampling bias" for f in found["findings"])
    assert "stated 50.0%" in aimt_here("audit", table, "--population", shares, "--quiet").stdout
    kept = Run.open(finished).read("audit.json")
    assert kept["population"]["columns"][0]["column"] == "housing" and any(f["check"] == "sampling bias" for f in kept["findings"])
    done = aimt_here("evaluate", finished, table, "--population", shares, "--permutations", 19, "--json")
    scores = json.loads(done.stdout)
    assert scores["population"]["scores"][0]["metric"] == "roc_auc" and scores["permutation"]["p"] == 0.05
    short = aimt_here("evaluate", finished, table, "--permutations", 19, "--time-limit", 1)
    assert "trainings on shuffled answers 0 were as good" in short.stdout, short.stderr
    (tmp_path / "wrong.csv").write_text("column,value,share\nhousing,own,0.4\nhousing,rent,0.4\n")
    (tmp_path / "strange.csv").write_text("column,value,share\nhouse,own,0.4\nhouse,rent,0.6\n")
    for words, code, said in (
        (("audit", table, "--population", tmp_path / "wrong.csv"), 1, "add up to 0.8"),
        (("evaluate", finished, table, "--population", tmp_path / "strange.csv"), 1, "housing"),
        (("train", table, "--target", "credit_risk", "--population", tmp_path / "strange.csv", "--out", tmp_path / "run"), 1, "housing"),
        (("evaluate", finished, table, "--permutations", 5), 2, "at least 19"),
        (("evaluate", finished, table, "--time-limit", 5), 2, "--permutations"),
    ):
        mends(aimt_here(*words), code, said)
    assert not (tmp_path / "run").exists()


def test_the_doctor_reads_a_run_of_a_table(aimt_here, finished):
    found = json.loads(aimt_here("doctor", finished, "--json").stdout)
    assert all(f["name"] and f["evidence"] and f["advice"] for f in found)
    assert {f["severity"] for f in found} <= {"critical", "warning", "note", "hold", "not yet"}
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "Recipes that were tried" in report and "How an effect is drawn" in report and "How parts are compared" in report


# -- what cannot work says so in one line, and leaves nothing behind --------------------------------------------------


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("missing file", 1, ["loans.csv"]),
        ("directory", 1, ["directory"]),
        ("empty", 1, ["empty"]),
        ("header only", 1, ["row"]),
        ("one row", 1, ["row"]),
        ("no such target", 2, ["credit_risk"]),
        ("constant target", 2, ["same value"]),
        ("missing target", 2, ["no value"]),
        ("wrong group", 2, ["ago"]),
        ("wrong metric", 2, ["auc"]),
        ("wrong cost", 2, ["fx"]),
        ("wrong keep", 2, ["ages"]),
        ("only ids", 1, ["--keep"]),
    ],
)
def test_bad_input(aimt_here, tmp_path, loans, case, code, words):
    loans.head(120).assign(flat="x", gone=None, key=[f"K{i}" for i in range(120)]).to_csv(tmp_path / "table.csv", index=False)
    calls = {
        "missing file": ["loan.csv"],
        "directory": ["."],
        "empty": [_write(tmp_path, "empty.csv", "")],
        "header only": [_write(tmp_path, "header.csv", "a,b,y\n")],
        "one row": [_write(tmp_path, "one.csv", "a,b,y\n1,2,0\n")],
        "no such target": ["table.csv", "--target", "credit_rsik"],
        "constant target": ["table.csv", "--target", "flat"],
        "missing target": ["table.csv", "--target", "gone"],
        "wrong group": ["table.csv", "--target", "credit_risk", "--sensitive-features", "ago"],
        "wrong metric": ["table.csv", "--target", "credit_risk", "--metric", "auk"],
        "wrong cost": ["table.csv", "--target", "credit_risk", "--cost", "fx=3"],
        "wrong keep": ["table.csv", "--target", "credit_risk", "--keep", "ages"],
        "only ids": [_write(tmp_path, "ids.csv", "key,y\n" + "".join(f"K{i},{i % 2}\n" for i in range(100)))],
    }
    if case == "missing file":
        (tmp_path / "loans.csv").touch()
    mends(aimt_here("train", *calls[case], "--out", "run", *FAST, cwd=tmp_path), code, *words)
    if case == "only ids":  # found out by the audit, when the run had begun: it says that it failed
        assert read_json(tmp_path / "run/run.json")["status"] == "failed"
    else:
        assert not (tmp_path / "run").exists()


def test_twenty_rows_are_enough_for_an_honest_answer(aimt_here, tmp_path, loans):
    pd.concat([g.head(10) for _, g in loans.groupby("credit_risk")]).to_csv(tmp_path / "tiny.csv", index=False)
    done = aimt_here("train", "tiny.csv", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SHIP" not in done.stdout


def test_hostile_names_and_values(aimt_here, tmp_path, loans):
    odd = loans.head(200).rename(columns={"age": "=1+1", "purpose": "naïve\n🚀 <script>", "savings": "a,b"})
    odd["=1+1"] = odd["=1+1"].astype(object)
    odd.loc[odd.index[:3], "naïve\n🚀 <script>"] = '=HYPERLINK("x")\nnext, line'
    odd.to_csv(tmp_path / "odd.csv", index=False)
    done = aimt_here("train", "odd.csv", "--out", "run", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<script>" not in (tmp_path / "run/report.html").read_text().replace("&lt;script&gt;", "").split("<body")[1]


# -- the run directory -----------------------------------------------------------------------------------------------


def test_a_place_that_is_taken(aimt_here, tmp_path, finished, loans):
    loans.head(100).to_csv(tmp_path / "t.csv", index=False)
    mends(aimt_here("train", tmp_path / "t.csv", "--out", finished, *FAST), 1, "--overwrite")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/beach.jpg").touch()
    mends(aimt_here("train", tmp_path / "t.csv", "--out", tmp_path / "photos", "--overwrite", *FAST), 1, "photos")
    assert (tmp_path / "photos/beach.jpg").exists()
    mends(aimt_here("train", tmp_path / "t.csv", "--out", tmp_path / "t.csv", *FAST), 1, "t.csv")


STEPS = ["Define", "Plan", "Split", "Audit", "Train", "Evaluate", "More data", "Why", "Robustness", "Decide", "Verdict"]


def _stop_at(step: str, how: signal.Signals, folder: Path) -> tuple[int, Path]:
    """Start a training, and send a signal as soon as it enters a step."""
    place = folder / f"{step.replace(' ', '-')}-{how.name}"
    process = subprocess.Popen(
        [sys.executable, "-m", "aimt", "train", "t.csv", "--out", str(place), "--time-limit", "2"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        events = place / "events.jsonl"
        if events.exists() and f'"stage": "{step}"' in events.read_text(encoding="utf-8"):
            process.send_signal(how)
            break
        time.sleep(0.002)
    stderr = process.communicate(timeout=120)[1]
    assert "Traceback" not in stderr, stderr
    return process.returncode, place


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("step", STEPS if os.environ.get("AIMT_SLOW") else ("Train",))  # AIMT_SLOW=1: in all ten
def test_killed_or_stopped_in_every_step(step, tmp_path, loans, aimt_here):
    loans.head(250).to_csv(tmp_path / "t.csv", index=False)
    _, place = _stop_at(step, signal.SIGKILL, tmp_path)
    if (status := Run.open(place, unfinished=True).status) != "done":  # a step may be over before the signal arrives
        assert status == "interrupted"
        mends(aimt_here("report", place), 1, "interrupted", "--resume" if (place / "checkpoints").is_dir() else "--overwrite")
    code, place = _stop_at(step, signal.SIGINT, tmp_path)
    if (status := Run.open(place, unfinished=True).status) != "done":
        assert status == "failed" and code == 130
        mends(aimt_here("report", place), 1, "stopped by the user")
    for file in place.rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))


def test_importing_the_package_is_light():
    code = "import sys, aimt; print([m for m in ('torch', 'sklearn', 'pandas', 'numpy', 'lightgbm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = "import aimt, aimt.train.table.fit; print(callable(aimt.train), aimt.train.table.fit.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["True", "aimt.train.table.fit"]


def test_an_option_that_needs_another_says_so(aimt_here, tmp_path, loans):
    loans.head(120).to_csv(tmp_path / "loans.csv", index=False)
    assert aimt_here("train", "loans.csv", "--out", "run", *FAST, cwd=tmp_path).returncode == 0
    for words, says in {
        ("audit", "loans.csv", "--sensitive-features", "age"): "no target is named",
        ("evaluate", "run", "loans.csv", "--conditional-on", "class"): "without a coverage",
        ("explain", "run", "loans.csv", "--columns", "age", "--rows", "5"): "--columns is about all rows",
    }.items():
        done = aimt_here(*words, cwd=tmp_path)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    assert "no target is named" in aimt_here("audit", "loans.csv", cwd=tmp_path).stdout
