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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file share what they set up, so they stay in one worker; notebooks go wherever there is room."""
    for item in items:
        if item.path.name != "test_notebooks.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))


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
            command, cwd=cwd, timeout=timeout, env=os.environ | env, stdin=subprocess.DEVNULL,
            capture_output=True, encoding="utf-8",
        )

    return run
