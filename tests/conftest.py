"""Settings for every test: one thread in each numerical library, no window, and a way to run the `aimt` command.

The tests stand in two parts, and `.ci/run` runs both:

    pytest             the first part: every room, kind and verb
    pytest -m long     the second part: pages that take over LONG_SECONDS of CPU time, except the fastest page of a room, and
                       tests that are marked `long`
    pytest -m quick    a choice from the first part: the checks of the repository, the fastest page of each room, a run of
                       each kind, and one round of each case of the fuzz test

`pytest FILE` and `pytest -k WORD` run what they name, of whichever part. `pytest --measure` records the CPU time of pages in
tests/seconds.json, by which the parts are chosen. A test that is marked `slow`, ten seconds to minutes of real processes under
load, is run with AIMT_SLOW=1 only.
"""

import json
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy, torch, lightgbm load
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "agg")

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = ROOT / "tests" / "seconds.json"  # Page -> its seconds of CPU time; made by `pytest --measure tests/test_notebooks.py`
LONG_SECONDS = 4.0  # CPU time above which a page is in the second part
QUICK = (  # besides the pages; the fuzz test trains a table, a series, a text and a network first
    "tests/test_repository.py",
    "tests/test_fuzz.py",
    "tests/test_judge.py::test_an_honest_file_of_probabilities_ships",
)
PAGE = re.compile(r"tests/test_notebooks\.py::test_notebook\[(.+)\]")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measure", action="store_true", help="write to tests/seconds.json the CPU time of each page")


def pytest_configure(config: pytest.Config) -> None:
    nothing_named = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    if nothing_named and not config.option.markexpr:
        config.option.markexpr = "not long"
    if config.option.markexpr == "quick":
        os.environ.setdefault("AIMT_FUZZ", "1")
    if config.option.measure and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Stopwatch())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without quick or long tests are not even imported for these, which would take longer than the quick tests themselves."""
    name, part = collection_path.name, config.option.markexpr
    if not name.startswith("test_") or name == "test_notebooks.py":
        return None
    if part == "quick":
        return name not in {Path(chosen.partition("::")[0]).name for chosen in QUICK} or None
    return True if part == "long" and "pytest.mark.long" not in collection_path.read_text(encoding="utf-8") else None


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not long":
        terminalreporter.write_line("This was the first part of the tests; `pytest -m long` runs the second.")


class Stopwatch:
    """Collects the CPU time of each page, and writes it at the end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (page := PAGE.fullmatch(report.nodeid)) and report.when == "call" and report.passed:
            self.seconds[page[1]] = round(dict(report.user_properties)["seconds"], 1)

    def pytest_sessionfinish(self) -> None:
        known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
        found = {page: s for page, s in sorted((known | self.seconds).items()) if (ROOT / "nbs" / f"{page}.ipynb").exists()}
        SECONDS.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8", newline="\n")


def quick_pages() -> set[str]:
    """The fastest page of each room; a room without a measured one has its first."""
    seconds = json.loads(SECONDS.read_text(encoding="utf-8"))
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / "nbs").rglob("*/[0-9]*.ipynb")):
        page = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        rooms.setdefault(page.rpartition("/")[0], []).append(page)
    return {min(pages, key=lambda page: seconds.get(page, float("inf"))) for pages in rooms.values()}


def longest_first(items: list[pytest.Item], seconds: dict[str, float]) -> None:
    """Pages after all other tests and in the order of their seconds, so that no long test begins when the other workers are about to end."""
    usual = sum(seconds.values()) / max(len(seconds), 1)

    def place(item: pytest.Item) -> float:
        page = PAGE.fullmatch(item.nodeid)
        return -seconds.get(page[1], usual) if page else float("-inf")

    items.sort(key=place)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seconds, pages = json.loads(SECONDS.read_text(encoding="utf-8")), quick_pages()
    if hasattr(config, "workerinput"):
        longest_first(items, seconds)
    for item in items:
        page = PAGE.fullmatch(item.nodeid)
        if item.nodeid.startswith(QUICK) or (page and page[1] in pages):
            item.add_marker("quick")
        elif page and seconds.get(page[1], 0) > LONG_SECONDS:
            item.add_marker("long")
        if (slow := item.get_closest_marker("slow")) and not os.environ.get("AIMT_SLOW"):
            item.add_marker(pytest.mark.skip(reason=f"{slow.kwargs.get('reason', 'real processes under load')}; AIMT_SLOW=1 runs it"))


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


@pytest.fixture(scope="module")
def no_drawing():
    """Reports hold an empty picture for each figure: to draw them takes half of the time of a small training.

    For files whose tests are about something else; tests/test_report.py, tests/test_command.py and the pages draw.
    """
    from aimt.deploy.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "svg", lambda figure, label="": '<svg aria-hidden="true" style="max-width:360pt;width:100%"></svg>')
        yield


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
