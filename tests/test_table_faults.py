"""Tables at the edge of what can be learned: `aimt.train` gives a model, or one sentence that says why not."""

import time

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.errors import DataError
from aimt.models.table import recipe_search

pytestmark = pytest.mark.usefixtures("no_drawing")

rng = np.random.default_rng(0)


def train(frame, tmp_path, **options):
    """A run of a second or two, and how long it took."""
    start = time.perf_counter()
    run = aimt.train(frame, target="y", out=tmp_path / "run", quiet=True, **{"time_limit": 1, "sensitive_features": "none", **options})
    return run, time.perf_counter() - start


def numbers(n, columns=3):
    return pd.DataFrame(rng.normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])


def test_text_in_a_number_to_predict(tmp_path):
    frame = numbers(300)
    y = frame["x0"].round(3).astype(str)
    y[7] = "n/a, ask Bob"
    run, _ = train(frame.assign(y=y), tmp_path, task="regression")
    assert any("n/a, ask Bob" in note for note in run.info["notes"])
    assert sum(run.read("metrics.json")["split"]["rows"].values()) == 299


def test_all_rows_the_same(tmp_path):
    frame = pd.DataFrame({"x": np.ones(200), "z": ["a"] * 200, "y": [0, 1] * 100})
    with pytest.raises(DataError, match="no column is left"):
        train(frame, tmp_path)
    frame = pd.DataFrame({"x": np.tile([1.0, 2.0], 100), "y": np.repeat([0, 1], 100)})
    run, _ = train(frame, tmp_path / "second")
    assert run.read("metrics.json")["verdict"]["verdict"] == "HOLD"


def test_a_recipe_that_fails_is_dropped_and_named(tmp_path, monkeypatch):
    real = recipe_search.cross_fit

    def fails(candidate, *args, **kwargs):
        if candidate.kind != "linear" and "31" in candidate.name:
            raise RuntimeError("a bad day")
        return real(candidate, *args, **kwargs)

    monkeypatch.setattr(recipe_search, "cross_fit", fails)
    frame = numbers(400)
    frame["y"] = (frame["x0"] + frame["x1"] > 0).astype(int)
    run, _ = train(frame, tmp_path, time_limit=3)
    tried = run.read("metrics.json")["candidates"]
    failed = [c for c in tried if c.get("error")]
    assert failed and all(c["weight"] == 0 for c in failed) and any(c["weight"] > 0 for c in tried)
    assert "a recipe failed" in {f["name"] for f in aimt.doctor(run)}


@pytest.mark.slow(reason="minutes")
def test_a_million_categories(tmp_path):
    frame = pd.DataFrame({"x": rng.normal(size=1_000_000), "shop": pd.Series(rng.permutation(1_000_000)).astype(str)})
    frame["y"] = (frame["x"] + rng.normal(size=len(frame)) > 0).astype(int)
    _, seconds = train(frame, tmp_path, time_limit=20)
    assert seconds < 90
