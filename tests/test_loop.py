"""The training loop when things go wrong: full disks, damaged checkpoints, NaN, no memory, two runs at once.

AIMT_SLOW=1 pytest tests/test_loop.py     also torch.compile
"""

import json
import math
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from aimt.core.errors import DataError, MissingExtraError, ModelFormatError, ProblemError, RunError
from aimt.train.loop.checkpoint import Checkpoints
from aimt.train.loop.trainer import History, TrainConfig, Trainer

torch.set_num_threads(1)
WIDTH = 16


class Stop:
    """Asks for an end after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, trainer, row):
        if row["step"] == self.step:
            trainer.stop()


def make(width: int = WIDTH, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))


def rows(n: int = 64) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 8, generator=g)
    return {"x": x, "y": (x[:, 0] > 0).long()}


def split(batch: dict, n: int) -> list[dict]:
    return [{k: v[i::n] for k, v in batch.items()} for i in range(n)]


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def trainer(folder=None, *, model=None, batches=None, loss=loss_fn, steps=60, **options) -> Trainer:
    hooks, evaluate = options.pop("hooks", ()), options.pop("evaluate", None)
    config = TrainConfig(steps=steps, precision="fp32", device="cpu", **({"save_every": 10} | options))
    return Trainer(model or make(), batches or split(rows(), 4), loss, config, folder=folder, hooks=hooks, evaluate=evaluate)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- what a loop must do


def test_it_learns_and_tells():
    history = trainer(evaluate=lambda m: {"valid_loss": float(loss_fn(m, rows()))}, eval_every=20).fit()
    assert history.steps[-1]["loss"] < 0.7 * history.steps[0]["loss"]
    assert [e["step"] for e in history.evals] == [20, 40, 60]
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_accumulation_is_a_larger_batch():
    plain = [make().eval(), make().eval()]
    one, two = (
        Trainer(m, b, loss_fn, TrainConfig(steps=1, precision="fp32", accumulation=a, optimizer="sgd", lr=0.1))
        for m, b, a in zip(plain, ([rows()], split(rows(), 4)), (1, 4), strict=True)
    )
    for t in (one, two):
        t.model[2].p = 0.0
        t.fit()
    assert torch.allclose(weights(one.model), weights(two.model), atol=1e-6)


def test_same_seed_same_bits_and_the_callers_random_numbers_stay():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (trainer(seed=s) for s in (0, 0, 1))
    torch.set_rng_state(before)
    for t in (first, second, other):
        t.fit()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first.model), weights(second.model))
    assert not torch.equal(weights(first.model), weights(other.model))


def test_early_stopping_keeps_the_best_weights():
    figures, seen = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0]), {}

    def evaluate(model):
        seen[len(seen)] = weights(model).clone()
        return {"valid_loss": next(figures)}

    t = trainer(evaluate=evaluate, eval_every=10, patience=2, steps=100)
    history = t.fit()
    assert (history.stopped, t.step) == ("patience", 40)
    assert torch.equal(weights(t.model), seen[1])


def test_average_is_evaluated_and_kept():
    t = trainer(evaluate=lambda m: {"valid_loss": float(weights(m)[0])}, ema=0.9)
    history = t.fit()
    assert torch.equal(weights(t.model), torch.cat([v.flatten() for v in t.ema.average.values()]))
    assert history.evals[-1]["valid_loss"] == float(weights(t.model)[0])


def test_a_hook_may_change_the_number_of_steps_and_finds_its_notes_again(tmp_path):
    class Shorter:
        def on_step(self, t, row):
            if row["step"] == 12:
                t.steps, t.extra["note"] = 30, [1, "two"]

    first = trainer(tmp_path, hooks=[Shorter(), Stop(25)])
    first.fit()
    again = trainer(tmp_path)
    again.fit(resume=True)
    assert (again.step, again.extra) == (30, {"note": [1, "two"]})
    alone = trainer(hooks=[Shorter()])
    alone.fit()
    assert torch.equal(weights(alone.model), weights(again.model))


def test_plain_iterators_are_read_up_to_the_place(tmp_path):
    def endless():
        k = 0
        while True:
            yield {k_: v.roll(k, 0) for k_, v in rows(16).items()}
            k += 1

    trainer(tmp_path, batches=endless(), hooks=[Stop(23)]).fit()
    again, alone = trainer(tmp_path, batches=endless()), trainer(batches=endless())
    again.fit(resume=True)
    alone.fit()
    assert torch.equal(weights(alone.model), weights(again.model))


def test_senseless_settings():
    senseless = {"steps": 0, "lr": -1.0, "optimizer": "adam", "schedule": "step", "precision": "fp8", "accumulation": 0}
    for settings in ({k: v} for k, v in senseless.items()):
        with pytest.raises(ProblemError, match=next(iter(settings))):
            TrainConfig(**({"steps": 10} | settings))
    with pytest.raises(ProblemError, match="device"):
        trainer_device = TrainConfig(steps=10, device="quantum")
        Trainer(make(), [rows()], loss_fn, trainer_device)
    with pytest.raises(DataError, match="ended"):
        trainer(batches=iter(split(rows(), 4))).fit()


@pytest.mark.slow(reason="torch.compile")
def test_compiled_is_the_same():
    plain, compiled = trainer(steps=20), trainer(steps=20, compile=True)
    plain.model[2].p = compiled.model[2].p = 0.0
    plain.fit()
    compiled.fit()
    assert torch.allclose(weights(plain.model), weights(compiled.model), atol=1e-5)


def test_compile_without_a_compiler_trains_all_the_same(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here")

    t = trainer(steps=5, compile=False)
    t.model.compile(backend=broken)
    t.config = TrainConfig(steps=5, compile=True, precision="fp32")
    assert t.fit().stopped == "steps"


# ---- NaN, spikes, memory


def test_divergence_gives_up_with_the_evidence():
    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4))

    explode = lambda m, b: (m.w**4).sum()
    t = trainer(model=Explodes(), loss=explode, lr=1e4, optimizer="sgd", clip=0, schedule="constant", warmup=0)
    match = "diverges after 3 roll-backs.*largest gradients: w"
    with warnings.catch_warnings(record=True) as told, pytest.raises(RunError, match=match) as caught:
        warnings.simplefilter("always")
        t.fit()
    assert [str(w.message).rpartition(" x ")[2] for w in told] == ["0.5", "0.25", "0.125"]
    assert {"step", "loss", "grad_norm", "losses", "largest_gradients", "lr"} <= caught.value.evidence.keys()
    assert t.history.stopped == "error"


def test_a_spike_is_left_behind():
    """The loss explodes as long as the rate is high; with half the rate all is well."""
    t = trainer(steps=150, schedule="constant")
    t.loss_fn = lambda m, b: loss_fn(m, b) * (50 if t.step >= 100 and t.recovery.factor == 1 else 1)
    with pytest.warns(UserWarning, match="learning rate x 0.5"):
        history = t.fit()
    (event,) = history.events
    assert (event["kind"], event["step"], event["back_to"], history.stopped) == ("spike", 104, 100, "steps")
    assert history.steps[-1]["lr"] == pytest.approx(0.5 * history.steps[50]["lr"])


def test_without_tries_a_nan_ends_the_run_and_a_spike_does_not():
    t = trainer(steps=150, max_retries=0)
    t.loss_fn = lambda m, b: loss_fn(m, b) * (50 if t.step >= 100 else 1)
    assert t.fit().stopped == "steps"
    with pytest.raises(RunError, match="diverges: loss nan"):
        trainer(loss=lambda m, b: loss_fn(m, b) * math.nan, max_retries=0).fit()


# ---- the directory of a run


def test_a_directory_with_another_run_is_not_overwritten(tmp_path):
    trainer(tmp_path, hooks=[Stop(10)]).fit()
    with pytest.raises(RunError, match="contains checkpoints of a run, up to step 10.*resume=True"):
        trainer(tmp_path).fit()
    assert trainer(tmp_path).fit(resume=True).steps[-1]["step"] == 60


def test_resuming_without_checkpoints_begins(tmp_path):
    assert trainer(tmp_path / "new").fit(resume=True).steps[0]["step"] == 1


@pytest.fixture
def saved(tmp_path) -> Path:
    """A run that was stopped at step 25: checkpoints 20 and 25."""
    trainer(tmp_path, hooks=[Stop(25)]).fit()
    assert Checkpoints(tmp_path).steps() == [20, 25]
    return tmp_path


def resumed_at(folder: Path) -> int:
    t = trainer(folder, steps=30)
    history = t.fit(resume=True)
    return next(e["step"] for e in history.events if e["kind"] == "resumed")


FILES = ("tensors.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:resumed with other settings")
def test_truncated_at_each_tenth(saved, name, tmp_path_factory):
    for tenth in range(10):
        folder = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(saved, folder)
        file = folder / "step-000000025" / name
        os.truncate(file, file.stat().st_size * tenth // 10)
        with pytest.warns(UserWarning, match="is damaged.*skipped"):
            assert Checkpoints(folder).latest() == 20
    with pytest.warns(UserWarning, match="skipped"):
        assert resumed_at(folder) == 20


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(saved, name):
    file = saved / "step-000000025" / name
    good = file.read_bytes()
    for k in range(0, len(good), max(1, len(good) // 40)):
        bad = bytearray(good)
        bad[k] ^= 1 << (k % 8)
        file.write_bytes(bad)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Checkpoints(saved).latest()
        except ModelFormatError as e:  # the bit made the version a newer one
            assert name == "manifest.json" and "format" in str(e)
            continue
        assert found == 20, f"byte {k} of {name}"


def test_a_missing_file_and_a_renamed_checkpoint(saved):
    (saved / "step-000000025" / "state.json").unlink()
    (saved / "step-000000020").rename(saved / "step-000000021")
    t = trainer(saved)
    match = "none of the checkpoints is good"
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ModelFormatError, match=match):
        t.fit(resume=True)


def test_from_another_model(saved):
    with pytest.raises(ModelFormatError, match="those of another model.*another shape: 0.bias"):
        trainer(saved, model=make(width=20)).fit(resume=True)
    with pytest.raises(ModelFormatError, match="missing: 4.bias"):
        trainer(saved, model=nn.Sequential(*make(), nn.Linear(2, 2))).fit(resume=True)
    with pytest.warns(UserWarning, match="optimizer"), pytest.raises(ModelFormatError, match="another optimizer"):
        trainer(saved, optimizer="sgd").fit(resume=True)


# ---- a full disk


@pytest.mark.skipif(os.name == "nt", reason="there are no file-size limits")
def test_a_real_limit_of_the_system(tmp_path):
    import resource

    checkpoints = Checkpoints(tmp_path, background=False)
    checkpoints.save(1, {"w": torch.ones(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(RunError, match="the disk is full"):
            checkpoints.save(2, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (checkpoints.steps(), checkpoints.latest()) == ([1], 1)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="in the way"):
        trainer(tmp_path / "file").fit()


# ---- writers


def test_a_missing_tool_is_named(monkeypatch, tmp_path):
    from aimt.train.loop.loggers import WandbWriter

    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'aimt\[tracking\]'"):
        WandbWriter(tmp_path)


@pytest.mark.slow(reason="mlflow and wandb")
def test_mlflow_and_wandb_write_locally_and_go_on_after_a_resume(tmp_path, monkeypatch):
    mlflow, _ = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    from aimt.train.loop.loggers import MLflowWriter, WandbWriter

    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")  # whoever calls home is refused
    hooks = lambda: [MLflowWriter(tmp_path / "ml", every=1), WandbWriter(tmp_path / "wb")]
    trainer(tmp_path / "run", hooks=[*hooks(), Stop(25)], evaluate=lambda m: {"valid_loss": 1.0}, eval_every=20).fit()
    t = trainer(tmp_path / "run", hooks=hooks(), evaluate=lambda m: {"valid_loss": 1.0}, eval_every=20)
    t.fit(resume=True)
    client = mlflow.MlflowClient(f"file://{tmp_path / 'ml'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "aimt"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 61))
    assert run.info.status == "FINISHED"
    assert list((tmp_path / "wb").rglob("*.wandb"))
