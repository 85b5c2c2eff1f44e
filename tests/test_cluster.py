"""The same search in one process, in two, on a Dask cluster and (AIMT_SLOW=1) on Ray; and a search that is killed.

pytest tests/test_cluster.py
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.cluster import on_cluster
from aimt.core.errors import MissingExtraError, ProblemError, RunError
from aimt.core.run import Run
from aimt.models.table import estimators as tabular
from aimt.models.table.bagging import Candidate
from aimt.models.table.estimators import TabularClassifier, TabularRegressor

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=240), "b": rng.normal(size=240), "c": rng.choice(["x", "y", "z"], 240)})
    signal = frame["a"] + (frame["c"] == "x") * frame["b"] + 0.5 * rng.normal(size=240)
    return frame, np.where(signal > 0, "yes", "no"), signal.to_numpy()


@pytest.fixture(autouse=True)
def few_recipes(monkeypatch):
    """Four recipes; the network is left out, since every process would have to load torch for it."""
    every = tabular.recipes_for
    names = ("trees-31", "trees-7", "linear", "random-15")
    monkeypatch.setattr(tabular, "recipes_for", lambda *a, **k: [c for c in every(*a, **k) if c.name in names])


@pytest.fixture
def alone(table, few_recipes):
    frame, labels, _ = table
    return TabularClassifier(n_repeats=2).fit(frame, labels)


def same(one, two, frame) -> None:
    assert np.array_equal(one.predict_proba(frame), two.predict_proba(frame))
    assert np.array_equal(one.oof_, two.oof_, equal_nan=True)
    told = ("recipe", "score", "weight", "members", "complete")
    assert [[c[k] for k in told] for c in one.candidates_] == [[c[k] for k in told] for c in two.candidates_]


def test_two_processes_give_the_model_of_one(table, alone):
    with on_cluster("local:2"):
        same(alone, TabularClassifier(n_repeats=2).fit(table[0], table[1]), table[0])


@pytest.mark.slow(reason="loads torch in three processes")
def test_a_network_is_the_same_elsewhere(table, monkeypatch):
    network = Candidate("network", "network")
    monkeypatch.setattr(tabular, "recipes_for", lambda *a, **k: [network])
    one = TabularClassifier(n_repeats=1, n_folds=2).fit(table[0], table[1])
    with on_cluster("local:2"):
        two = TabularClassifier(n_repeats=1, n_folds=2).fit(table[0], table[1])
    same(one, two, table[0])


def test_two_dask_workers_give_the_model_of_one(table, alone):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with on_cluster(address):
            assert joblib.effective_n_jobs(None) == 2
            same(alone, TabularClassifier(n_repeats=2).fit(table[0], table[1]), table[0])
        assert joblib.effective_n_jobs(None) == 1


@pytest.mark.slow(reason="starts a Ray cluster")
def test_ray_gives_the_model_of_one(table, alone):
    ray = pytest.importorskip("ray")
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--num-cpus=2",
            "--port=6399",
            "--ray-client-server-port=10001",
            "--include-dashboard=false",
            "--block",
        ]
    ) as head:
        try:
            time.sleep(20)
            with on_cluster("ray://127.0.0.1:10001"):
                assert joblib.effective_n_jobs(None) == 2
                same(alone, TabularClassifier(n_repeats=2).fit(table[0], table[1]), table[0])
            assert not ray.is_initialized()
        finally:
            head.terminate()


def test_a_regression_and_its_limit_hold_on_workers(table):
    frame, _, values = table
    one = TabularRegressor(n_repeats=1).fit(frame, values)
    with on_cluster("local:2"):
        two = TabularRegressor(n_repeats=1).fit(frame, values)
        hurried = TabularRegressor(time_limit=0.5).fit(frame, values)
    assert np.array_equal(one.predict(frame), two.predict(frame))
    assert hurried.stopped_by_time_ and np.isfinite(hurried.predict(frame)).all() and not two.stopped_by_time_


def test_a_recipe_that_fails_on_a_worker_is_named_and_dropped(table, monkeypatch):
    recipes = tabular.recipes_for
    broken = Candidate("broken", "trees", {"num_leaves": 1})
    monkeypatch.setattr(tabular, "recipes_for", lambda *a, **k: [*recipes(*a, **k)[:1], broken, *recipes(*a, **k)[1:2]])
    with on_cluster("local:2"):
        model = TabularClassifier(n_repeats=1).fit(table[0], table[1])
    entry = next(c for c in model.candidates_ if c["recipe"] == "broken")
    assert "LightGBMError" in entry["error"] and entry["weight"] == 0 and len(model.candidates_) == 3


def test_nobody_answers(monkeypatch):
    if importlib.util.find_spec("distributed"):
        with (
            pytest.raises(ProblemError, match="no Dask scheduler answers at dask://127.0.0.1:1"),
            on_cluster("dask://127.0.0.1:1", timeout=1),
        ):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"aimt\[cluster\]"), on_cluster("dask://127.0.0.1:1"):
        pass


def test_a_fit_goes_on_from_what_was_kept(table, alone, tmp_path):
    frame, labels, _ = table

    class Cut(Exception):
        pass

    def tell(text):
        if text.startswith("random-15"):
            raise Cut

    with pytest.raises(Cut):
        TabularClassifier(n_repeats=2).fit(frame, labels, checkpoints=tmp_path, on_update=tell)
    kept = {p.name: (p / "model.json").stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert "trees-31-1" in kept and "random-15-1" not in kept
    told = []
    again = TabularClassifier(n_repeats=2).fit(frame, labels, checkpoints=tmp_path, on_update=told.append)
    same(alone, again, frame)
    assert not {name.rsplit("-", 1)[0] for name in kept} & {
        t.partition(";")[0] for t in told if "round" not in t
    }  # what was kept was not fitted again
    assert all((tmp_path / name / "model.json").stat().st_mtime_ns == t for name, t in kept.items())


def test_time_that_was_spent_counts(table, tmp_path):
    frame, labels, _ = table
    first = TabularClassifier(n_repeats=1).fit(frame, labels, checkpoints=tmp_path)
    spent = sum(c["seconds"] for c in first.candidates_)
    again = TabularClassifier(n_repeats=1, time_limit=spent / 2).fit(frame, labels, checkpoints=tmp_path)
    assert again.stopped_by_time_ and len(again.candidates_) < len(first.candidates_)


@pytest.mark.slow(reason="a training is killed and resumed")
def test_killed_and_resumed(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = table[0].assign(answer=table[1]).head(100)
    rows.to_csv("answers.csv", index=False)
    code = "import aimt; aimt.train('answers.csv', out={!r}, time_limit=300, quiet=True)"
    subprocess.run([sys.executable, "-c", code.format("whole")], check=True)
    killed = subprocess.Popen([sys.executable, "-c", code.format("runs/answers")])
    kept = tmp_path / "runs/answers/checkpoints"
    while killed.poll() is None and not (kept / "trees-7-1/model.json").exists():
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert Run.open(kept.parent, unfinished=True).status == "interrupted"
    with pytest.raises(RunError, match="Go on with --resume"):
        Run.open(kept.parent)
    with pytest.raises(ProblemError, match="started with a different --time-limit"):
        aimt.train("answers.csv", resume=True, time_limit=20, quiet=True)
    rows.iloc[1:].to_csv("others.csv", index=False)
    with pytest.raises(RunError, match="the source has changed"):
        aimt.train("others.csv", out=kept.parent, resume=True, quiet=True)
    subprocess.run([sys.executable, "-c", "import aimt; aimt.train('answers.csv', resume=True, quiet=True)"], check=True)
    run = Run.open(kept.parent)
    assert not kept.exists() and {e["what"] for e in run.events()} >= {"resumed"}
    one, two = (pd.read_parquet(folder / "predictions.parquet") for folder in (run.path, tmp_path / "whole"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    with pytest.raises(RunError, match="nothing to resume"):
        aimt.train("answers.csv", out=run.path, resume=True, quiet=True)


def test_what_does_not_belong_together():
    with pytest.raises(ProblemError, match="--cluster is an option of --kind table"):
        aimt.train(__file__, model="gpt", cluster="local:2", quiet=True)
    with pytest.raises(ProblemError, match="no address of a cluster"):
        aimt.train(cluster="spark://here:1", out="runs/never", time_limit=1, quiet=True)
