"""Run one notebook in this process, which is fresh: forked for it by tests/test_notebooks.py, or started as

python tests/run_page.py NOTEBOOK ANSWER LOG
"""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
VOLATILE = {"volatile", "slow", "gpu"}  # directives of cells whose output may change
MOST_SECONDS = 2  # time limit of a training in a volatile cell; the page shows a longer one, and what that gave
TIME_LIMIT = re.compile(r"""(\btime_limit"?[=:] ?|--time-limit"?,? ?"?)(\d+(?:\.\d+)?)""")


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


def answer(path: Path, out: Path, log: Path) -> None:
    """Run the notebook, write the answer to a file, and what it says to another."""
    for name in ("COLUMNS", "LINES"):  # pandas would fit its tables to them
        os.environ.pop(name, None)
    os.environ |= THREADS | {"MPLBACKEND": "agg", "IN_TEST": "1", "AIMT_ROOT": str(ROOT)}  # the last one: for the guide that reads tests
    with log.open("w", encoding="utf-8") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    (folder := out.parent / "empty").mkdir()
    out.write_text(json.dumps(run_notebook(path, folder)), encoding="utf-8")
    os._exit(0)  # an orderly end would wait for the idle workers of joblib


if __name__ == "__main__":
    answer(*map(Path, sys.argv[1:]))
