"""The site's own machinery: names and links are resolved from the notebooks' source, without running anything."""

import ast
import html
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import build
import check
from contents import api_index, llms, navigation, public
from gallery import gallery
from symbols import Index

GALLERY_LIMIT = 2_500_000  # bytes of all its figures

FIRST = '''#| export
def widen(
    x: float,  # Value, in metres
    *,
    by: int = 2,  # Factor
) -> "Box | None":  # The box, or nothing
    """Widen a value, as `Box` does."""

@dataclass
class Box:
    """A box."""
    size: float  # In metres
    tags: list = field(default_factory=list)
    _inner: int = 0

    @classmethod
    def read(cls, path: str) -> "Box":
        """Read a box."""

    def hidden(self): ...

def _private(): ...
LIMIT = 3
'''


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two sections, three notebooks; two of them export a `widen`."""

    def write(name: str, module: str, *cells: str):
        new = nbformat.v4
        made = [new.new_markdown_cell(f"# {module}\n\n> A promise.\n\n## When it fails")]
        made += [new.new_code_cell(f"#| default_exp {module}")] + [new.new_code_cell(c) for c in cells]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nbformat.write(new.new_notebook(cells=made), tmp_path / name)

    write("core/00_first.ipynb", "core.first", FIRST)
    write("data/05_second.ipynb", "data.second", "#| export\ndef widen(): ...\n\ndef take_it(): ...")
    write("data/10_third.ipynb", "data.third", "from aimt.core.first import widen")
    monkeypatch.setattr(build, "problems", [])
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return Index(sorted(tmp_path.rglob("*.ipynb")), tmp_path, "aimt")


def page(index: Index, name: str):
    return next(p for p in index.pages if p.name == name)


def test_symbols_are_read_from_source(book):
    assert set(book.symbols) == {
        "aimt.core.first.widen",
        "aimt.core.first.Box",
        "aimt.core.first.Box.read",
        "aimt.core.first.LIMIT",
        "aimt.data.second.widen",
        "aimt.data.second.take_it",
    }
    widen = book.symbols["aimt.core.first.widen"]
    assert widen.signature == "(x, *, by=2)"
    assert [(a.name, a.type, a.default, a.comment) for a in widen.arguments] == [
        ("x", "float", "", "Value, in metres"),
        ("by", "int", "2", "Factor"),
    ]
    assert (widen.returns, widen.returns_comment) == ("Box | None", "The box, or nothing")
    assert book.symbols["aimt.core.first.Box"].signature == "(size, tags=[])"
    assert book.symbols["aimt.core.first.Box.read"].kind == "classmethod"


def test_a_name_means_what_the_page_knows_by_it(book):
    first, second, third = (page(book, n) for n in ("core/first", "data/second", "data/third"))
    assert book.find("widen", first).module == "aimt.core.first"
    assert book.find("widen()", second).module == "aimt.data.second"
    assert book.find("widen", third).module == "aimt.core.first", "it imports that one"
    assert book.find("take_it", first).module == "aimt.data.second"
    assert book.find("nothing", first) is None


def test_links_between_notebooks_are_checked(book):
    first = page(book, "core/first")
    text = "[it](../data/05_second.ipynb#take_it), [fails](../data/10_third.ipynb#when-it-fails), `take_it`, `[a](b)`"
    made = build.linkify(text, first, book)
    assert 'href="../data/second.html#aimt.data.second.take_it">it</a>' in made
    assert 'href="../data/third.html#when-it-fails">fails</a>' in made
    assert '#aimt.data.second.take_it">`take_it`</a>' in made and "`[a](b)`" in made
    assert not build.problems
    build.linkify("[a](../data/06_gone.ipynb) [b](../data/05_second.ipynb#gone) [c](gone.md)", first, book)
    assert len(build.problems) == 3
    assert "`[a](b)`" in build.linkify("`x` into `[a](b)`", first, book)
    assert ">it</a>, such as `y`" in build.linkify("`x` | [it](../data/05_second.ipynb#take_it), such as `y`", first, book)
    fenced = "```\n[a](../data/06_gone.ipynb) `take_it`\n```"
    assert build.linkify(fenced, first, book) == fenced


def test_check_finds_dead_links(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#here">ok</a><a href="b.html#gone">no</a><a href="c.html">no</a>'
        '<a href="https://example.org/">out</a><script src="https://example.org/x.js"></script><img src="x.png">'
        '<p id="top"></p>'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#top" id="here">back</a>')
    (tmp_path / "x.png").touch()
    found = "\n".join(check.check_links(tmp_path))
    for part in ("'b.html#gone'", "'c.html'", "loads https://example.org/x.js", "no alternative text", "'top' occurs 2"):
        assert part in found
    assert len(found.splitlines()) == 5


# --- the lists of the whole documentation ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    """The notebooks of this repository, and their order."""
    index = Index(build.notebooks(), build.NBS, "aimt")
    return index, navigation(index)


def exported() -> set[str]:
    """The full names in the `__all__` of every module."""
    found = set()
    for file in (ROOT / "aimt").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" and module != "aimt":
                found |= {f"{module}.{name}" for name in ast.literal_eval(node.value)}
    return found


def test_every_public_name_is_listed_with_one_line(whole):
    index, nav = whole
    names = exported()
    assert len(names) > 1000
    lines = dict(re.findall(r"^  - `([\w.]+)`: ?(.*)$", llms(index, nav, "aimt", "", "https://x/"), flags=re.M))
    links = set(re.findall(r'href="[^"#]+#([\w.]+)"', api_index(index, nav)))
    assert names <= lines.keys() and names <= links, sorted(names - (lines.keys() & links))
    assert not [name for name in names if not lines[name].strip()], "these have no docstring"


def test_llms_has_every_page_and_its_promise(whole):
    index, nav = whole
    text = llms(index, nav, "aimt", "", "https://x/")
    for page in index.pages:
        assert page.name == "index" or f"- [{page.title}](https://x/{page.name}.html.md): {page.promise}\n" in text, page.name
    assert text.index("](https://x/guides/") < text.index("](https://x/data/"), "guides come first"


def test_listed_names_lead_to_their_pages(book):
    nav = navigation(book)
    assert [s.name for s in public(book, page(book, "core/first"))] == ["widen", "Box", "LIMIT"]
    made = api_index(book, nav)
    assert (
        '<a href="core/first.html#aimt.core.first.widen"><code>widen</code></a> <span>Widen a value, as <code>Box</code> does.</span>'
        in made
    )
    assert "<code>LIMIT</code></a> <span><code>3</code></span>" in made


def test_gallery_shows_each_page_that_draws(whole, tmp_path):
    index, nav = whole
    made = gallery(index, nav, tmp_path / "figures")
    shown = re.findall(r'<a href="([^"#]+)\.html[^"]*"><img src="figures/([^"]+)" alt="([^"]+)" width="(\d+)" height="(\d+)"', made)
    drawing = {p.name for p in index.pages if "image/png" in p.path.read_text(encoding="utf-8")}
    assert len(shown) > 100 and {name for name, *_ in shown} <= drawing
    assert len(shown) >= 0.9 * len(drawing), "a page may hide its figures, but few do"
    files = list((tmp_path / "figures").iterdir())
    assert {f.name for f in files} == {file for _, file, *_ in shown}
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)
    assert all(html.unescape(alt).strip() and 50 < int(width) < 4000 and 50 < int(height) < 4000 for *_, alt, width, height in shown)
    assert sum(f.stat().st_size for f in files) < GALLERY_LIMIT
