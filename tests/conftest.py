"""Settings for every test: one thread in each numerical library, no window, and a way to run the `aimt` command."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy, torch, lightgbm load
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "agg")

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Tests of a file share what they set up, so they stay in one worker; notebooks go wherever there is room."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return nodeid if file.endswith("test_notebooks.py") else file

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same random numbers in every run, whichever test came before: a tolerance holds always or never."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def aimt():
    """Run the command as a user does, in a process of its own: ``aimt("env", "--json").stdout``."""

    def run(*args: object, cwd: Path | None = None, timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "aimt", *map(str, args)]
        return subprocess.run(
            command, cwd=cwd, timeout=timeout, env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
        )

    return run


@pytest.fixture
def aimt_here(monkeypatch):
    """The same command in this process, without a start of its own: for the many mistakes that end before any work."""
    from typer.testing import CliRunner

    from aimt.cli.main import app

    def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        words = [*map(str, args)]
        with monkeypatch.context() as place:
            if cwd is not None:
                place.chdir(cwd)
            place.setattr(sys, "argv", ["aimt", *words])
            done = CliRunner().invoke(app, words)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    return run
