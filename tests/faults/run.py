"""What happens to a training on its way: signals, full disks, no memory, NaN, clocks, a second process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import aimt
from aimt.core.errors import AimtError, DataError, RunError
from aimt.core.run import Run
from faults import inputs as bad
from faults.case import Group, Place

running = Group("run")


def trainer(
    folder: Path | None = None,
    *,
    bad_step: int = 0,
    scale: float = np.nan,
    hook: Callable[[Any], Any] | None = None,
    loss: Any = None,
    steps: int = 60,
    **config: Any,
) -> Any:
    """A small network in the training loop; one batch, or all of them (-1), is multiplied by `scale`."""
    import torch
    from torch import nn

    from aimt.train.loop.trainer import TrainConfig, Trainer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(256, 8)
    batches = [{"x": x[i::64] * (scale if bad_step in (-1, i + 1) else 1), "y": (x[i::64, 0] > 0).long()} for i in range(64)]
    loss = loss or (lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]))
    hooks = [type("Hook", (), {"on_step": lambda self, t, row: hook(t)})()] if hook else []
    return Trainer(
        model, batches, loss, TrainConfig(steps=steps, precision="fp32", device="cpu", save_every=10, **config), folder=folder, hooks=hooks
    )


def weights(t: Any) -> Any:
    import torch

    return torch.cat([p.detach().flatten() for p in t.model.parameters()])


def at_step(step: int, act: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda t: act() if t.step == step else None


def resumed_equals_alone(history: Any, place: Place) -> bool:
    """Whether training goes on from the last checkpoint and ends with the same bits as one that nobody stopped."""
    again, alone = trainer(place.path / "run"), trainer()
    again.fit(resume=True), alone.fit()
    return bool((weights(again) == weights(alone)).all())


def full_disk(place: Place, first: int, last: int) -> Callable[[], Any]:
    """Checkpoints number `first` to `last` are written to a full disk."""
    from aimt.train.loop import checkpoint

    real, count = checkpoint._write_parts, iter(range(10**6))

    def write(folder: Path, *args: Any) -> None:
        if first <= next(count) <= last:
            (folder / "tensors.safetensors").write_bytes(b"half a fi")
            raise OSError(28, "No space left on device")
        real(folder, *args)

    place.patch.setattr(checkpoint, "_write_parts", write)
    return lambda: trainer(place.path / "run").fit()


STOPPED = "Saved and stopped; resumed, it ends with the same bits as a run that nobody stopped."
running.recovered(
    "SIGTERM",
    "other",
    STOPPED,
    lambda p: lambda: trainer(p.path / "run", hook=at_step(25, lambda: os.kill(os.getpid(), signal.SIGTERM))).fit(),
    lambda h, p: h.stopped == "SIGTERM" and resumed_equals_alone(h, p),
    posix=True,
)
running.recovered(
    "Ctrl-C",
    "other",
    STOPPED,
    lambda p: lambda: trainer(p.path / "run", hook=at_step(25, lambda: os.kill(os.getpid(), signal.SIGINT))).fit(),
    lambda h, p: h.stopped == "SIGINT" and resumed_equals_alone(h, p),
    posix=True,
)
running.recovered(
    "SIGKILL",
    "other",
    "Resumed from the last checkpoint, it ends with the same bits as a run that nobody stopped.",
    lambda p: lambda: killed(p),
    lambda runs, p: runs["killed"] != 0 and runs["again"] == runs["alone"],
    posix=True,
)
running.refused(
    "SIGKILL of the process that writes a run",
    "other",
    "Opened, it says where it was interrupted, and how to go on.",
    lambda p: lambda: killed_writer(p),
    RunError,
    "interrupted at stage 'Train'",
    "--overwrite",
    posix=True,
)
running.recovered(
    "a disk that is full for a while",
    "other",
    "The training goes on, with a warning; later checkpoints are written.",
    lambda p: full_disk(p, 2, 3),
    lambda h, p: [e["kind"] for e in h.events] == ["checkpoint failed"] * 2 and (p.path / "run/step-000000060").is_dir(),
    "the disk is full",
)
running.refused(
    "a disk that is full to the end",
    "other",
    "The error says so; the last good checkpoint stays, and the run can be resumed.",
    lambda p: full_disk(p, 3, 10**6),
    RunError,
    "the disk is full",
    holds=lambda _, p: sorted(f.name for f in (p.path / "run").glob("step-*")) == ["step-000000010", "step-000000020"],
)
running.refused(
    "a full disk while a table is trained",
    "other",
    "The error says so; the run says that it failed, and nothing half-written is left.",
    lambda p: lambda: limited_size(p, lambda: aimt.train(bad.customers(), target="left", time_limit=1, out=p.path / "run", quiet=True)),
    AimtError,
    "disk is full",
    posix=True,
)
running.refused(
    "a full disk while predictions are written",
    "other",
    "The error says so; no half file is left.",
    lambda p: lambda: limited_size(p, lambda: p.shared.run.predict(pd.concat([bad.customers()] * 20), out=p.path / "out.csv", quiet=True)),
    AimtError,
    "disk is full",
    posix=True,
)
running.refused(
    "a directory that cannot be written",
    "other",
    "The place is named.",
    lambda p: lambda: aimt.train(bad.customers(), target="left", time_limit=1, out="/sys/run", quiet=True),
    RunError,
    "/sys",
    "cannot be written",
    posix=True,
)
running.refused(
    "a directory with files of somebody else",
    "other",
    "Nothing is overwritten.",
    lambda p: taken(p),
    RunError,
    "photos",
    holds=lambda _, p: (p.path / "photos/beach.jpg").read_bytes() == b"mine",
)
running.refused(
    "out of memory in the training loop",
    "other",
    "The error names the batch size and three remedies.",
    lambda p: trainer(loss=lambda m, b: __import__("torch").empty(2**50)).fit,
    RunError,
    "out of memory on cpu at step 1",
    "batch_size",
    "accumulation",
)
running.recovered(
    "out of memory in one of the models for a table",
    "train",
    "This model is dropped and named; the others are used.",
    lambda p: starved(p),
    lambda run, p: (
        any(c.get("error") for c in run.read("metrics.json")["candidates"]) and "a recipe failed" in {f["name"] for f in aimt.doctor(run)}
    ),
)
running.recovered(
    "a worker process that dies",
    "train",
    "Its models are dropped and named; the others, on new workers, are used.",
    lambda p: dying_worker(p),
    lambda run, p: (
        any(c.get("error") for c in run.read("metrics.json")["candidates"]) and "a recipe failed" in {f["name"] for f in aimt.doctor(run)}
    ),
    slow=True,
    posix=True,
)
running.recovered(
    "a loss of NaN in one batch",
    "other",
    "Rolled back to the last good state, with the reason; the batch is left out.",
    lambda p: lambda: trainer(bad_step=41).fit(),
    lambda h, p: (h.events[0]["step"], h.events[0]["back_to"]) == (41, 40) and [r["step"] for r in h.steps] == list(range(1, 61)),
    "'x' is not finite in row 0",
)
running.refused(
    "data of NaN in all batches",
    "other",
    "Three roll-backs, then an error that names the input.",
    lambda p: trainer(bad_step=-1).fit,
    DataError,
    "the data is not finite after 3 roll-backs: 'x'",
)
running.refused(
    "a learning rate far too high",
    "other",
    "Three roll-backs with half the rate each, then an error with the evidence.",
    lambda p: trainer(lr=1e30, optimizer="sgd", clip=0, schedule="constant", warmup=0).fit,
    RunError,
    "diverges after 3 roll-backs",
)
running.recovered(
    "the clock is set back by ten years",
    "other",
    "The training goes on, and its times stay in order.",
    lambda p: lambda: clock_jump(p).fit(),
    lambda h, p: h.stopped == "steps" and [r["seconds"] for r in h.steps] == sorted(r["seconds"] for r in h.steps),
)
running.refused(
    "two trainings in one directory",
    "other",
    "The second is refused; the first goes on.",
    lambda p: lambda: twice(p),
    RunError,
    "another run is training in this directory",
    "choose another directory",
)
running.refused(
    "an unfinished run is opened",
    "other",
    "The error says why it ended and how to go on.",
    lambda p: lambda: unfinished(p),
    RunError,
    "a bad day",
    "--overwrite",
)
running.recovered(
    "a process forked after threads were started",
    "other",
    "The child reads, trains and predicts; it does not hang.",
    lambda p: lambda: forked(p),
    lambda code, p: code == 0,
    posix=True,
)


def killed(place: Place) -> dict[str, Any]:
    """A training in a process of its own that is killed and goes on, beside one that is left alone."""
    from resume_run import run as run_process

    first = run_process(place.path / "run", kill_at=23, steps=40)
    return {
        "killed": first.get("exit", 0),
        "again": run_process(place.path / "run", steps=40),
        "alone": run_process(place.path / "alone", steps=40),
    }


def killed_writer(place: Place) -> Run:
    """Open a run whose process was killed in the stage of training."""
    code = (
        "import sys, time\nfrom aimt.core.run import Run\nRun.create(sys.argv[1]).enter('Train')\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(place.path / "run")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline().strip() == b"ready"
    process.kill()
    process.communicate()
    return Run.open(place.path / "run")


def limited_size(place: Place, act: Callable[[], Any]) -> Any:
    """Do something while no file may be larger than 20 kB, which stands for a full disk; afterwards nothing half-written is there."""
    import resource

    place.shared.run  # noqa: B018 made before the disk is full
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        return act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        left = [p.name for p in place.path.rglob("*")]
        assert not [name for name in left if ".tmp" in name or name == "out.csv"], left
        if (place.path / "run").exists():
            assert Run.open(place.path / "run", unfinished=True).status == "failed"


def taken(place: Place) -> Callable[[], Any]:
    (place.path / "photos").mkdir()
    (place.path / "photos/beach.jpg").write_bytes(b"mine")
    return lambda: aimt.train(bad.customers(), target="left", time_limit=1, out=place.path / "photos", overwrite=True, quiet=True)


def starved(place: Place) -> pd.DataFrame:
    from aimt.models.table import recipe_search

    real = recipe_search.cross_fit

    def fails(candidate: Any, *args: Any, **options: Any) -> Any:
        if candidate.kind != "linear" and "31" in candidate.name:
            raise MemoryError
        return real(candidate, *args, **options)

    place.patch.setattr(recipe_search, "cross_fit", fails)
    return bad.numbers()


def clock_jump(place: Place) -> Any:
    real = time.time
    t = trainer(place.path / "run")
    place.patch.setattr(time, "time", lambda: real() - (3e8 if t.step > 25 else 0))
    return t


def twice(place: Place) -> None:
    errors = []

    def second() -> None:
        try:
            trainer(place.path / "run").fit(resume=True)
        except RunError as error:
            errors.append(error)

    assert trainer(place.path / "run", hook=at_step(5, second)).fit().stopped == "steps"
    raise errors[0]


def unfinished(place: Place) -> Run:
    from aimt.core.run import Run as Runs

    run = Runs.create(place.path / "run", settings={"source": "t.csv"})
    run.fail("a bad day")
    return Runs.open(place.path / "run")


def forked(place: Place) -> int:
    place.shared.run.predict(bad.customers(), quiet=True)  # starts the threads of Arrow and of the trees
    bad.customers().to_csv(place.path / "t.csv", index=False)
    code = (
        "import os, sys, aimt\nrun, table = sys.argv[1:]\nframe = aimt.load_table(table).frame\naimt.predict(run, frame, quiet=True)\n"
        "child = os.fork()\nif child == 0:\n    aimt.load_table(table)\n    aimt.predict(run, frame, quiet=True)\n    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    words = [sys.executable, "-c", code, str(place.shared.run.path), str(place.path / "t.csv")]
    return subprocess.run(words, timeout=60, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "4"}).returncode


def dying_worker(place: Place) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Two workers; one is killed as the system does when memory runs out, in the first fit of trees."""
    from aimt.models.table import parallel_fit

    place.patch.setattr(parallel_fit, "_fit_part", _fit_or_die)
    return bad.numbers(), {"cluster": "local:2", "time_limit": 30}


def _fit_or_die(request: Any, *rest: Any) -> Any:
    from aimt.models.table.parallel_fit import _fit_part

    if request.candidate.kind == "trees" and "31" in request.candidate.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return _fit_part(request, *rest)
