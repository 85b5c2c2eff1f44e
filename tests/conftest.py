"""Settings for every test: one thread in each numerical library, no window, and a way to run the `aimt` command.

The tests stand in two parts, and `.ci/run` runs both:

    pytest             the first part: every room, kind and verb, by pages and tests that take at most LONG_SECONDS of CPU time
    pytest -m long     the second part: the pages and tests that take more, except the fastest page of a room
    pytest -m quick    a choice from the first part: the checks of the repository, the fastest page of each room, a run of
                       each kind, and one round of each case of the fuzz test

tests/seconds.json has the seconds, and `pytest --measure FILE` measures them again: of each page, and of each test that takes over
a second, without the fixtures that it shares. `pytest FILE` and `pytest -k WORD` run what they name, of whichever part. A test
that is marked `slow`, ten seconds to minutes of real processes under load, is run with AIMT_SLOW=1 only.
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
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = ROOT / "tests" / "seconds.json"  # Page or test -> its seconds of CPU time; made by `pytest --measure`
LONG_SECONDS = 2.0  # CPU time above which a page or a test is in the second part
MEASURED_SECONDS = 1.0  # CPU time above which the seconds of a test are kept
QUICK = (  # besides the pages; the fuzz test trains a table, a series, a text and a network first
    "tests/test_repository.py",
    "tests/test_fuzz.py",
    "tests/test_judge.py::test_an_honest_file_of_probabilities_ships",
)
PAGE = re.compile(r"tests/test_notebooks\.py::test_notebook\[(.+)\]")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measure", action="store_true", help="write to tests/seconds.json the CPU time of each page and test")


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
    chosen = {"quick": QUICK, "long": long_ones()}.get(config.option.markexpr)
    if chosen is None or not collection_path.name.startswith("test_") or collection_path.name == "test_notebooks.py":
        return None
    return collection_path.name not in {Path(name.partition("::")[0]).name for name in chosen if name.startswith("tests/")} or None


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not long":
        terminalreporter.write_line("This was the first part of the tests; `pytest -m long` runs the second.")


def name_of(nodeid: str) -> str:
    """The name of a page, such as models/trees/05_boosting; of another test, its address."""
    page = PAGE.fullmatch(nodeid)
    return page[1] if page else nodeid


def cpu_seconds() -> float:
    """Of this process and of its processes that have ended; a busy machine hardly changes them."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    start = cpu_seconds()
    try:
        return (yield)
    finally:
        if not PAGE.fullmatch(item.nodeid):  # which run in processes that measure themselves
            item.user_properties.append(("seconds", cpu_seconds() - start))


class Stopwatch:
    """Collects the CPU time of each page and test, and writes it at the end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[name_of(report.nodeid)] = round(dict(report.user_properties)["seconds"], 1)

    def pytest_sessionfinish(self) -> None:
        known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}

        def kept(name: str, seconds: float) -> bool:
            file = ROOT / name.partition("::")[0] if "::" in name else ROOT / "nbs" / f"{name}.ipynb"
            return file.exists() and ("::" not in name or seconds > MEASURED_SECONDS)

        found = {name: s for name, s in sorted((known | self.seconds).items()) if kept(name, s)}
        SECONDS.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


@cache
def quick_pages() -> set[str]:
    """The fastest page of each room; a room without a measured one has its first."""
    seconds = json.loads(SECONDS.read_text(encoding="utf-8"))
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / "nbs").rglob("*/[0-9]*.ipynb")):
        page = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        rooms.setdefault(page.rpartition("/")[0], []).append(page)
    return {min(pages, key=lambda page: seconds.get(page, float("inf"))) for pages in rooms.values()}


@cache
def long_ones() -> set[str]:
    """The pages and tests of the second part."""
    seconds = json.loads(SECONDS.read_text(encoding="utf-8"))
    return {name for name, s in seconds.items() if s > LONG_SECONDS and not name.startswith(QUICK)} - quick_pages()


def longest_first(items: list[pytest.Item], seconds: dict[str, float]) -> None:
    """Pages after all other tests and in the order of their seconds, so that no long test begins when the other workers are about to end."""
    usual = sum(seconds.values()) / max(len(seconds), 1)

    def place(item: pytest.Item) -> float:
        page = PAGE.fullmatch(item.nodeid)
        return -seconds.get(page[1], usual) if page else float("-inf")

    items.sort(key=place)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick, long = quick_pages(), long_ones()
    if hasattr(config, "workerinput"):
        longest_first(items, json.loads(SECONDS.read_text(encoding="utf-8")))
    for item in items:
        if item.nodeid.startswith(QUICK) or name_of(item.nodeid) in quick:
            item.add_marker("quick")
        elif name_of(item.nodeid) in long:
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


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Reports without figures: to draw them takes a third of the time of a small training."""
    from aimt.deploy.report import page

    patch.setattr(page, "resolve", lambda address: lambda value: None)


def try_nothing(patch: pytest.MonkeyPatch) -> None:
    """Fine-tunings take the first of their methods of explanation untried: to try them takes half of the time of a short one."""
    from aimt.jobs.families.network_reasons import _untried, methods_of
    from aimt.jobs.steps import finetune_reasons

    patch.setattr(finetune_reasons, "try_methods", lambda family, *_, **options: _untried("") | {"method": methods_of(family)[0]})


@pytest.fixture(scope="module")
def no_drawing():
    """No figures in the reports of a whole file.

    For files whose tests are about something else; tests/test_report.py, tests/test_command.py and the pages draw.
    """
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture(scope="module")
def brief_runs():
    """No figures and no trial of explanations in a whole file; tests/test_network_reasons.py and the families' own files try."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        try_nothing(patch)
        yield


@pytest.fixture
def brief(monkeypatch):
    """The same in the runs that a test makes itself; those of a fixture of the file are made before, and draw and try."""
    draw_nothing(monkeypatch)
    try_nothing(monkeypatch)


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
