"""`aimt monitor` from the command line: unchanged rows raise no alert, planted changes do, and the history of a run is kept."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from aimt.cli.main import app
from aimt.core.errors import ModelFormatError, RunError
from aimt.core.run import Run
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.verbs.compact import compact_run
from aimt.jobs.verbs.monitor import monitor
from aimt.jobs.verbs.train import train

TARGET = "credit_risk"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A short run on 700 of the bundled loans, and the other 300 as a file."""
    folder = tmp_path_factory.mktemp("monitor")
    loans = load_dataset("german-credit").frame.sample(frac=1, random_state=0)
    loans.head(700).to_csv(folder / "loans.csv", index=False)
    loans.tail(300).to_csv(folder / "later.csv", index=False)
    train(folder / "loans.csv", target=TARGET, sensitive_features="age", out=folder / "run", time_limit=1, quiet=True)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def later(made: Path, **columns) -> pd.DataFrame:
    return pd.read_csv(made / "later.csv").assign(**columns)


def aimt(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_unchanged_rows_raise_no_alert(made, run):
    done = aimt("monitor", run, made / "later.csv", "--json", "--gate")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["alerts"], found["n_labelled"], found["checks"]) == (0, [], 300, 1)
    assert {row["metric"] for row in found["measured"]} >= {"roc_auc", "log_loss"} and not any(row["alert"] for row in found["measured"])
    assert any(g["column"] == "age" and g["measured"] for g in found["groups"])
    assert len((run / "monitor.jsonl").read_text().splitlines()) == 1
    again = json.loads(aimt("monitor", run, made / "later.csv", "--json", "--spend-over", 10).stdout)
    lines = [json.loads(line) for line in (run / "monitor.jsonl").read_text().splitlines()]
    assert [line["check"] for line in lines] == [1, 2] and again["checks"] == 2
    assert [line["level"] for line in lines] == pytest.approx([0.025 * (1 / 2 + 1 / 100), 0.025 * (1 / 6 + 1 / 10)])


def test_shifted_rows_end_with_3_and_a_report(made, run, tmp_path):
    later(made, credit_amount_dm=lambda d: 2 * d["credit_amount_dm"]).drop(columns=TARGET).to_csv(tmp_path / "new.csv", index=False)
    done = aimt("monitor", run, tmp_path / "new.csv", "--out", tmp_path / "new.html", "--gate")
    assert done.exit_code == 3 and "'credit_amount_dm' drifted" in done.stdout and "without labels nobody can see" in done.stdout
    page = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert "ALERT" in page and "credit_amount_dm" in page and "<svg" in page and "could not be" not in page
    assert aimt("monitor", run, tmp_path / "new.csv").exit_code == 0


def test_alerts_are_posted_and_a_deaf_webhook_is_a_warning(made, run):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/hook"
    rows = later(made).drop(columns=TARGET)
    monitor(run, rows, webhook=address)
    assert not got, "nothing is posted without an alert"
    older = rows.assign(age=rows["age"] + 20)
    monitor(run, older, webhook=address)
    server.shutdown()
    server.server_close()
    assert [a["name"] for a in got[0]["alerts"]][0] == "age" and got[0]["n_rows"] == 300
    assert any("could not be posted" in w for w in monitor(run, older, webhook=address)["warnings"])


def test_wrong_labels_are_a_measured_decay_and_are_remembered(made, run):
    rows = later(made)
    shuffled = rows.assign(**{TARGET: np.random.default_rng(0).permutation(rows[TARGET])})
    found = monitor(run, shuffled)
    assert {"measured", "concept"} <= {a["kind"] for a in found["alerts"]} and not found["doubts"]
    unlabelled = monitor(run, rows.drop(columns=TARGET))
    assert "contradicted its estimate" in unlabelled["doubts"][0] and unlabelled["estimated"]
    monitor(run, rows)
    assert not monitor(run, rows.drop(columns=TARGET))["doubts"], "labels agree with the estimate again"


def test_some_labels_are_enough(made, run):
    rows = later(made)
    rows.loc[rows.index >= 100, TARGET] = None
    found = monitor(run, rows)
    assert found["n_labelled"] == 100 and any("200 of 300 rows have no known" in w for w in found["warnings"])


def test_broken_dependence_needs_the_training_table(made, run):
    rows = later(made).drop(columns=TARGET)
    torn = rows.assign(**{c: np.random.default_rng(i).permutation(rows[c]) for i, c in enumerate(rows)})
    assert monitor(run, torn)["two_sample"] is None
    found = monitor(run, torn, data=made / "loans.csv")
    whole = [a for a in found["alerts"] if a["kind"] == "inputs" and ", " not in a["name"]]  # inside a group a torn column does change
    assert found["two_sample"]["p"] < 0.01 and not whole


def test_a_reference_is_sealed_small_and_needed(made, run):
    assert (run / "reference.json").stat().st_size < 60_000
    text = (run / "reference.json").read_text(encoding="utf-8")
    (run / "reference.json").write_text(text.replace('"n_rows"', '"n_row"'), encoding="utf-8")
    with pytest.raises((RunError, ModelFormatError), match="changed"):
        monitor(run, made / "later.csv")
    (run / "reference.json").unlink()
    done = aimt("monitor", run, made / "later.csv")
    assert done.exit_code == 1 and "earlier version" in done.output and "Train again" in done.output


def test_an_overwritten_run_loses_its_history(made, run):
    monitor(run, made / "later.csv")
    assert (run / "monitor.jsonl").is_file()
    Run.create(run, overwrite=True).finish()
    assert not (run / "monitor.jsonl").exists()


def test_a_compact_run_has_a_reference_of_its_own(made, run, tmp_path):
    small = compact_run(run, data=made / "loans.csv", members=1, out=tmp_path / "small", quiet=True)
    assert monitor(small, made / "later.csv")["n_rows"] == 300


def test_a_regression_is_measured_and_not_estimated(tmp_path):
    loans = load_dataset("german-credit").frame.drop(columns=TARGET).sample(frac=1, random_state=2)
    run = train(loans.head(700), target="credit_amount_dm", metric="mae", out=tmp_path / "numbers", time_limit=1, quiet=True)
    new = loans.tail(300)
    found = monitor(run, new)
    assert found["estimated"] == {} and "without probabilities" in found["doubts"][0] and not found["alerts"]
    assert [e["what"] for e in found["errors"][:2]] == ["mean error", "coverage"] and len(found["errors"]) > 2
    worse = monitor(run, new.assign(credit_amount_dm=2 * new["credit_amount_dm"]), out=tmp_path / "page.html")
    names = {a["name"] for a in worse["alerts"]}
    assert {"mae", "mean error, all rows", "coverage, all rows"} <= names
    assert "coverage of the 90 % intervals" in (tmp_path / "page.html").read_text(encoding="utf-8")
