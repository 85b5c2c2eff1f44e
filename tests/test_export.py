"""`aimt export` of a fine-tuned network on real texts, and what cannot be exported."""

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import aimt  # noqa: E402
from aimt.core.errors import ProblemError  # noqa: E402
from aimt.data.text.tokenizer import train_wordpiece  # noqa: E402
from aimt.jobs.operate.export import export, export_lines  # noqa: E402
from aimt.models.text.bert import BERT, BERTConfig  # noqa: E402

pytestmark = pytest.mark.usefixtures("brief_runs")

THINGS = ["parcel", "letter", "box", "order", "package", "shipment", "envelope", "crate", "book", "lamp"]
ENDS = {"late": ["has not come", "is a week late", "is lost"], "damaged": ["is broken", "came torn", "was crushed"]}
TABLE = pd.DataFrame([(f"the {x} {end}", label) for label, ends in ENDS.items() for end in ends for x in THINGS], columns=["text", "label"])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of a tiny BERT with the classes late and damaged."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = train_wordpiece(list(TABLE["text"]), 150)
    config = BERTConfig(tokenizer.vocab_size, 2, 2, 32, context=24, init_std=0.15)
    folder = tmp_path_factory.mktemp("base")
    BERT.from_config(config, tokenizer, pooler=True).save_pretrained(folder)
    return aimt.finetune("bert", TABLE, model=folder, out=tmp_path_factory.mktemp("done") / "run", steps=40, lr=5e-3, quiet=True)


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_a_fine_tuned_network_is_compared_on_the_texts_that_are_given(tuned, to, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxscript", reason="pip install 'aimt[onnx]'")
    texts = tmp_path / "texts.csv"
    TABLE.to_csv(texts, index=False)
    found = export(tuned, to=to, out=tmp_path / "out", data=str(texts))
    assert found["compared"] == f"texts of {texts}" and found["rows"] == 16
    assert found["largest_difference"] <= found["goal"] and found["same_answer"] == 1.0
    assert "kept" in "\n".join(export_lines(found))


def test_exported_weights_are_the_weights_of_the_run(tuned, tmp_path):
    found = export(tuned, to="safetensors", out=tmp_path / "weights")
    assert found["largest_difference"] == 0.0
    again = type(tuned.model).from_pretrained(tmp_path / "weights")
    assert np.array_equal(again.classify(list(TABLE["text"][:4])), tuned.model.classify(list(TABLE["text"][:4])))
    with pytest.raises(ProblemError, match="there already"):
        export(tuned, to="safetensors", out=tmp_path / "weights")


def test_free_text_is_refused_with_a_way_out(tmp_path):
    rng = np.random.default_rng(0)
    notes = pd.DataFrame(
        {"size": rng.normal(size=120), "note": [f"customer {i} wrote a long remark about a thing {i % 7}" for i in range(120)]}
    )
    run = aimt.train(notes.assign(y=notes["size"] > 0), target="y", kind="table", out=tmp_path / "run", time_limit=1, quiet=True)
    with pytest.raises(ProblemError, match="'note' is free text"):
        export(run, out=tmp_path / "run.onnx")
    assert not (tmp_path / "run.onnx").exists()
