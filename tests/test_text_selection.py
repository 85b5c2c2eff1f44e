"""The test text of a language model, and the test examples of a fine-tuning, take no part in choosing the weights."""

import json

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
from safetensors.numpy import load_file  # noqa: E402

import aimt  # noqa: E402
from aimt.core.errors import DataError, RunError  # noqa: E402
from aimt.core.run import Run  # noqa: E402
from aimt.data.text.token_files import TokenFiles, Tokens, open_tokens, write_tokens  # noqa: E402
from aimt.data.text.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from aimt.deploy.report.card import model_card  # noqa: E402
from aimt.deploy.report.page import render_report, report_data  # noqa: E402
from aimt.deploy.report.text import REPORT  # noqa: E402
from aimt.evaluate.text.language_model import row_losses  # noqa: E402
from aimt.jobs.shared.pipeline import train_source  # noqa: E402
from aimt.models.text.gpt import GPT, GPTConfig  # noqa: E402
from aimt.train.networks.pretrain import StepsFromTime, train_text  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_drawing")

torch.set_num_threads(1)
LETTERS = list("abcdefghijklmnop ")


def noise(n: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(LETTERS, n))


def weights(run: Run) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in load_file(run.path / "model" / "model.safetensors").items()}


@pytest.fixture(scope="module")
def two_tests(tmp_path_factory) -> list[Run]:
    """Two runs whose texts differ in the last tenth: unlearnable noise, or a copy of what was learned."""
    folder, head = tmp_path_factory.mktemp("selection"), noise(9_000, seed=0)
    runs = []
    for name, tail in {"noise": noise(1_000, seed=1), "copy": head[:1_000]}.items():
        (folder / f"{name}.txt").write_text(head + tail)
        runs.append(train_source(folder / f"{name}.txt", out=folder / name, size="nano", steps=80, quiet=True))
    return runs


# ----------------------------------------------------------------------------------------------------------- texts


def test_another_test_text_changes_no_weight(two_tests):
    one, other = (run.read("metrics.json") for run in two_tests)
    assert weights(two_tests[0]) == weights(two_tests[1])
    assert one["kept_bits"] == other["kept_bits"] and one["curve"]["valid"]["bits"] == other["curve"]["valid"]["bits"]
    assert one["bits_per_character"] > other["bits_per_character"] + 0.01, "the score is that of the test text"
    bits = one["curve"]["valid"]["bits"]
    assert bits.index(min(bits)) < len(bits) - 1, "the case needs a choice: the best checkpoint is not the last one"


def test_a_test_that_was_learned_is_found_and_the_parts_are_told(two_tests):
    for run, status in zip(two_tests, ("pass", "hold"), strict=True):
        metrics = run.read("metrics.json")
        assert {g["gate"]: g["status"] for g in metrics["verdict"]["gates"]}["repeats"] == status
        assert [metrics["data"][f"n_{part}_characters"] for part in ("train", "valid", "test")] == [8_500, 500, 1_000]
        assert metrics["scores"]["n_characters"] == 999
        card = (run.path / "card.md").read_text()
        assert "The last 1,000 characters, put away before training and scored once" in card and "The 500 before them" in card


def test_a_test_that_repeats_the_validation_text_is_not_new(tmp_path):
    block = noise(500, seed=4)
    (tmp_path / "some.txt").write_text(noise(8_500, seed=3) + block + block + block)
    run = train_source(tmp_path / "some.txt", out=tmp_path / "run", size="nano", steps=4, quiet=True)
    gates = {g["gate"]: g["status"] for g in run.read("metrics.json")["verdict"]["gates"]}
    assert gates["repeats"] == "hold"


class KeepAll:
    """A hook: losses of the checkpoint of each evaluation on other tokens."""

    def __init__(self, tokens: Tokens):
        self.tokens, self.losses = tokens, []

    def on_eval(self, trainer, row):
        self.losses.append(loss(trainer.model, self.tokens))


def loss(model: GPT, tokens: Tokens) -> float:
    nats, real = row_losses(model, tokens, seq_len=32)
    return float(nats.sum() / real.sum())


def test_the_validation_score_of_the_kept_weights_is_optimistic_and_the_test_score_is_not():
    """On noise each checkpoint is about as good as any other: the best validation loss of 40 is luck, and 20,000 letters tell how much."""
    rng = np.random.default_rng(0)
    much = Tokens.from_array(rng.integers(0, 8, 20_000))
    small = {"n_layer": 1, "n_embd": 16, "n_head": 1, "batch_size": 4, "seq_len": 32, "ngram_buckets": 64, "plan": False, "threads": 1}
    valid_gap, test_gap = [], []
    for seed in range(10):
        train, valid, test = (Tokens.from_array(rng.integers(0, 8, n)) for n in (3_000, 150, 150))
        files = TokenFiles(train, valid, len(train), len(valid), len(valid), vocab_size=8, test=test, n_test_characters=len(test))
        trained = train_text(
            files, None, steps=240, seed=seed, evaluations=40, lr=0.03, schedule="constant", patience=10**6, precision="fp32", **small
        )
        true, kept = loss(trained.model, much), min(row["valid_loss"] for row in trained.history.evals)
        assert trained.measured["valid_loss"] == pytest.approx(kept, abs=1e-4)
        valid_gap.append(kept - true)
        test_gap.append(loss(trained.model, test) - true)
    se = lambda gaps: np.std(gaps, ddof=1) / np.sqrt(len(gaps))
    assert np.mean(valid_gap) < -3 * se(valid_gap), "what chose the weights flatters them"
    assert abs(np.mean(test_gap)) < 3 * se(test_gap) and np.mean(test_gap) > np.mean(valid_gap) / 2


def test_a_tokenizer_of_pieces_sees_the_training_part_alone(tmp_path, monkeypatch):
    words = lambda n, seed: " ".join(np.random.default_rng(seed).choice(["alpha", "beta", "gamma"], n))
    head = words(4_000, 0)
    cut = round(len(head) / 0.85 - len(head))  # held out: characters behind the first 85 %
    merges = []
    for name, tail in {"same": words(4_000, 1)[:cut], "zebras": ("zebra " * cut)[:cut]}.items():
        (tmp_path / f"{name}.txt").write_text(head + tail)
        run = train_source(tmp_path / f"{name}.txt", out=tmp_path / name, tokenizer="bpe", vocab_size=300, size="nano", steps=2, quiet=True)
        merges.append((run.path / "model" / "tokenizer.json").read_text())
    assert merges[0] == merges[1]


def test_a_text_that_is_too_short_is_refused_before_training(tmp_path):
    (tmp_path / "some.txt").write_text(noise(25, seed=0))
    with pytest.raises(DataError, match="too short: 1 tokens for validation and 3 for the test"):
        train_source(tmp_path / "some.txt", out=tmp_path / "run", quiet=True)


# ----------------------------------------------------------------------------------------------- three parts on disk


def test_the_three_parts_are_consecutive_blocks_of_whole_characters_for_every_tokenizer(tmp_path):
    documents = [noise(n, seed=n) for n in (300, 20, 700, 41, 939)]
    (tmp_path / "some.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    for kind in ("char", "byte", "bpe"):
        tokenizer = train_tokenizer(tmp_path / "some.jsonl", kind, 300)
        files = write_tokens(tmp_path / "some.jsonl", tokenizer, tmp_path / kind, valid_fraction=0.05, test_fraction=0.1, shard_tokens=130)
        parts = [tokenizer.decode(part[:]) for part in (files.train, files.valid, files.test)]
        assert "".join(parts) == "".join(documents)
        assert list(map(len, parts)) == [1_700, 100, 200] == [files.n_train_characters, files.n_valid_characters, files.n_test_characters]
        assert sum((part[:] == tokenizer.eot_id).sum() for part in (files.train, files.valid, files.test)) == len(documents) - 1
        again = open_tokens(tmp_path / kind, verify=True)
        assert (again.test[:] == files.test[:]).all() and again.n_test_bytes == 200


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (0.1, 1.0)])
def test_shares_that_leave_nothing_are_refused(tmp_path, shares):
    (tmp_path / "some.txt").write_text(noise(100, seed=0))
    with pytest.raises(ValueError, match="from 0 to below 1"):
        write_tokens(
            tmp_path / "some.txt",
            train_tokenizer(tmp_path / "some.txt", "char"),
            tmp_path / "t",
            valid_fraction=shares[0],
            test_fraction=shares[1],
        )


def as_before(folder) -> None:
    """Token files as an earlier version wrote them: no test part."""
    facts = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps({k: v for k, v in facts.items() if "test" not in k}))


def test_token_files_of_earlier_versions_open_without_a_test(tmp_path):
    (tmp_path / "some.txt").write_text(noise(1_000, seed=0))
    write_tokens(tmp_path / "some.txt", train_tokenizer(tmp_path / "some.txt", "char"), tmp_path / "t")
    as_before(tmp_path / "t")
    files = open_tokens(tmp_path / "t")
    assert (len(files.train), len(files.valid), len(files.test), files.n_test_characters) == (900, 100, 0, 0)


def test_an_interrupted_run_of_an_earlier_version_is_not_resumed(tmp_path):
    text = tmp_path / "some.txt"
    text.write_text(noise(2_000, seed=0))
    run = Run.create(tmp_path / "run", settings={"kind": "text", "source": str(text), "steps": 2, "size": "nano", "seed": 0})
    tokenizer = train_tokenizer(text, "char")
    tokenizer.save(run.path / "model")
    write_tokens(text, tokenizer, run.path / "tokens")
    as_before(run.path / "tokens")
    run.fail("stopped by the user")
    with pytest.raises(RunError, match="held out no test text"):
        train_source(text, out=run.path, resume=True, quiet=True)


def test_an_earlier_run_is_still_reported_and_says_what_its_score_is(two_tests):
    run = two_tests[0]
    files = {name: run.read(name) for name in ("run.json", "metrics.json")}
    new = render_report(report_data(files, REPORT))
    assert "characters of test text the model needs" in new and "they chose the weights" in new
    files["metrics.json"]["data"] = {k: v for k, v in files["metrics.json"]["data"].items() if "test" not in k}
    old, card = render_report(report_data(files, REPORT)), model_card(files, REPORT)
    assert "held-out text, which also chose the weights" in old and "test text the model needs" not in old
    assert "they also chose the weights" in card and "before training and scored once" not in card


# ------------------------------------------------------------------------------------------------------- time limit


class Stepper:
    """Stands in for a trainer whose steps take as long as a function says."""

    def __init__(self, seconds):
        self.seconds, self.now, self.step, self.steps, self.extra = seconds, 0.0, 0, 10**9, {}
        self.parallel = type("Alone", (), {"world": 1, "mean": staticmethod(lambda x: x)})

    def save(self):
        pass

    def run(self, **options) -> float:
        timer = StepsFromTime(100.0, clock=lambda: self.now, **options)
        timer.on_start(self)
        while self.step < self.steps:
            self.step, self.now = self.step + 1, self.now + self.seconds(self.step)
            timer.on_step(self, {})
        return self.now


@pytest.mark.parametrize("slower", [1.0, 2.0, 5.0])
def test_a_training_ends_in_time_when_the_machine_slows_down(slower):
    assert 85 < Stepper(lambda step: 0.1 if step < 200 else 0.1 * slower).run() <= 100


def test_a_slow_moment_is_made_up_for():
    trainer = Stepper(lambda step: 1.0 if 25 < step <= 35 else 0.1)
    assert 85 < trainer.run() <= 100 and trainer.steps > 800


def test_what_follows_the_last_step_is_kept_free():
    assert 65 < Stepper(lambda step: 0.1 if step < 200 else 0.2).run(eval_share=150, end_share=100) <= 80


# ------------------------------------------------------------------------------------------------------ fine-tunings


def test_other_test_examples_change_no_weight_of_a_fine_tuning(tmp_path):
    things = {"cat": "animal", "dog": "animal", "bus": "vehicle", "car": "vehicle"}
    table = pd.DataFrame([(f"{name} {i}", kind) for i in range(20) for name, kind in things.items()], columns=["prompt", "answer"])
    (tmp_path / "story.txt").write_text(" ".join(table["prompt"] + " " + table["answer"]) + "\nQuestion: Answer:\n")
    tokenizer = train_tokenizer(tmp_path / "story.txt", "bpe", 300)
    torch.manual_seed(0)
    GPT(GPTConfig(tokenizer.vocab_size, 1, 1, 16, context=48)).save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    table["split"] = np.where(np.arange(len(table)) < 60, "train", "test")
    wrong = table.assign(
        answer=np.where(table["split"] == "test", table["answer"].map({"animal": "vehicle", "vehicle": "animal"}), table["answer"])
    )
    options = {"model": tmp_path / "model", "steps": 40, "lr": 3e-2, "patience": 3, "quiet": True}
    runs = [aimt.finetune("gpt", rows, out=tmp_path / name, **options) for name, rows in {"right": table, "wrong": wrong}.items()]
    assert weights(runs[0]) == weights(runs[1])
    one, other = (run.read("metrics.json") for run in runs)
    assert one["curve"] == other["curve"]
    assert one["scores"]["figures"]["loss"]["after"] != other["scores"]["figures"]["loss"]["after"]
    assert Tokenizer.load(runs[0].path / "model").vocab_size == tokenizer.vocab_size
