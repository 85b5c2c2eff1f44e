"""Build the site from the notebooks: `python docs/build.py`, then open _docs/index.html.

1. Every notebook of nbs/ becomes a page under _proc/src: what is exported gets its API entry, directives become tags,
   names in backticks and links between notebooks become links. Nothing is executed; the stored outputs are shown.
2. Sphinx renders the pages to _docs/. Warnings are errors, and a dead link between notebooks is one.

The dialect is nbdev's (`#| export`, `#| hide`, `::: {.callout-note}`, `[x](../data/15_define.ipynb#symbol)`), without
Quarto. Pages stand in lifecycle order, the order of SECTIONS.
"""

import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from contents import ROOMS, SECTIONS, api_index, book, llms, navigation
from gallery import alt_text, gallery
from symbols import EXPORTS, Index, Page, Symbol, anchor, code_of, is_hidden, parse, shown_code

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC, OUT = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
SRC, EXTRA = PROC / "src", PROC / "extra"

REDIRECTS = ROOT / "docs" / "redirects.json"  # old address of a page: the new one
REPORT_PAGE = "deploy/report/table"
CALLOUTS = {"note": "note", "tip": "tip", "warning": "warning", "important": "important", "caution": "caution"}

ini = ConfigParser(delimiters=["="])
ini.read(ROOT / "settings.ini", encoding="utf-8")
ini = ini["DEFAULT"]
GITHUB = f"{ini['git_url']}/blob/{ini['branch']}"
COLAB = f"https://colab.research.google.com/{ini['git_url'].removeprefix('https://').replace('github.com', 'github', 1)}"

problems: list[str] = []  # dead links between notebooks


def notebooks() -> list[Path]:
    """All notebooks in reading order: the home page, then the sections."""
    found = [p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]
    return sorted(found, key=reading_order)


def reading_order(path: Path) -> tuple:
    """Where a notebook stands: section, room, number."""
    section, *rooms = path.relative_to(NBS).parts[:-1] or [""]
    sections, inside = list(SECTIONS), list(ROOMS.get(section, {}))
    place = inside.index(rooms[0]) + 1 if rooms and rooms[0] in inside else 99 if rooms else 0
    return (section != "", sections.index(section) if section in sections else 99, place, path.as_posix())


# --- links ----------------------------------------------------------------------------------------------------------


def address(page: Page, target: str) -> str:
    """The relative address of a page (core/errors) or file, seen from another page."""
    return Path(os.path.relpath(target, Path(page.name).parent)).as_posix()


def symbol_address(page: Page, symbol: Symbol) -> str:
    here = "" if symbol.page == page.name else address(page, symbol.page) + ".html"
    return f"{here}#{symbol.full}"


def link(text: str, to: str) -> str:
    """An HTML link around Markdown text."""
    return f'<a class="reference internal" href="{html.escape(to)}">{text}</a>'


def notebook_link(page: Page, index: Index, text: str, path: str, fragment: str) -> str:
    """`[text](../data/15_define.ipynb#define_problem)`: to a symbol, a heading or the top of another page."""
    target = index.by_path.get((page.path.parent / path).resolve())
    if target is None:
        problems.append(f"{page.path.relative_to(ROOT)}: there is no notebook '{path}'")
        return text
    to = address(page, target.name) + ".html"
    if fragment:
        symbol = index.symbols.get(f"{target.module}.{fragment}") or index.symbols.get(fragment)
        if symbol:
            return link(text, symbol_address(page, symbol))
        if anchor(fragment.replace("-", " ")) not in target.anchors:
            problems.append(f"{page.path.relative_to(ROOT)}: '{path}' has no symbol or heading '{fragment}'")
            return text
        to += "#" + anchor(fragment.replace("-", " "))
    return link(text, to)


def file_link(page: Page, text: str, path: str) -> str | None:
    """A link to another file of the repository goes to GitHub."""
    file = (page.path.parent / path.partition("#")[0]).resolve()
    if not file.is_relative_to(ROOT) or not file.exists():
        problems.append(f"{page.path.relative_to(ROOT)}: there is no file '{path}'")
        return text
    return f"[{text}]({GITHUB}/{file.relative_to(ROOT).as_posix()})"


LINK = re.compile(r"(?<!!)\[((?:[^\[\]`]|`[^`]*`)+)\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")  # code between backticks; a link inside is shown as it is written
CODE = re.compile(r"(?<![`\w}])`([A-Za-z_][\w.]*(?:\(\))?)`(?![`\w{])")


def linkify(text: str, page: Page, index: Index) -> str:
    """Resolve the links and the names in backticks of a piece of Markdown, outside code blocks and headings."""
    kept: list[str] = []

    def keep(made: str) -> str:
        kept.append(made)
        return f"\x00{len(kept) - 1}\x00"

    def on_link(m: re.Match) -> str:
        target, _, fragment = m[2].partition("#")
        if target.endswith(".ipynb") and "://" not in target:
            return keep(notebook_link(page, index, m[1], target, fragment))
        if not target or re.match(r"[a-z]+:", target):
            return keep(m[0])
        return keep(file_link(page, m[1], m[2]))

    def on_code(m: re.Match) -> str:
        symbol = index.find(m[1], page)
        return keep(link(m[0], symbol_address(page, symbol))) if symbol else m[0]

    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence and not re.match(r"#{1,6}\s", line):
            line = CODE.sub(on_code, LINK.sub(on_link, SPAN.sub(lambda m: keep(m[0]) if "](" in m[2] else m[0], line)))
        lines.append(line)
    done = "\n".join(lines)
    while kept and "\x00" in done:
        done = re.sub(r"\x00(\d+)\x00", lambda m: kept[int(m[1])], done)
    return done


def callout(m: re.Match) -> str:
    title = re.search(r'title="([^"]*)"', m[2] or "")
    kind = CALLOUTS.get(m[1], "note")
    return f":::{{admonition}} {title[1]}\n:class: {kind}" if title else f":::{{{kind}}}"


def markdown(text: str, page: Page, index: Index) -> str:
    text = "\n".join(x for x in text.splitlines() if not x.startswith("#|"))
    text = re.sub(r"^:{3,}\s*\{\.callout-(\w+)([^}]*)\}", callout, text, flags=re.M)
    return linkify(text, page, index)


# --- API entries ----------------------------------------------------------------------------------------------------


def type_code(text: str, page: Page, index: Index) -> str:
    """A type as code whose known names are links."""
    parts = []
    for piece in re.split(r"([A-Za-z_][\w.]*)", text):
        symbol = index.find(piece, page) if piece[:1].isupper() else None
        parts.append(link(f"`{piece}`{{.type}}", symbol_address(page, symbol)) if symbol else piece)
    merged = re.split(r"(<a .*?</a>)", "".join(parts))
    return "".join(p if p.startswith("<a ") else f"`{p}`{{.type}}" if p.strip() else p for p in merged)


def argument_table(symbol: Symbol, page: Page, index: Index) -> str:
    rows = []
    for a in symbol.arguments:
        default = f"`{'= ' + a.default}`{{.type}}" if a.default else ""
        kind = " ".join(x for x in (type_code(a.type, page, index) if a.type else "", default) if x)
        rows.append((f"`{a.star}{a.name}`{{.argument}}", kind, linkify(a.comment, page, index)))
    if symbol.returns_comment:
        returned = type_code(symbol.returns, page, index)
        rows.append(("*returns*", returned, linkify(symbol.returns_comment, page, index)))
    head = ":::{list-table}\n:class: arguments\n:header-rows: 1\n\n* - Argument\n  - Meaning\n"
    body = [f"* - {name}" + (f"\\\n    {kind}" if kind else "") + f"\n  - {meaning or ' '}" for name, kind, meaning in rows]
    return head + "\n".join(body) + "\n:::"


def qualified(text: str, page: Page, index: Index) -> str:
    """A type whose known names are complete, since two modules may have a class of one name; `~` shows the last part alone."""

    def full(m: re.Match) -> str:
        symbol = index.find(m[0], page) if m[0][:1].isupper() else None
        return f"~{symbol.full}" if symbol else m[0]

    return re.sub(r"[A-Za-z_][\w.]*", full, text)


def typed_signature(symbol: Symbol, page: Page, index: Index) -> str:
    """The signature with types, for what has no argument comments."""
    by_name = {a.name: a for a in symbol.arguments}

    def typed(m: re.Match) -> str:
        a = by_name.get(m[2])
        if a is None or not a.type:
            return m[0]
        return f"{m[1]}{m[2]}: {qualified(a.type, page, index)}" + (f" = {a.default}" if a.default else "")

    names = "|".join(map(re.escape, by_name))
    parts = symbol.signature[1:-1].split(", ") if symbol.signature else []
    if not names or any(p.count("(") != p.count(")") or p.count("[") != p.count("]") for p in parts):
        return symbol.signature
    return "(" + ", ".join(re.sub(rf"^(\*{{0,2}})({names})(=.*)?$", typed, p) for p in parts) + ")"


def source_line(symbol: Symbol) -> str:
    """The address of a symbol's source on GitHub, with its line."""
    file = ROOT / Path(*symbol.module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    if not file.exists():
        return ""
    body, node = ast.parse(file.read_text(encoding="utf-8")).body, None
    for name in symbol.name.split("."):
        node = next((n for n in body if getattr(n, "name", None) == name), None)
        if node is None:
            return ""
        body = node.body
    return f"{GITHUB}/{file.relative_to(ROOT).as_posix()}#L{node.lineno}"


def api(symbol: Symbol, page: Page, index: Index) -> str:
    """A symbol's entry: signature, docstring, table of arguments, link to the source."""
    told = any(a.comment for a in symbol.arguments) or bool(symbol.returns_comment)
    signature = symbol.signature if told else typed_signature(symbol, page, index)
    returns = qualified(symbol.returns, page, index)
    if symbol.kind not in ("class", "property") and returns:
        signature += f" -> {returns}"
    options = [f":module: {symbol.module}"]
    options += [f":{symbol.kind}:"] if symbol.kind in ("classmethod", "staticmethod") else []
    options += [f":type: {returns}"] if symbol.kind == "property" and returns else []
    kind = symbol.kind if symbol.kind in ("function", "class", "property") else "method"
    source = source_line(symbol)
    body = [
        linkify(symbol.doc, page, index),
        argument_table(symbol, page, index) if told else "",
        f'<p class="api-source"><a href="{source}">source</a></p>' if source else "",
    ]
    old = symbol.name.lower()  # the anchor that nbdev writes
    place = "" if old in page.anchors else f'<a id="{html.escape(old)}"></a>\n\n'
    page.anchors.add(old)
    fence = "`" * 7
    text = "\n\n".join(b for b in body if b)
    return f"{place}{fence}{{py:{kind}}} {symbol.name}{signature}\n" + "\n".join(options) + f"\n\n{text}\n{fence}"


# --- pages ----------------------------------------------------------------------------------------------------------


def anchors(symbols: list[Symbol]) -> list:
    """Where links to names lead that have no entry on their page."""
    text = "".join(f'<a id="{s.full}"></a>' for s in symbols)
    return [nbformat.v4.new_markdown_cell(text)] if text else []


def written_output(cell) -> str:
    """The Markdown that a cell without visible code prints: it becomes part of the page, headings and all."""
    outputs = cell.get("outputs", []) if cell.directives.get("echo") == "false" else []
    return "\n\n".join("".join(o["data"]["text/markdown"]) for o in outputs if "text/markdown" in o.get("data", {}))


def code_cells(cell, page: Page, index: Index, heading: str) -> list:
    """A code cell as it is shown: its API entries when it exports, then the cell with its outputs."""
    new, d = nbformat.v4, cell.directives
    symbols = index.by_cell.get((page.name, cell.id), []) if EXPORTS & d.keys() else []
    if is_hidden(cell):
        return anchors(symbols)
    source, exported = code_of(cell), bool({"export", "exports", "exporti"} & d.keys())
    statements = parse(cell)
    if exported and statements and all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in statements):
        return []
    shown = [new.new_markdown_cell(api(s, page, index)) for s in symbols if s.kind != "data"]
    shown += anchors([s for s in symbols if s.kind == "data"])
    if written := written_output(cell):
        return [*shown, new.new_markdown_cell(markdown(written, page, index))]
    defines = any(isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for s in statements)
    tags = ["remove-input"] if d.get("echo") == "false" else []
    tags += ["remove-output"] if d.get("output") == "false" else []
    tags += ["hide-input"] if d.get("code-fold") in ("true", "show") or (exported and defines) else []
    outputs = [nbformat.from_dict(o) for o in cell.get("outputs", [])]
    for o in outputs:
        o.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        if o.output_type == "execute_result":
            o.execution_count = None
    alt = html.escape(alt_text(cell, heading))
    meta = {"tags": tags, "mystnb": {"image": {"alt": alt}}}
    if source.strip() or outputs:
        shown.append(new.new_code_cell(source, id=cell.id, outputs=outputs, metadata=meta))
    return shown


def page_links(page: Page) -> str:
    """Where else this page can be had: the notebook itself, a place to run it, plain text."""
    where = page.path.relative_to(ROOT).as_posix()
    own = page.name.rpartition("/")[2]
    return (
        f'<p class="page-links"><a href="{GITHUB}/{where}">Notebook on GitHub</a> '
        f'<a href="{COLAB}/blob/{ini["branch"]}/{where}">Open in Colab</a> <a href="{own}.html.md">Markdown</a></p>'
    )


def write_page(page: Page, index: Index, extra_cells: tuple[str, ...] = ()) -> None:
    """The notebook of a page, ready for Sphinx."""
    new, cells, heading, linked = nbformat.v4, [], page.title, False
    for cell in page.nb.cells:
        if cell.cell_type == "code":
            cells += code_cells(cell, page, index, heading)
        elif cell.cell_type == "markdown":
            found = re.findall(r"^#+\s+(.+)$", cell.source, flags=re.M)
            heading = found[-1].replace("`", "") if found else heading
            cells.append(new.new_markdown_cell(markdown(cell.source, page, index)))
            if not linked:
                cells.append(new.new_markdown_cell(page_links(page)))
                linked = True
    cells += [new.new_markdown_cell(text) for text in extra_cells]
    python = {"name": "python3", "display_name": "python3", "language": "python"}
    nb = new.new_notebook(cells=cells, metadata={"kernelspec": python, "language_info": {"name": "python"}})
    file = SRC / f"{page.name}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, file)


def write_text_page(page: Page, index: Index) -> None:
    """The page as plain Markdown beside it, at the address that the modules' docstrings name: core/errors.html.md."""

    def fence(text: str, language: str = "") -> str:
        return f"```{language}\n{text}\n```"

    def to_text(m: re.Match) -> str:
        target = index.by_path.get((page.path.parent / m[1]).resolve())
        return f"]({address(page, target.name)}.html.md)" if target else m[0]

    parts = []
    for cell in page.nb.cells:
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"\]\(([^)\s#]+\.ipynb)(?:#[^)]*)?\)", to_text, cell.source))
        elif cell.cell_type == "code" and not is_hidden(cell):
            texts = [o.get("text") or o.get("data", {}).get("text/plain") or "" for o in cell.get("outputs", [])]
            code, written = shown_code(cell), written_output(cell)
            parts += (
                [fence(code, "python")] * bool(code)
                + [written] * bool(written)
                + [fence("".join(t).strip()) for t in texts if "".join(t).strip()]
            )
    file = EXTRA / f"{page.name}.html.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


# --- the whole ------------------------------------------------------------------------------------------------------


def toctrees(nav: list[dict]) -> str:
    trees = []
    for s in nav:
        names = "\n".join(p["name"] for room in s["rooms"] for p in room["pages"])
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {s['title']}\n\n{names}\n```")
    return "\n\n".join([*trees, "```{toctree}\n:hidden:\n\ngallery\nnames\n```"])


def home(index: Index, nav: list[dict]) -> None:
    page = next((p for p in index.pages if p.name == "index"), None)
    extra = (book(nav), toctrees(nav))
    if page is not None:
        write_page(page, index, extra)
        write_text_page(page, index)
    else:
        write_markdown("index", f"# {ini['title']}\n\n> {ini['description']}", *extra)


def write_markdown(name: str, *texts: str) -> None:
    """A page that no notebook stands behind."""
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), SRC / f"{name}.ipynb")


def write_report(index: Index) -> None:
    """The report that the home page shows: the one that the page about reports has stored."""
    page = next(p for p in index.pages if p.name == REPORT_PAGE)
    outputs = (o for c in page.nb.cells if c.cell_type == "code" for o in c.outputs)
    stored = "".join("".join(o.get("data", {}).get("text/html", "")) for o in outputs)
    (EXTRA / "_static").mkdir()
    (EXTRA / "_static" / "report.html").write_text(html.unescape(re.search(r"srcdoc='([^']+)'", stored)[1]), encoding="utf-8")


def write_redirects(index: Index) -> None:
    """A page at each old address that leads to the new one."""
    present = {page.name for page in index.pages}
    for old, new in json.loads(REDIRECTS.read_text(encoding="utf-8")).items():
        if new not in present or old in present:
            problems.append(f"{REDIRECTS.name}: '{old}' leads to '{new}'")
            continue
        to = Path(os.path.relpath(new, Path(old).parent)).as_posix() + ".html"
        file = EXTRA / f"{old}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Moved</title><link rel="canonical" href="{to}">'
            f'<script>location.replace("{to}" + location.hash)</script><meta http-equiv="refresh" content="0; url={to}">'
            f'<p>This page has moved: <a href="{to}">{new}</a></p></html>\n',
            encoding="utf-8",
        )


def sphinx() -> int:
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", PROC / "doctrees", "-c", ROOT / "docs"]
    command = [sys.executable, "-m", "sphinx", *options, SRC, PROC / "out"]
    return subprocess.call([str(c) for c in command])


def main() -> int:
    shutil.rmtree(PROC, ignore_errors=True)
    SRC.mkdir(parents=True)
    EXTRA.mkdir()
    index = Index(notebooks(), NBS, ini["lib_name"])
    nav = navigation(index)
    (PROC / "nav.json").write_text(json.dumps(nav), encoding="utf-8")
    for page in index.pages:
        if page.name != "index":
            write_page(page, index)
            write_text_page(page, index)
    home(index, nav)
    write_redirects(index)
    write_report(index)
    for file in NBS.rglob("*"):
        if file.suffix in (".png", ".svg", ".jpg", ".webp"):
            (SRC / file.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, SRC / file.relative_to(NBS))
    site = f"{ini['doc_host']}{ini['doc_baseurl']}/"
    (EXTRA / "llms.txt").write_text(llms(index, nav, ini["title"], ini["description"], site), encoding="utf-8")
    write_markdown("names", api_index(index, nav))
    write_markdown("gallery", gallery(index, nav, EXTRA / "figures"))
    code = sphinx()
    for problem in problems:
        print(f"dead link: {problem}", file=sys.stderr)
    if (PROC / "out" / "index.html").exists():
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.move(PROC / "out", OUT)
    if code or problems:
        print("the site was built with errors: see above", file=sys.stderr)
        return 1
    print(f"{len(index.pages)} pages, {len(index.symbols)} names in {OUT.relative_to(ROOT)}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
