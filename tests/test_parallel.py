"""Two processes under torchrun train as one does: DDP, FSDP2, checkpoints for other numbers of processes, restarts.

AIMT_SLOW=1 pytest tests/test_parallel.py     also Muon
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

import parallel_worker as worker
from aimt.core.errors import ModelFormatError, RunError
from aimt.train.loop.distributed import Parallel
from aimt.train.loop.sharded_checkpoint import latest_sharded, load_sharded, save_sharded

WORKER = Path(worker.__file__)


def torchrun(*args: object, n: int = 2, restarts: int = 0, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run a command in several processes, as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*command, "--max-restarts", str(restarts), *map(str, args)],
        timeout=timeout,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def alone() -> dict:
    """The trainings in one process."""
    return {name: worker.curves(Parallel(), **changes) for name, changes in worker.CASES.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """What two processes left behind; half a training of one process was there for them to go on with."""
    folder = tmp_path_factory.mktemp("parallel")
    worker.half_way(Parallel(), folder / "one-ddp")
    shutil.copytree(folder / "one-ddp", folder / "one-fsdp")
    done = torchrun(WORKER, "all", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(place: Path, name: str) -> dict:
    return json.loads((place / f"{name}.json").read_text())


SLOW = ["fsdp-muon"] if os.environ.get("AIMT_SLOW") else []


@pytest.mark.parametrize("name", ["ddp-plain", "ddp-accumulation", "fsdp-plain", "fsdp-accumulation", *SLOW])
def test_the_loss_curve_is_that_of_one_process(alone, place, name):
    one, two = alone[name.split("-")[1]], result(place, name)
    near = 2e-3 if "muon" in name else 1e-6  # Muon multiplies in bf16, and pieces are rounded in another order
    assert two["loss"] == pytest.approx(one["loss"], abs=near)
    assert two["evals"] == pytest.approx(one["evals"], abs=near)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=100 * near)
    assert max(one["grad_norm"]) > 0.5, "clipping must matter in this test"
    assert two["tokens"] == one["tokens"]


def test_half_precision_trains_too(alone, place):
    two = result(place, "fsdp-half")
    assert two["loss"][-1] < two["loss"][0] and two["loss"] == pytest.approx(alone["plain"]["loss"], abs=0.05)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_processes_agree_on(place, strategy):
    facts = result(place, f"{strategy}-facts")
    assert facts["words"] == {"mean": 0.5, "any": True, "none": False, "who": 0, "n": 1000}
    assert facts["fresh"], "an evaluation saw old weights"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_accumulation_sends_nothing_and_clipping_sees_all_pieces(place, strategy):
    traffic = result(place, f"{strategy}-facts")["traffic"]
    quiet, loud = traffic["counts"]
    assert quiet == 0 and loud >= 1
    assert traffic["clipped"] == pytest.approx(traffic["norm"], rel=1e-5)
    assert traffic["after"] == pytest.approx(traffic["norm"] / 4, rel=1e-4)
    assert traffic["lr_scale"] == 3.0, "marks of parameters must survive"


@pytest.fixture(scope="module")
def whole() -> dict:
    """The training that others were interrupted in."""
    history = worker.trainer(Parallel(), ema=0.9).fit()
    return {"loss": [r["loss"] for r in history.steps], "evals": [r["bits_per_character"] for r in history.evals]}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_from_the_pieces_of_two(whole, place, strategy):
    assert len(list((place / f"two-{strategy}" / "sharded" / "step-00000004").glob("shard-*"))) == 2
    done = worker.go_on(Parallel(), place / f"two-{strategy}")
    assert done["events"][0]["kind"] == "resumed" and done["events"][0]["step"] == 4
    assert done["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert done["evals"] == pytest.approx(whole["evals"], abs=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_from_one(whole, place, strategy):
    done = result(place, f"{strategy}-one-to-two")
    assert done["events"][0]["kind"] == "resumed" and done["events"][0]["step"] == 4
    assert done["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert done["evals"] == pytest.approx(whole["evals"], abs=1e-6)


def test_a_killed_worker_is_started_again_and_nothing_is_lost(place):
    done = torchrun(WORKER, "elastic", place, restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    again = result(place, "killed/history")
    assert [e["kind"] for e in again["events"]] == ["resumed"] and again["events"][0]["step"] == 4
    assert again["loss"] == result(place, "undisturbed/history")["loss"], "bit for bit"


# ---- checkpoints in pieces, in one process


@pytest.fixture
def trained() -> tuple:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LayerNorm(5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def fresh() -> tuple:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LayerNorm(5))
    return model, torch.optim.AdamW(model.parameters(), lr=0.5)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_everything_comes_back(trained, tmp_path):
    extra = {"step": 7, "nan": math.nan, "pair": (1, "a"), "mask": torch.ones(2, dtype=torch.bool), "none": None}
    save_sharded(tmp_path / "step-00000007", *trained, extra)
    model, optimizer = fresh()
    back = load_sharded(tmp_path / "step-00000007", model, optimizer)
    assert equal(model, trained[0]) and back["pair"] == (1, "a") and math.isnan(back["nan"]) and back["mask"].all()
    assert optimizer.param_groups[0]["lr"] == 0.1
    for p, q in zip(model.parameters(), trained[0].parameters(), strict=True):
        assert all(torch.equal(optimizer.state[p][k], trained[1].state[q][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in {".pt", ".pkl"} or p.name == ".metadata"], "no pickle"


@pytest.mark.parametrize("part", range(10))
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(trained, tmp_path, part):
    for step in (1, 2):
        save_sharded(tmp_path / f"step-{step:08d}", *trained, {"step": step, "noise": torch.rand(50)})
    files = sorted(f for f in (tmp_path / "step-00000002").iterdir())
    for file in files if part else files[:1]:
        data = bytearray(file.read_bytes())
        if part % 2:
            data = data[: len(data) * part // 10]  # truncated
        else:
            data[len(data) * part // 10] ^= 4  # one flipped bit
        file.write_bytes(data)
    model, optimizer = fresh()
    with pytest.raises(ModelFormatError):
        load_sharded(tmp_path / "step-00000002", model, optimizer)
    with pytest.warns(UserWarning, match="skipped"):
        assert latest_sharded(tmp_path) == 1
    assert load_sharded(tmp_path / "step-00000001", model, optimizer)["step"] == 1 and equal(model, trained[0])


def test_a_checkpoint_of_another_model_or_a_newer_version_is_refused(trained, tmp_path):
    save_sharded(tmp_path / "a", *trained, {})
    other = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6))
    with pytest.raises(ModelFormatError, match=r"another model: 0\.bias is \(5,\) there and \(6,\) here"):
        load_sharded(tmp_path / "a", other)
    about = json.loads((tmp_path / "a" / "checkpoint.json").read_text())
    (tmp_path / "a" / "checkpoint.json").write_text(json.dumps(about | {"aimt_format": 99}))
    with pytest.raises(ModelFormatError, match="newer version"):
        load_sharded(tmp_path / "a", *fresh())


def test_a_full_disk_leaves_the_older_checkpoint(trained, tmp_path, monkeypatch):
    import aimt.train.loop.sharded_checkpoint as sharded

    save_sharded(tmp_path / "step-00000001", *trained, {"step": 1})
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(sharded, "_write_bytes", lambda *args: (_ for _ in ()).throw(full))
    with pytest.raises(RunError, match="disk is full"):
        save_sharded(tmp_path / "step-00000001", *trained, {"step": 2})
    assert load_sharded(tmp_path / "step-00000001", *fresh())["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


# ---- the environment


def test_a_half_set_environment_and_an_unknown_strategy_are_refused(monkeypatch):
    with pytest.raises(RunError, match="unknown strategy 'zero'"):
        Parallel.start("zero")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RunError, match="torchrun"):
        Parallel.start()
