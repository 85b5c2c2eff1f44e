"""What a reader copies from a guide works: the code that the page shows, and nothing else, runs in an empty folder.

pytest tests/test_guides.py -k defined          names only: every guide, every cell, in a second
pytest tests/test_guides.py -k first_verdict    one guide
"""

import builtins
import os
import re
import subprocess
import sys
import symtable
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastcore.nbio import read_nb
from nbdev.config import get_config
from nbdev.test import nb_test_cells

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from symbols import shown_code

SECTIONS = ("guides", "apps", "book")  # pages that export nothing: all that they need is on the page
GUIDES = [ROOT / "nbs/index.ipynb", *(p for section in SECTIONS for p in sorted((ROOT / "nbs" / section).glob("*.ipynb")))]
_SLOW = {"60_service"}  # tests/test_notebooks.py runs it too
RUN = [pytest.param(p, marks=pytest.mark.slow) if p.stem in _SLOW else p for p in GUIDES if p.parent.name == "guides"]
# the home page is run as the README; tests/test_notebooks.py runs the others
TIMEOUT = 300  # seconds for a guide


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


def shown(path: Path) -> dict[str, str]:
    """The code of the cells that the page shows, by the cell's id."""
    code = {c.id: shown_code(c) for c in read_nb(path).cells if c.cell_type == "code"}
    return {k: v for k, v in code.items() if v}


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from scopes(inner)


def names(code: str) -> tuple[set[str], set[str]]:
    """The global names that a piece of code makes, and those that it uses."""
    top = symtable.symtable(code, "cell", "exec")
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for t in scopes(top) for s in t.get_symbols() if s.is_referenced() and (t is top or s.is_global())}
    return made, used


def undefined(cells: dict[str, str]) -> dict[str, set[str]]:
    """The names that a cell uses and that neither it nor a cell above defines, by the cell's id."""
    known, missing = set(dir(builtins)), {}
    for cell, code in cells.items():
        made, used = names(code)
        known |= made
        if used - known:
            missing[cell] = used - known
    return missing


def run(code: str, folder: Path) -> None:
    """Run code as a script of its own in a folder."""
    script = folder.parent / f"{folder.name}.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT,
        env=os.environ | {"AIMT_ROOT": str(ROOT)},  # for the guide that reads the tests of a clone
        stdin=subprocess.DEVNULL,
    )
    assert not done.returncode, done.stderr[-4000:]


def test_undefined_names_are_found():
    cells = {"a": "import os\nf = lambda x: x + later", "b": "def g():\n    return os, [y for y in z]", "c": "later = z = 1\nprint(g)"}
    assert undefined(cells) == {"a": {"later"}, "b": {"z"}}


@each(GUIDES)
def test_names_are_defined_on_the_page(path):
    assert not undefined(shown(path)), "the page shows code whose imports or helpers it hides"


@each(RUN)
def test_shown_code_runs_alone(path, tmp_path):
    tested = {c.id for c in nb_test_cells(path, get_config(ROOT).tst_flags.split())}
    code = [code for cell, code in shown(path).items() if cell in tested]
    if not code:
        pytest.skip("every cell is slow")
    run("\n\n".join(code), tmp_path)


def test_python_of_the_readme_runs_alone(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    assert blocks
    run("\n\n".join(blocks), tmp_path)
