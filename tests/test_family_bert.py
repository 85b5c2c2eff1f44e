"""`aimt finetune bert`, from a table to a verdict: options, verbs of the run, the command, and what people get wrong.

The networks are tiny and begin with random weights, so that the whole file takes seconds.
"""

import json
import os
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
from safetensors.numpy import load_file  # noqa: E402

import aimt  # noqa: E402
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError, RunError  # noqa: E402
from aimt.data.text.tokenizer import train_wordpiece  # noqa: E402
from aimt.jobs.families.bert import BERT_FAMILY, TextBatches, fit_head  # noqa: E402
from aimt.jobs.families.t5 import T5_FAMILY  # noqa: E402
from aimt.models.text.bert import BERT, BERTConfig  # noqa: E402
from aimt.models.text.text_classification import BERTForClassification  # noqa: E402
from aimt.models.text.gpt import GPT, GPTConfig  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("brief")
THINGS = ["parcel", "letter", "box", "order", "package", "shipment", "envelope", "crate", "book", "lamp"]
ENDS = {
    "late": ["has not come", "is a week late", "is lost", "never arrived", "is still on its way"],
    "damaged": ["is broken", "came torn", "was crushed", "is wet inside", "has a hole"],
}
TABLE = pd.DataFrame([(f"the {x} {end}", label) for label, ends in ENDS.items() for end in ends for x in THINGS], columns=["text", "label"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny BERT with random weights, in the layout of Hugging Face."""
    torch.manual_seed(0)
    tokenizer = train_wordpiece(list(TABLE["text"]), 150)
    config = BERTConfig(tokenizer.vocab_size, 2, 2, 32, context=24, init_std=0.15)
    folder = tmp_path_factory.mktemp("base")
    BERT.from_config(config, tokenizer, pooler=True).save_pretrained(folder)
    return folder


def tune(base, where, table=TABLE, **options):
    """A fine-tuning in a second: many steps at a high rate, as so small a network wants it."""
    usual = {"model": base, "out": where / "run", "steps": 40, "lr": 5e-3, "quiet": True, "overwrite": True}
    return aimt.finetune("bert", table, **usual | options)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """A run that is done."""
    return tune(base, tmp_path_factory.mktemp("done"))


# ---- from a table to a verdict


def test_a_run_has_everything(run):
    metrics, report = run.read("metrics.json"), run.read("report.json")
    rows = {row["model"]: row for row in metrics["scores"]["table"]}
    assert list(rows) == [
        "fine-tuned",
        "before",
        "words counted (TF-IDF) and logistic regression",
        "frozen network and logistic regression",
    ]
    assert rows["fine-tuned"]["value"] > 0.8
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert metrics["data"]["train"] + metrics["data"]["valid"] + metrics["data"]["test"] == len(TABLE)
    assert metrics["trained"]["share"] == 1.0 and metrics["settings"]["steps"] == 40
    assert metrics["curve"]["train"]["loss"][-1] < metrics["curve"]["train"]["loss"][0]
    assert (
        report["verdict"]["verdict"] in {"SHIP", "NOT YET", "HOLD"}
        and (run.path / "report.html").is_file()
        and (run.path / "card.md").is_file()
    )
    assert run.problem.labels == ["damaged", "late"]


def test_gates_say_what_was_measured(run, tmp_path):
    """A network that knows one task learns the opposite: it gains all of the new, and loses all of the old."""
    opposite = TABLE.assign(label=TABLE["label"].map({"late": "damaged", "damaged": "late"}))
    second = tune(run.path, tmp_path, opposite, retention_data=TABLE, seed=1).read("metrics.json")
    gates = {g["gate"]: g for g in second["verdict"]["gates"]}
    assert set(gates) == {"gain", "baseline", "near-duplicates", "pretraining", "collapse", "forgotten", "training"}
    assert (
        gates["pretraining"]["status"] == "hold" and gates["pretraining"]["value"] > 0.5
    )  # another split: the base run had learned from most of it
    assert gates["gain"]["status"] == "pass" and gates["gain"]["low"] > 0.3 and gates["collapse"]["status"] == "pass"
    assert gates["forgotten"]["status"] == "hold" and gates["forgotten"]["value"] > 0.5
    assert second["verdict"]["verdict"] == "HOLD" and second["forgotten"]["accuracy"]["before"] > 0.8
    first = {g["gate"]: g["status"] for g in run.read("metrics.json")["verdict"]["gates"]}
    assert first["forgotten"] == "not checked"


def test_the_parts_do_not_share_texts(base, tmp_path):
    """The same text in training and test would be memorised; here each is there three times."""
    run = tune(base, tmp_path, pd.concat([TABLE] * 3), steps=2)
    parts = pd.read_parquet(run.path / "splits.parquet")
    text = pd.concat([TABLE] * 3, ignore_index=True)["text"]
    sets = {name: set(text[rows["row"]]) for name, rows in parts.groupby("part")}
    assert not sets["train"] & sets["test"] and not sets["train"] & sets["valid"]


def test_a_given_split_is_kept(base, tmp_path):
    table = TABLE.assign(split=np.where(np.arange(len(TABLE)) % 5, "train", "test"))
    run = tune(base, tmp_path, table, steps=2)
    parts = pd.read_parquet(run.path / "splits.parquet").set_index("row")["part"]
    assert run.read("metrics.json")["data"]["given_split"] and set(parts[parts == "test"].index) == set(range(0, len(TABLE), 5))


def test_nothing_learned_is_held(base, tmp_path):
    """Labels that have nothing to do with the texts: there is no gain, and the verdict says so."""
    label = np.random.default_rng(0).permutation(TABLE["label"].to_numpy())
    run = tune(base, tmp_path, TABLE.assign(label=label), steps=15)
    gates = {g["gate"]: g["status"] for g in run.read("metrics.json")["verdict"]["gates"]}
    assert (
        gates["gain"] in {"hold", "not yet"}
        and gates["forgotten"] == "not checked"
        and run.read("metrics.json")["verdict"]["verdict"] != "SHIP"
    )


def test_an_interrupted_run_goes_on_bit_for_bit(base, tmp_path, monkeypatch):
    whole = tune(base, tmp_path / "whole", steps=12, lora=4)

    class Crash(Exception):
        """What no one foresaw."""

    def crash(self, trainer, row):
        if row["step"] == 8:
            raise Crash

    with monkeypatch.context() as m, pytest.raises(Crash):
        m.setattr("aimt.jobs.steps.finetune._Say.on_step", crash)
        tune(base, tmp_path, steps=12, lora=4, overwrite=False)
    place = {"model": base, "out": tmp_path / "run", "quiet": True, "resume": True}
    with pytest.raises(RunError, match="the examples have changed"):
        aimt.finetune("bert", TABLE.iloc[1:], **place)
    with pytest.raises(ProblemError, match="started with a different --family"):
        aimt.finetune("gpt", TABLE, **place)
    resumed = aimt.finetune("bert", TABLE, **place)
    assert resumed.info["status"] == "done" and not (resumed.path / "checkpoints").exists()
    ends = [load_file(run.path / "model" / "model.safetensors") for run in (whole, resumed)]
    assert ends[0].keys() == ends[1].keys() and all((ends[0][k] == ends[1][k]).all() for k in ends[0])
    assert whole.read("metrics.json")["scores"] == resumed.read("metrics.json")["scores"]
    with pytest.raises(RunError, match="nothing to resume"):
        aimt.finetune("bert", TABLE, **place)


def test_balanced_classes_count_alike(base, tmp_path):
    """One label of five, at random: whoever counts mistakes says the commoner one, whoever counts classes does not."""
    label = np.where(np.random.default_rng(0).random(len(TABLE)) < 0.2, "damaged", "late")
    said = [tune(base, tmp_path, TABLE.assign(label=label), steps=15, lr=1e-3, balance=b).predict(TABLE, quiet=True) for b in (False, True)]
    plain, balanced = ((s["prediction"] == "damaged").mean() for s in said)
    assert plain < 0.1 and balanced > 0.25
    with pytest.raises(ProblemError, match="no classes to balance"):
        T5_FAMILY.balance(None, None)


def test_same_seed_same_result(base, tmp_path):
    a, b = (tune(base, tmp_path / name, steps=6, seed=3).read("metrics.json") for name in ("a", "b"))
    assert a["curve"]["train"] == b["curve"]["train"] and a["scores"] == b["scores"]


# ---- ways to learn


def weights(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_lora_keeps_the_base_and_its_adapters(base, tmp_path):
    run = tune(base, tmp_path, lora=4, lr=2e-2)
    metrics = run.read("metrics.json")
    assert metrics["trained"]["share"] < 0.3 and metrics["scores"]["table"][0]["value"] > 0.8
    before, after = weights(base), weights(run.path / "model")
    assert np.array_equal(before["embeddings.word_embeddings.weight"], after["bert.embeddings.word_embeddings.weight"])
    name = "encoder.layer.1.output.dense.weight"
    assert np.linalg.matrix_rank(after["bert." + name] - before[name], tol=1e-5) == 4  # merged, and of rank 4
    assert (run.path / "adapters" / "adapter_model.safetensors").is_file()


def test_four_bits_under_lora(base, tmp_path):
    run = tune(base, tmp_path, lora=4, nf4=True, lr=2e-2)
    name = "encoder.layer.0.intermediate.dense.weight"
    moved = weights(run.path / "model")["bert." + name] - weights(base)[name]
    assert np.linalg.matrix_rank(moved, tol=1e-5) > 4  # the rounding stays in the merged weights
    assert run.read("metrics.json")["scores"]["table"][0]["value"] > 0.75
    with pytest.raises(ProblemError, match="nf4 without lora"):
        tune(base, tmp_path, nf4=True)


def test_freeze_trains_the_head_alone(base, tmp_path):
    run = tune(base, tmp_path, freeze=True, steps=20)
    before, after = weights(base), weights(run.path / "model")
    assert all(np.array_equal(w, after["bert." + name]) for name, w in before.items())
    assert run.read("metrics.json")["trained"]["trainable"] == 2 * 32 + 2


def test_unfreezing_checkpointing_averaging_and_decay(base, tmp_path):
    """With average=0.5 the weights end half way between the pretrained ones and those of the same training without it."""
    ways = {"unfreeze_every": 0.2, "gradient_checkpointing": True, "layerwise_lr_decay": 0.8, "steps": 15, "patience": 0}
    whole, half = (weights(tune(base, tmp_path, weight_interpolation=share, **ways).path / "model") for share in (1.0, 0.5))
    name = "encoder.layer.1.output.dense.weight"
    start, end = weights(base)[name], whole["bert." + name]
    assert np.abs(end - start).max() > 1e-3 and np.allclose(half["bert." + name], (start + end) / 2, atol=1e-6)
    assert np.array_equal(half["classifier.weight"], whole["classifier.weight"])  # a new head has no past
    still = tune(base, tmp_path, unfreeze_every=1000, steps=4)  # the blocks wait longer than the run lasts
    name = "encoder.layer.0.intermediate.dense.weight"
    assert np.array_equal(weights(base)[name], weights(still.path / "model")["bert." + name])


def test_time_limit_epochs_and_patience(base, tmp_path):
    assert tune(base, tmp_path, steps=None, epochs=2).read("metrics.json")["settings"]["steps"] == 10  # 72 texts in fives of 16
    limited = tune(base, tmp_path, steps=None, time_limit=1)
    assert limited.read("metrics.json")["settings"]["steps"] != 1000
    stopped = tune(base, tmp_path, steps=100, lr=0.5, patience=1).read("metrics.json")["settings"]
    assert stopped["stopped"] == "patience" and stopped["steps"] < 100


def test_one_run_is_the_start_of_the_next(base, run, tmp_path):
    """A run's folder is a model too; with the same classes its head is kept."""
    again = tune(run.path, tmp_path, steps=1, lr=1e-9)
    assert again.read("metrics.json")["scores"]["table"][1]["value"] > 0.8  # already good before
    other = tune(run.path, tmp_path, TABLE.assign(label=TABLE["label"] + "!"), steps=1)
    assert other.problem.labels == ["damaged!", "late!"]


# ---- using the run


def test_predict_keeps_rows_and_columns(run, tmp_path):
    new = pd.DataFrame({"text": ["the box is broken", "", "the book never arrived", None], "id": [4, 3, 2, 1], "prediction": "x"})
    out = run.predict(new, quiet=True)
    assert list(out.columns) == ["text", "id", "prediction", "prediction_2", "probability"] and list(out["id"]) == [4, 3, 2, 1]
    assert out["prediction_2"][0] == "damaged" and out["prediction_2"][2] == "late" and out["probability"].between(0.5, 1).all()
    new.to_csv(tmp_path / "new.csv", index=False)
    path = run.predict(tmp_path / "new.csv", out=tmp_path / "scored.csv", quiet=True)
    assert list(pd.read_csv(path)["prediction_2"]) == list(out["prediction_2"])
    with pytest.raises(DataError, match="no column 'text'"):
        run.predict(new[["id"]], quiet=True)


def test_evaluate_and_an_unknown_class(run):
    scores = run.evaluate(TABLE)
    assert scores["n_rows"] == len(TABLE) and scores["table"][0]["metric"] == "accuracy" and scores["table"][0]["value"] > 0.9
    with pytest.raises(DataError, match="does not know the class 'stolen'"):
        run.evaluate(TABLE.assign(label=TABLE["label"].replace("late", "stolen")))


def test_explain_adds_up_to_a_reason(run):
    found = run.explain(pd.DataFrame({"text": ["the lamp is broken"]}), rows=[0])[0]
    assert found["prediction"] == "damaged" and [p["part"] for p in found["parts"]] == "the lamp is broken".split()
    assert found["contributions"][0]["effect"] == max(p["effect"] for p in found["parts"])
    with pytest.raises(ProblemError, match="no row 5"):
        run.explain(pd.DataFrame({"text": ["x"]}), rows=[5])


def test_report_and_doctor(run):
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert "could not be" not in html and html.count("<figure>") >= 2
    assert run.report() is not None
    assert all({"name", "severity", "evidence", "advice"} <= set(f) for f in aimt.doctor(run))


def test_transformers_reads_the_result(run):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForSequenceClassification.from_pretrained(run.path / "model").eval()
    ours = BERTForClassification.from_pretrained(run.path / "model").eval()
    batch = ours.tokenizer.encode_padded(["the box is broken", "the lamp is lost"])
    ids, mask = torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"])
    with torch.no_grad():
        assert (theirs(input_ids=ids, attention_mask=mask.long()).logits - ours(ids, mask)).abs().max() < 1e-5
    assert theirs.config.id2label == {0: "damaged", 1: "late"}


def test_a_changed_model_is_refused(base, tmp_path):
    run = tune(base, tmp_path, steps=1)
    file = run.path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(RunError, match="changed"):
        run.predict(TABLE.head(2), quiet=True)


# ---- the command


def test_the_command(aimt, base, tmp_path):  # noqa: F811  the fixture
    TABLE.rename(columns={"text": "review", "label": "kind"}).to_csv(tmp_path / "reviews.csv", index=False)
    words = ("finetune", "bert", "reviews.csv", "--text", "review", "--target", "kind", "--model", base)
    done = aimt(*words, "--steps", 5, "--json", "--gate", cwd=tmp_path)
    assert done.returncode == 3, done.stderr  # five steps are no training: HOLD
    report = json.loads(done.stdout)
    assert report["verdict"]["verdict"] == "HOLD" and (tmp_path / "runs" / "reviews" / "model" / "config.json").is_file()


# ---- what people get wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="label"), "no column 'label'"),
        (lambda t: t.drop(columns="text"), "no column 'text'"),
        (lambda t: t.assign(label="late"), "classes of the target: 1"),
        (lambda t: t.assign(label=t["text"]), "five examples"),
        (lambda t: t.assign(text=" "), "no row has an input"),
        (lambda t: t.assign(label=None), "no row has an input and a target"),
        (lambda t: t.head(0), "no row"),
    ],
)
def test_tables_that_cannot_be_learned(base, tmp_path, change, message):
    with pytest.raises(AimtError, match=message):
        tune(base, tmp_path, change(TABLE))


def test_what_is_left_out_is_said(base, tmp_path):
    odd = pd.DataFrame({"text": ["the box was stolen"] * 3 + ["", None], "label": ["stolen"] * 3 + ["late"] * 2})
    run = tune(base, tmp_path, pd.concat([TABLE, odd]), steps=1)
    notes = " ".join(run.read("metrics.json")["data"]["notes"])
    assert "2 rows" in notes and "stolen" in notes and run.problem.labels == ["damaged", "late"]


def test_long_texts_are_cut_and_said(base, tmp_path):
    long = TABLE.assign(text=TABLE["text"] + " and so on" * 20)
    run = tune(base, tmp_path, long, steps=1)
    assert any("longer than 24 tokens; what comes after is not read" in note for note in run.info["notes"])
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than 24 tokens"):
        run.predict(long.head(1), quiet=True)


def test_labels_that_are_numbers(base, tmp_path):
    """Stars of a review are classes as well."""
    run = tune(base, tmp_path, TABLE.assign(label=TABLE["label"].map({"late": 1, "damaged": 5})), steps=2)
    assert run.problem.labels == ["1", "5"] and set(run.predict(TABLE.head(3), quiet=True)["prediction"]) <= {"1", "5"}


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_models_that_cannot_be_used(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy"
    for fault, message in (
        (lambda: (copy / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-500]), "safetensors"),
        (lambda: (copy / "model.safetensors").unlink(), "no weights|missing|model.safetensors"),
        (lambda: (copy / "config.json").write_text("{"), "config.json|damaged"),
        (
            lambda: [
                (copy / "model.safetensors").unlink(),
                (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2)),
            ],
            "pickle",
        ),
        (lambda: GPT(GPTConfig(40, 1, 1, 8, 8)).save_pretrained(copy), "bert|BERT"),
    ):
        copy.mkdir(exist_ok=True)
        for file in base.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        fault()
        with pytest.raises(ModelFormatError, match=message):
            tune(copy, tmp_path)
        for file in copy.iterdir():
            file.unlink()
    assert not (tmp_path / "ran").exists()
    with pytest.raises(AimtError, match="nowhere"):
        tune(tmp_path / "nowhere", tmp_path)
    failed = aimt.Run.open(tmp_path / "run", unfinished=True)
    assert failed.status == "failed"


# ---- the head, and batches


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fitted_head_is_the_logistic_regression(base, n_classes):
    """The head gives what scikit-learn gives on the pooled vectors, and nothing else in the network has moved."""
    pairs = pd.DataFrame({"input": TABLE["text"], "target": [f"k{i // 10 % n_classes}" for i in range(len(TABLE))]})
    model = BERT_FAMILY.open(base, pairs)
    before = weights(base)
    assert all(np.array_equal(before[n], w) for n, w in hub_weights(model).items() if n in before)
    again = BERTForClassification.from_pretrained(base, labels=model.config.labels)
    assert not again.classifier.bias.any()
    fit_head(again, pairs)
    texts = list(TABLE["text"])
    assert torch.allclose(again.classify(texts), model.classify(texts), atol=1e-4)
    loss = BERT_FAMILY.score(model, pairs)["loss"].mean()
    assert loss < np.log(n_classes) and BERT_FAMILY.score(again, pairs)["accuracy"].mean() > 1.2 / n_classes
    known = model.classifier.weight.clone()
    fit_head(model, pairs[pairs["target"] == "k0"])  # one class alone says nothing: the head stays
    assert torch.equal(known, model.classifier.weight)


def hub_weights(model) -> dict[str, np.ndarray]:
    from aimt.models.text.bert import BERT_RULES
    from aimt.models.layers.pretrained import to_hf

    return {n.removeprefix("bert."): w.numpy() for n, w in to_hf(dict(model.state_dict()), BERT_RULES).items()}


def test_every_text_once_an_epoch_and_alone():
    """A packed batch gives each text the scores that it has by itself."""
    torch.manual_seed(0)
    model = BERTForClassification(BERTConfig(40, 2, 2, 16, context=20, labels=("a", "b", "c"), init_std=0.3)).eval()
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 40, rng.integers(2, 19)) for _ in range(23)]
    batches = TextBatches(texts, [i % 3 for i in range(23)], 6)
    seen = []
    for _ in range(len(batches)):
        batch = next(batches)
        z, number = model(batch["ids"], documents=batch["documents"]), 0
        assert len(z) == len(batch["targets"])
        for r in range(len(batch["ids"])):
            for d in range(int(batch["documents"][r].max()) + 1):
                ids = batch["ids"][r][batch["documents"][r] == d]
                assert torch.allclose(model(ids[None])[0], z[number], atol=1e-5)
                seen.append(tuple(ids.tolist()))
                assert any(np.array_equal(ids, t) and i % 3 == batch["targets"][number] for i, t in enumerate(texts))
                number += 1
    assert sorted(seen) == sorted(tuple(t.tolist()) for t in texts)
    state = batches.state_dict()
    following = next(batches)["ids"]
    batches.load_state_dict(state)
    assert torch.equal(next(batches)["ids"], following)


def test_baselines_know_only_the_training_part(base):
    train, test = TABLE.iloc[::2], TABLE.iloc[1::2]
    pairs = [BERT_FAMILY.read(part).reset_index(drop=True) for part in (train, test)]
    model = BERT_FAMILY.open(base, pairs[0])
    found = BERT_FAMILY.baselines(model, *pairs)
    again = BERT_FAMILY.baselines(model, pairs[0], pairs[1].head(5))
    for name, right in found.items():
        assert set(right) <= {0.0, 1.0} and np.array_equal(again[name], right[:5]), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BERT_FAMILY.predict(model, ["", "the box"])["probability"][0] > 0
