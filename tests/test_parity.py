"""Offline, in a batch, row by row as a service scores, and exported: the same predictions, for whatever a row holds."""

import json

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.deploy.export.onnx_table import ask_table_graph, table_graph
from aimt.deploy.serve.row_scorer import RowScorer

hypothesis = pytest.importorskip("hypothesis", reason="it is in the extra 'dev'")
from hypothesis import strategies as st  # noqa: E402

TOWNS = ("Graz", "Wien", "Linz")
NUMBERS = st.one_of(st.none(), st.floats(-1e4, 1e4, width=32), st.floats(allow_nan=False, allow_infinity=False))
ROW = st.fixed_dictionaries(
    {
        "size": NUMBERS,
        "age": st.one_of(st.none(), st.integers(-(10**6), 10**6)),
        "town": st.one_of(st.none(), st.sampled_from(TOWNS), st.text()),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=25)  # fewer than nine are scored one by one
SETTINGS = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"size": rng.normal(50, 12, 500), "age": rng.integers(18, 80, 500), "town": rng.choice(TOWNS, 500)})
    z = (X["size"] - 50) / 8 + (X["town"] == "Wien")
    return aimt.TabularClassifier(time_limit=1, random_state=0).fit(X, np.where(rng.random(500) < 1 / (1 + np.exp(-z)), "yes", "no"))


def as_frame(model, rows: list[dict]) -> pd.DataFrame:
    schema = model.ensemble_.encoder.schema
    return schema.conform(pd.DataFrame(rows, dtype=object), list(schema.columns), report=False)[0]


def test_rows_batches_and_frames_agree(model):
    scorer = RowScorer(model.ensemble_)

    @SETTINGS
    @hypothesis.given(rows=ROWS)
    def agree(rows):
        rows = json.loads(json.dumps(rows))  # as they come over the wire
        offline = model.predict_raw(as_frame(model, rows))
        assert np.abs(scorer.score(rows) - offline).max() <= (0 if len(rows) > 8 else 1e-7)  # networks reckon in 32 bits
        assert np.abs(np.concatenate([scorer.score([row]) for row in rows]) - offline).max() <= 1e-7

    agree()


def test_an_exported_model_agrees(model):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    session = onnxruntime.InferenceSession(table_graph(model.ensemble_).SerializeToString(), providers=["CPUExecutionProvider"])

    @SETTINGS
    @hypothesis.given(rows=ROWS)
    def agree(rows):
        frame = as_frame(model, rows)
        assert np.abs(ask_table_graph(session, model.ensemble_.encoder, frame) - model.predict_raw(frame)).max() <= 1e-5

    agree()
