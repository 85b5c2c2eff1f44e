"""What the processes of tests/test_parallel.py run: ``torchrun --nproc-per-node 2 tests/parallel_worker.py TASK FOLDER ...``."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aimt.data.text.token_batches import TokenBatches
from aimt.data.text.token_files import Tokens
from aimt.models.text.gpt import GPT, GPTConfig, gpt_eval, gpt_loss
from aimt.train.loop.trainer import TrainConfig, Trainer
from aimt.train.loop.distributed import Parallel

GLOBAL_BATCH, SEQ_LEN, STEPS = 8, 16, 8


def tokens() -> Tokens:
    """A text with a rule in it: each token is a function of the two before it, most of the time."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, 3000)
    for i in range(2, len(ids)):
        if rng.random() < 0.7:
            ids[i] = (3 * ids[i - 1] + ids[i - 2]) % 40
    return Tokens.from_array(ids.astype(np.uint16))


def trainer(parallel: Parallel, folder: Path | None = None, hooks: list = [], dropout: float = 0.0, **changes) -> Trainer:  # noqa: B006
    """The same training in any number of processes: equal weights, equal global batches."""
    torch.manual_seed(0)
    config = GPTConfig(
        40, n_layer=2, n_head=2, n_embd=32, context=SEQ_LEN, dropout=dropout, value_embeddings=True, ngram_orders=(2,), ngram_buckets=64
    )
    text = tokens()
    batches = TokenBatches(text, GLOBAL_BATCH // parallel.world, SEQ_LEN, rank=parallel.rank, world=parallel.world)
    evaluate = lambda model: gpt_eval(model, text[2700:], batch_size=8, seq_len=SEQ_LEN, n_characters=300)
    settings = {"steps": STEPS, "lr": 3e-3, "clip": 0.5, "precision": "fp32", "device": "cpu", "eval_every": 5} | changes
    return Trainer(
        GPT(config), batches, gpt_loss, TrainConfig(**settings), evaluate=evaluate, folder=folder, hooks=hooks, parallel=parallel
    )


def curves(parallel: Parallel, **changes) -> dict:
    """Loss, gradient norm and evaluations of a training, and its weights at the end."""
    t = trainer(parallel, **changes)
    history = t.fit()
    return {
        "loss": [row["loss"] for row in history.steps],
        "grad_norm": [row["grad_norm"] for row in history.steps],
        "evals": [row["bits_per_character"] for row in history.evals],
        "tokens": history.steps[-1]["tokens"],
        "weights": {k: v.double().sum().item() for k, v in parallel.gather(t.model).items()},
    }


CASES = {  # Name: settings of the training
    "plain": {},
    "accumulation": {"accumulation": 3},
    "half": {"precision": "bf16"},
} | ({"muon": {"optimizer": "muon"}} if os.environ.get("AIMT_SLOW") else {})


class StopAt:
    """Asks the training to stop after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, trainer: Trainer, row: dict) -> None:
        if row["step"] == self.step:
            trainer.stop()


class Die:
    """Kills process 1 at a step, the first time the processes run."""

    def on_step(self, trainer: Trainer, row: dict) -> None:
        if row["step"] == 5 and trainer.parallel.rank == 1 and not trainer.parallel.restarted:
            os.kill(os.getpid(), signal.SIGKILL)


def train_all(parallel: Parallel, folder: Path, names: list[str]) -> None:
    """One training for each case."""
    for name in names:
        note(parallel, folder / f"{parallel.strategy}-{name}.json", curves(parallel, **CASES[name]))


def half_way(parallel: Parallel, folder: Path) -> None:
    """A training that stops in the middle, with a checkpoint."""
    trainer(parallel, folder, [StopAt(4)], ema=0.9).fit()


def go_on(parallel: Parallel, folder: Path) -> dict:
    """The second half of a training that `half_way` began."""
    t = trainer(parallel, folder, ema=0.9)
    history = t.fit(resume=True)
    return {"loss": [r["loss"] for r in history.steps], "evals": [r["bits_per_character"] for r in history.evals], "events": history.events}


def note(parallel: Parallel, path: Path, value: dict) -> None:
    if parallel.main:
        path.write_text(json.dumps(value))


# ---- what several processes agree on, in numbers


def words(parallel: Parallel) -> dict:
    """mean, any, share, main_first."""
    order = torch.zeros(1)
    with parallel.main_first():
        order += 1
    shared = parallel.share({"who": parallel.rank, "text": "ä" * 1000, "nan": float("nan")})
    return {
        "mean": parallel.mean(float(parallel.rank)),
        "any": parallel.any(parallel.rank == 1),
        "none": parallel.any(False),
        "who": shared["who"],
        "n": len(shared["text"]),
    }


def traffic(parallel: Parallel) -> dict:
    """Messages of a backward pass inside and outside of `no_sync`, and the clipped norm against whole gradients."""
    from torch.distributed.tensor.debug import CommDebugMode

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].weight.lr_scale = 3.0
    wrapped = parallel.wrap(model)
    loss = lambda m, x: m(x).square().mean()
    torch.manual_seed(parallel.rank)
    counts = []
    for quiet in (True, False):
        with CommDebugMode() as messages, parallel.no_sync(wrapped) if quiet else nothing():
            parallel.call(wrapped, loss, torch.randn(4, 8)).backward()
        sums = {k: v for k, v in messages.get_comm_counts().items() if "reduce" in str(k)}
        counts.append(sum(sums.values()))
    whole = [whole_tensor(p.grad).double() for p in model.parameters()]
    norm = float(torch.cat([g.flatten() for g in whole]).norm())
    clipped = parallel.clip(model, norm / 4)
    after = float(torch.cat([whole_tensor(p.grad).double().flatten() for p in model.parameters()]).norm())
    return {"counts": counts, "norm": norm, "clipped": clipped, "after": after, "lr_scale": model[0].weight.lr_scale}


def whole_tensor(t: torch.Tensor) -> torch.Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...


def fresh_weights(parallel: Parallel) -> bool:
    """Whether an evaluation sees an update that was made after the one before (gathered weights must not grow stale)."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    wrapped = parallel.wrap(model)
    look = lambda m: float(m(torch.ones(1, 4)).sum())
    before = parallel.evaluate(wrapped, look)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    return abs(parallel.evaluate(wrapped, look) - before - 4 * 4 - 4) < 1e-5


def perhaps_killed(parallel: Parallel, folder: Path, hooks: list) -> None:
    """A training with random numbers in it and a checkpoint every 2 steps."""
    history = trainer(parallel, folder, hooks, dropout=0.2, save_every=2).fit()
    note(parallel, folder / "history.json", {"loss": [r["loss"] for r in history.steps], "events": history.events})


def main(task: str, folder: Path) -> None:
    """One of the tasks of the tests."""
    group = Parallel.start("ddp")
    if task == "elastic":
        perhaps_killed(group, folder / "killed", [Die()])
        return group.stop()
    perhaps_killed(group, folder / "undisturbed", [])
    for strategy in ("ddp", "fsdp"):
        parallel = Parallel.start(strategy)  # uses the group that is there
        train_all(parallel, folder, ["plain", "accumulation"] if strategy == "ddp" else list(CASES))
        half_way(parallel, folder / f"two-{strategy}")
        note(parallel, folder / f"{strategy}-one-to-two.json", go_on(parallel, folder / f"one-{strategy}"))
        facts = {"words": words(parallel), "traffic": traffic(parallel), "fresh": fresh_weights(parallel)}
        note(parallel, folder / f"{strategy}-facts.json", facts)
    group.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
