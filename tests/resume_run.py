"""A small training run as a process of its own, for tests and benchmarks that kill it."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 60
TEXT = b"".join(b"%d bottles hang on the wall, and one of them falls. " % i for i in range(99, 0, -1))


class Watch:
    """Tells the parent how far the run is; may slow it down, or be killed by itself."""

    def __init__(self, at: Any, pause: float = 0.0):
        self.at, self.pause = at, pause

    def on_step(self, trainer: Any, row: dict) -> None:
        self.at.value = row["step"]
        time.sleep(self.pause)


class Broken:
    """Batches of which one holds a label that makes the loss NaN; position and all else are those of the real ones."""

    def __init__(self, batches: Any, bad: int):
        self.batches, self.bad, self.n = batches, bad, 0

    def __iter__(self) -> "Broken":
        return self

    def __next__(self) -> dict:
        self.n += 1
        return next(self.batches) | {"nan": self.n == self.bad}

    def state_dict(self) -> dict:
        return {"n": self.n, "batches": self.batches.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.n = state["n"]
        self.batches.load_state_dict(state["batches"])


def make_trainer(folder: Path, hooks: Any = (), *, bad: int = -1, **changes: Any) -> Any:
    """A GPT of two layers with dropout, n-grams, an average, accumulation, evaluation: everything that has a state."""
    import torch

    from aimt.data.text.token_batches import TokenBatches
    from aimt.data.text.token_files import Tokens
    from aimt.models.text.gpt import GPT, GPTConfig, gpt_loss
    from aimt.train.loop.trainer import TrainConfig, Trainer

    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = GPT(GPTConfig(vocab_size=128, n_layer=2, n_head=2, n_embd=32, context=32, dropout=0.1))
    tokens = Tokens.from_array(np.frombuffer(TEXT, dtype=np.uint8).astype(np.uint16))
    batches = Broken(TokenBatches(tokens, 4, 32, seed=3), bad)
    held = next(TokenBatches(tokens, 8, 32, seed=99))

    def loss_fn(model: Any, batch: dict) -> Any:
        loss = gpt_loss(model, {k: v for k, v in batch.items() if k != "nan"})
        return loss * float("nan") if batch["nan"] else loss

    def evaluate(model: Any) -> dict:
        torch.rand(3)  # an evaluation that samples must not change the training
        return {"valid_loss": float(gpt_loss(model, held))}

    config = {"steps": STEPS, "accumulation": 2, "ema": 0.9, "eval_every": 10, "save_every": 7, "precision": "fp32"}
    return Trainer(model, batches, loss_fn, TrainConfig(**config | changes), evaluate=evaluate, folder=folder, hooks=hooks)


def fingerprint(trainer: Any) -> str:
    """A hash over everything that the run is: weights, averages, moments, random generators, all losses."""
    import torch

    digest = hashlib.sha256()
    tensors = {**trainer.model.state_dict(), **trainer.ema.average}
    for i, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().numpy().tobytes())
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in trainer.history.steps + trainer.history.evals]
    backs = [{k: v for k, v in e.items()} for e in trainer.history.events if e["kind"] in ("nan", "spike")]
    digest.update(json.dumps([rows, backs, trainer.batches.state_dict(), trainer.recovery.state_dict()]).encode())
    return digest.hexdigest()


def child(folder: str, at: Any, pause: float, options: dict) -> None:
    """What the process does: train, or go on training; leave the fingerprint when done."""
    trainer = make_trainer(Path(folder), [Watch(at, pause)], **options)
    history = trainer.fit(resume=True)
    result = {"stopped": history.stopped, "step": trainer.step, "fingerprint": fingerprint(trainer)}
    (Path(folder) / "result.json").write_text(json.dumps(result))


def context() -> Any:
    """How processes start: forked from a clean one that has imported everything, or afresh where that does not exist."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    ctx = multiprocessing.get_context("forkserver")
    ctx.set_forkserver_preload(
        ["resume_run", "aimt.train.loop.trainer", "aimt.models.text.gpt", "aimt.data.text.token_batches", "torch._dynamo"]
    )
    return ctx


def run(folder: Path, *, kill_at: int | None = None, wait: float = 0.0, signal_number: int | None = None, **options: Any) -> dict:
    """Start the run; send a signal `wait` seconds after step `kill_at`. Its result, or its exit code when killed."""
    ctx = context()
    at = ctx.Value("i", 0)
    pause = 0.004 if kill_at is not None else 0.0
    process = ctx.Process(target=child, args=(str(folder), at, pause, options))
    process.start()
    if kill_at is not None:
        while at.value < kill_at and process.is_alive():
            time.sleep(0.001)
        time.sleep(wait)
        if process.is_alive():
            os.kill(process.pid, signal_number or signal.SIGKILL) if os.name != "nt" else process.kill()
    process.join(120)
    done = Path(folder) / "result.json"
    return json.loads(done.read_text()) if done.exists() else {"exit": process.exitcode, "step": at.value}
