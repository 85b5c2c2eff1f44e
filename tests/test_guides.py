"""What a reader copies from a guide works: no cell needs a name that only a hidden cell defines.

tests/test_notebooks.py runs the guides and the home page, of which the README is made, in an empty folder, and sees to it
that hidden cells leave no files there either.
"""

import builtins
import sys
import symtable
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from symbols import shown_code

SECTIONS = ("guides", "apps", "book")  # pages that export nothing: all that they need is on the page
GUIDES = [ROOT / "nbs/index.ipynb", *(p for section in SECTIONS for p in sorted((ROOT / "nbs" / section).glob("*.ipynb")))]


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


def test_undefined_names_are_found():
    cells = {"a": "import os\nf = lambda x: x + later", "b": "def g():\n    return os, [y for y in z]", "c": "later = z = 1\nprint(g)"}
    assert undefined(cells) == {"a": {"later"}, "b": {"z"}}


@each(GUIDES)
def test_names_are_defined_on_the_page(path):
    assert not undefined(shown(path)), "the page shows code whose imports or helpers it hides"
