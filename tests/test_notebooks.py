"""Every notebook is a test: a fresh process runs its cells in order, and the text outputs stored in it must be what
they print now.

    pytest tests/test_notebooks.py -k data          the notebooks of one section
    AIMT_TEST_FLAGS="slow" pytest ...               run the cells marked `#| slow` too
    AIMT_TEST_MODULE=1 pytest ...                   run the cells against aimt/*.py instead of the exported cells
    AIMT_TEST_JOBS=1 pytest ...                     one notebook at a time (default: one for each processor, at most 4)

Stored outputs are compared on Linux only: elsewhere the mathematics library may differ in the last digits.
"""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from run_page import answer, hurried

HERE = Path(__file__).resolve().parent
ROOT, NBS = HERE.parent, HERE.parent / "nbs"
SECTIONS = "core data metrics models train evaluate explain generate decide deploy jobs apps cli book guides".split()
NOTEBOOK_TIMEOUT = 900  # seconds
FORKS = sys.platform == "linux" and "AIMT_TEST_MODULE" not in os.environ  # coverage follows processes that are started, not forked
NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")


def notebooks() -> list[Path]:
    """All notebooks, in the order of the lifecycle."""
    found = [p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]
    place = {name: i for i, name in enumerate(SECTIONS)}
    return sorted(found, key=lambda p: (place.get(p.relative_to(NBS).parts[0], 99), p.as_posix()))


def name_of(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


def start_server() -> None:
    """Start the process that is forked for each notebook; tests/page_libraries.py is what it loads before."""
    from multiprocessing import forkserver  # POSIX has it

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))
    forkserver.set_forkserver_preload(["page_libraries", "run_page"])
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    os.environ |= {"PYTHONPATH": before} if before else {}


def start(path: Path) -> dict:
    """Run a notebook in a fresh process and return what `run_notebook` returns there."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out.json", Path(folder) / "log.txt"
        if FORKS:
            process = multiprocessing.get_context("forkserver").Process(target=answer, args=(path, out, log))
            process.start()
            process.join(NOTEBOOK_TIMEOUT)
            process.kill()
            process.join()
            code = process.exitcode
        else:
            command = [sys.executable, str(HERE / "run_page.py"), str(path), str(out), str(log)]
            code = subprocess.run(command, timeout=NOTEBOOK_TIMEOUT, stdin=subprocess.DEVNULL).returncode
        if not out.exists():
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            return {"error": f"the process ended with {code}\n{said[-8000:]}"}
        return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def result_of(request):
    """Runs the selected notebooks ahead, a few at a time, and hands out their results."""
    jobs = int(os.environ.get("AIMT_TEST_JOBS") or min(4, os.cpu_count() or 1))
    if FORKS:
        start_server()
    pool = ThreadPoolExecutor(jobs)
    futures: dict[Path, Future] = {}
    if "PYTEST_XDIST_WORKER" not in os.environ:  # under xdist each worker runs its own, one at a time
        for item in request.session.items:
            if getattr(item, "originalname", "") == "test_notebook":
                futures[item.callspec.params["path"]] = pool.submit(start, item.callspec.params["path"])
    yield lambda path: (futures.get(path) or pool.submit(start, path)).result()
    pool.shutdown(wait=True, cancel_futures=True)


def same(stored: str, printed: str) -> bool:
    """Equal up to spacing and one unit in the last printed digit of a decimal number."""
    if stored == printed:
        return True
    if NUMBER.sub("#", stored).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= 1.001 * max(_unit(a), _unit(b)) for a, b in pairs)


def _unit(number: str) -> float:
    digits, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


@pytest.mark.parametrize("path", notebooks(), ids=name_of)
def test_notebook(path, result_of, record_property):
    result = result_of(path)
    record_property("seconds", result.get("seconds", 0.0))  # for `--measure`
    if result["error"]:
        pytest.fail(result["error"], pytrace=False)
    if sys.platform == "linux" and not os.environ.get("AIMT_TEST_MODULE"):
        stale = [c for c in result["cells"] if not same(c["stored"], c["printed"])]
        told = "\n".join(f"cell {c['id']}\n--- stored\n{c['stored']}\n--- printed now\n{c['printed']}" for c in stale)
        if stale:
            hint = f"run `nbdev-test --save {path.relative_to(ROOT)}`, then `nbdev-clean`"
            pytest.fail(f"stored outputs are out of date; {hint}\n{told}", pytrace=False)


def test_same_allows_a_last_digit_and_nothing_more():
    assert same("auc 0.791  n 20", "auc 0.792 n 20")
    assert same("1.25e-03", "1.26e-03")
    assert not same("auc 0.791", "auc 0.793")
    assert not same("n 20", "n 21")
    assert not same("0.5 a", "0.5 b")


def test_time_limits_are_shortened_and_nothing_else():
    assert hurried("train(t, time_limit=10, steps=10)") == "train(t, time_limit=2, steps=10)"
    assert hurried('time_limit=1.5; run("--time-limit", "60")') == 'time_limit=1.5; run("--time-limit", "2")'
    assert hurried("aimt train x.csv --time-limit 300") == "aimt train x.csv --time-limit 2"
