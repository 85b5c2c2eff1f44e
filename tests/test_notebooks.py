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

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
SECTIONS = "core data metrics models train evaluate explain generate decide deploy jobs apps cli book guides".split()
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
VOLATILE = {"volatile", "slow", "gpu"}  # directives of cells whose output may change
MOST_SECONDS = 2  # time limit of a training in a volatile cell; the page shows a longer one, and what that gave
TIME_LIMIT = re.compile(r"""(\btime_limit"?[=:] ?|--time-limit"?,? ?"?)(\d+(?:\.\d+)?)""")
NOTEBOOK_TIMEOUT = 900  # seconds
FORKS = sys.platform == "linux" and "AIMT_TEST_MODULE" not in os.environ  # coverage follows processes that are started, not forked
LIBRARIES = ["pytest", "execnb.shell", "nbdev.test", "torch", "pandas", "sklearn.ensemble", "lightgbm", "matplotlib.pyplot"]
if FORKS:  # a process that has imported these, which takes seconds, is forked for each notebook
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][-+]?\d+)?")


def notebooks() -> list[Path]:
    """All notebooks, in the order of the lifecycle."""
    found = [p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]
    place = {name: i for i, name in enumerate(SECTIONS)}
    return sorted(found, key=lambda p: (place.get(p.relative_to(NBS).parts[0], 99), p.as_posix()))


def name_of(path: Path) -> str:
    return path.relative_to(NBS).with_suffix("").as_posix()


# --- in the fresh process -------------------------------------------------------------------------------------------


def cell_text(cell) -> str:
    """The part of a cell's outputs that is compared: text, without memory addresses."""
    texts = (
        o.get("text") or o.get("data", {}).get("text/plain") or o.get("data", {}).get("text/markdown") or ""
        for o in cell.get("outputs", [])
    )
    return re.sub(r" at 0x[0-9a-fA-F]+", "", "".join("".join(t) for t in texts)).strip()


def use_module(nb, package: str) -> None:
    """Replace the exported cells by the names of the exported module, so that what is shipped is what is tested."""
    module = next((c.directives_["default_exp"] for c in nb.cells if "default_exp" in c.directives_), None)
    code = [c for c in nb.cells if c.cell_type == "code"]
    exported = [c for c in code if {"export", "exports", "exporti"} & c.directives_.keys()]
    if module and exported:
        for cell in exported:
            cell.source = ""
        exported[
            0
        ].source = (
            f"import {package}.{module} as _module\nglobals().update({{k: v for k, v in vars(_module).items() if not k.startswith('__')}})"
        )


def hurried(source: str) -> str:
    """The code with time limits that suit a test."""
    return TIME_LIMIT.sub(lambda m: m[1] + (m[2] if float(m[2]) <= MOST_SECONDS else str(MOST_SECONDS)), source)


def is_guide(path: Path) -> bool:
    """A page of which a reader copies what it shows, and has nothing else."""
    return path.parent.name == "guides" or path == NBS / "index.ipynb"


def hidden_set_up(path: Path) -> set[str]:
    """The cells that a page does not show, above one that it shows."""
    sys.path.insert(0, str(ROOT / "docs"))
    from fastcore.nbio import read_nb
    from symbols import shown_code

    shown = {c.id: bool(shown_code(c)) for c in read_nb(path).cells if c.cell_type == "code"}
    last = max((i for i, is_shown in enumerate(shown.values()) if is_shown), default=0)
    return {cell for cell, is_shown in [*shown.items()][:last] if not is_shown}


def files_here() -> set[str]:
    return {p.as_posix() for p in Path().rglob("*")}


def run_notebook(path: Path, folder: Path) -> dict:
    """Run the notebook, a guide in the folder, which is empty.

    Returns {"error": traceback or "", "cells": [{"id", "stored", "printed"}], "seconds": of processors}.
    """
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.config import get_config
    from nbdev.process import NBProcessor
    from nbdev.test import nb_test_cells

    config = get_config(ROOT)
    nb = NBProcessor(path, rm_directives=False, process=True).nb
    skip, force = config.tst_flags.split(), os.environ.get("AIMT_TEST_FLAGS", "").split()
    chosen = {c.id for c in nb_test_cells(path, skip, force)}
    stored = {c.id: cell_text(c) for c in nb.cells if c.cell_type == "code"}
    if os.environ.get("AIMT_TEST_MODULE"):
        use_module(nb, config.lib_name)
    for cell in nb.cells:
        if cell.cell_type == "code" and "volatile" in cell.directives_ and not force:
            cell.source = hurried(cell.source)
    shell = CaptureShell(path, profile=False)
    guide, made = is_guide(path), set()
    set_up = hidden_set_up(path) if guide else set()

    def skipped(cell) -> bool:
        nonlocal before
        before = files_here() if cell.id in set_up else set()
        return cell.cell_type != "code" or cell.id not in chosen or bool(shell.exc)

    def look(cell) -> None:
        made.update(files_here() - before if cell.id in set_up else ())

    before: set[str] = set()
    with working_directory(folder if guide else path.parent):
        shell.run_all(nb, exc_stop=False, cell_timeout=config.cell_timeout, preproc=skipped, postproc=look)
    error = (shell.prettytb(fname=path) or repr(shell.exc)) if shell.exc else ""
    if made:
        error += f"\ncells that the page does not show make files, which its reader will not have: {sorted(made)}"
    compared = [c for c in nb.cells if c.id in chosen and not VOLATILE & c.directives_.keys()]
    return {
        "error": error,
        "cells": [{"id": c.id, "stored": stored[c.id], "printed": cell_text(c)} for c in compared],
        "seconds": sum(os.times()[:4]),  # with those of processes that have ended; a busy machine does not change them
    }


# --- in pytest ------------------------------------------------------------------------------------------------------


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
            command = [sys.executable, __file__, str(path), str(out), str(log)]
            code = subprocess.run(command, timeout=NOTEBOOK_TIMEOUT, stdin=subprocess.DEVNULL).returncode
        if not out.exists():
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            return {"error": f"the process ended with {code}\n{said[-8000:]}"}
        return json.loads(out.read_text(encoding="utf-8"))


def answer(path: Path, out: Path, log: Path) -> None:
    """In the fresh process: run the notebook, write the answer to a file, and what it says to another."""
    for name in ("COLUMNS", "LINES"):  # pandas would fit its tables to them
        os.environ.pop(name, None)
    os.environ |= THREADS | {"MPLBACKEND": "agg", "IN_TEST": "1", "AIMT_ROOT": str(ROOT)}  # the last one: for the guide that reads tests
    with log.open("w", encoding="utf-8") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    (folder := out.parent / "empty").mkdir()
    out.write_text(json.dumps(run_notebook(path, folder)), encoding="utf-8")
    os._exit(0)  # an orderly end would wait for the idle workers of joblib


@pytest.fixture(scope="session")
def result_of(request):
    """Runs the selected notebooks ahead, a few at a time, and hands out their results."""
    jobs = int(os.environ.get("AIMT_TEST_JOBS") or min(4, os.cpu_count() or 1))
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


if __name__ == "__main__":
    answer(*map(Path, sys.argv[1:]))
