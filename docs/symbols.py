"""What the notebooks export, read from their source without importing anything: names, signatures, argument comments.

A name in backticks is looked up here, so that `closest` becomes a link to the page that explains it. A name that is
missing or ambiguous is not an error: it stays code.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

from fastcore.nbio import read_nb

EXPORTS = {"export", "exports"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Argument:
    name: str
    type: str = ""
    default: str = ""
    comment: str = ""
    star: str = ""  # "*" or "**" for variable arguments


@dataclass
class Symbol:
    name: str  # closest, Stage.update
    module: str  # aimt.core.errors
    page: str  # core/errors
    kind: str  # function, class, method, classmethod, staticmethod, property, data
    doc: str
    arguments: list[Argument] = field(default_factory=list)
    signature: str = ""
    returns: str = ""
    returns_comment: str = ""
    cell: str = ""  # id of the cell that defines it
    private: bool = False

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def line(self) -> str:
        """The first sentence of the docstring, or as much of it as stands on its first line."""
        paragraph = self.doc.partition("\n\n")[0].splitlines()
        ends = next((i for i, x in enumerate(paragraph) if x.rstrip().endswith((".", ":", "?"))), len(paragraph) - 1)
        return " ".join(x.strip() for x in paragraph[: ends + 1])


@dataclass
class Page:
    path: Path  # the notebook
    name: str  # core/errors
    module: str  # aimt.core.errors, or "" when the notebook exports nothing
    title: str
    promise: str
    anchors: set[str]  # of its headings
    imported: dict[str, str]  # local name -> full name of what the cells import from the package
    nb: object = field(repr=False)


def page_name(path: Path, nbs: Path) -> str:
    """core/05_files.ipynb -> core/files: the address nbdev uses too."""
    path = path.relative_to(nbs).with_suffix("")
    return (path.parent / re.sub(r"^\d+[a-z]?_", "", path.name)).as_posix()


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", title.strip().lower().replace("`", "")).replace(" ", "-")


def code_of(cell) -> str:
    """The source of a code cell without its directives and without magics."""
    lines = cell.source.splitlines()
    lines = [x for x in lines if not re.match(r"\s*#\s*\|", x) and not re.search(r"#\|\s*hide_line\s*$", x)]
    return "\n".join(lines).strip("\n")


def is_hidden(cell) -> bool:
    """Whether a code cell is left out of its page, with its outputs."""
    d = cell.directives
    return bool({"hide", "default_exp"} & d.keys()) or d.get("include") == "false"


def shown_code(cell) -> str:
    """The code of a cell as a reader of the page sees it and copies it, or "" when it shows none."""
    return "" if is_hidden(cell) or cell.directives.get("echo") == "false" else code_of(cell)


def parse(cell) -> list[ast.stmt]:
    """The statements of a code cell; none when it is not plain Python."""
    try:
        return ast.parse(re.sub(r"^[%!].*", "", code_of(cell), flags=re.M)).body
    except SyntaxError:
        return []


def read_page(path: Path, nbs: Path, package: str) -> Page:
    nb = read_nb(path)
    module, imported, anchors, title, promise = "", {}, set(), "", ""
    for cell in nb.cells:
        if cell.cell_type == "code":
            exp = cell.directives.get("default_exp")
            module = f"{package}.{exp}".removesuffix(".__init__") if exp else module
            for node in (n for s in parse(cell) for n in ast.walk(s)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
                    imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.M | re.S)
            found = re.findall(r"^#{1,6}\s+(.+?)\s*$", text, flags=re.M)
            anchors |= set(map(anchor, found))
            if not title and found:
                title = found[0].replace("`", "")
                promise = " ".join(x[1:].strip() for x in text.splitlines() if x.startswith(">"))
    return Page(path, page_name(path, nbs), module, title or path.stem, promise, anchors, imported, nb)


def comments(source: str) -> dict[int, str]:
    """The comment at the end of each line."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return {}
    return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


def text_of(node: ast.AST | None) -> str:
    """The source of an annotation or a default, short."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 40:
        return "..."
    if isinstance(node, ast.Lambda):
        return "..."
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option":  # of a kind of model: its default stands first
        return text_of(node.args[0])
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "field":
        made = [k.value for k in node.keywords if k.arg in ("default", "default_factory")]
        return {"list": "[]", "dict": "{}", "set": "set()"}.get(text_of(made[0]), "...") if made else ""
    return ast.unparse(node)


def type_of(node: ast.AST | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value  # a type in quotes
    return ast.unparse(node) if node else ""


def arguments_of(function: ast.AST, notes: dict[int, str], method: bool) -> list[Argument]:
    a, found = function.args, []
    positional = a.posonlyargs + a.args
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
    rows = list(zip(positional, defaults, [""] * len(positional), strict=True))[1 if method and not static else 0 :]
    rows += [(a.vararg, None, "*")] if a.vararg else []
    rows += [(k, d, "") for k, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    rows += [(a.kwarg, None, "**")] if a.kwarg else []
    last_on_line = {(d or arg).end_lineno: arg for arg, d, _ in rows}
    for arg, default, star in rows:
        line = (default or arg).end_lineno
        comment = notes.get(line, "") if last_on_line[line] is arg else ""
        found.append(Argument(arg.arg, type_of(arg.annotation), text_of(default), comment, star))
    return found


def signature_of(function: ast.AST, arguments: list[Argument]) -> str:
    keyword_only = {a.arg for a in function.args.kwonlyargs}
    parts, starred = [], bool(function.args.vararg)
    for a in arguments:
        if a.name in keyword_only and not starred:
            parts.append("*")
            starred = True
        parts.append(a.star + a.name + (f"={a.default}" if a.default else ""))
    return "(" + ", ".join(parts) + ")"


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def is_typed_dict(node: ast.ClassDef) -> bool:
    """A `TypedDict`, or a class that adds nothing but annotated names to another."""
    inside = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    only_fields = bool(inside) and all(isinstance(s, ast.AnnAssign) and s.value is None for s in inside)
    return any(ast.unparse(b) == "TypedDict" for b in node.bases) or (only_fields and bool(node.bases) and not node.decorator_list)


def fields_of(node: ast.ClassDef, notes: dict[int, str]) -> list[Argument]:
    rows = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
    public = [s for s in rows if not s.target.id.startswith("_") and "ClassVar" not in ast.unparse(s.annotation)]
    return [Argument(s.target.id, type_of(s.annotation), text_of(s.value), help_of(s.value) or notes.get(s.end_lineno, "")) for s in public]


def help_of(node: ast.AST | None) -> str:
    """The help of an option of a kind of model: it stands second."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option" and isinstance(node.args[1], ast.Constant):
        return str(node.args[1].value)
    return ""


def function_symbol(node, notes, *, owner: str, **place) -> Symbol:
    decorators = {ast.unparse(d).split("(")[0].rpartition(".")[2] for d in node.decorator_list}
    is_property = bool(decorators & {"property", "cached_property"})
    special = decorators & {"classmethod", "staticmethod"}
    kind = "property" if is_property else special.pop() if special else "method" if owner else "function"
    args = arguments_of(node, notes, bool(owner))
    end = node.returns.end_lineno if node.returns else 0
    note = notes.get(end, "") if end and not any(a.comment == notes.get(end) for a in args) else ""
    name = f"{owner}.{node.name}" if owner else node.name
    return Symbol(
        name,
        kind=kind,
        doc=ast.get_docstring(node) or "",
        arguments=args,
        private=node.name.startswith("_"),
        signature="" if is_property else signature_of(node, args),
        returns=type_of(node.returns),
        returns_comment=note,
        **place,
    )


def class_symbols(node: ast.ClassDef, notes, **place) -> list[Symbol]:
    symbol = Symbol(node.name, kind="class", doc=ast.get_docstring(node) or "", private=node.name[0] == "_", **place)
    found = [symbol]
    for s in node.body:
        if isinstance(s, FUNCTIONS):
            if s.name == "__init__":
                symbol.arguments = arguments_of(s, notes, True)
                symbol.signature = signature_of(s, symbol.arguments)
            elif not s.name.startswith("_") and ast.get_docstring(s):
                member = function_symbol(s, notes, owner=node.name, **place)
                if member.name not in {f.name for f in found}:  # the setter of a property comes after it
                    found.append(member)
    if is_dataclass(node) and not symbol.arguments:
        symbol.arguments = fields_of(node, notes)
        symbol.signature = "(" + ", ".join(a.name + (f"={a.default}" if a.default else "") for a in symbol.arguments) + ")"
    elif is_typed_dict(node):
        symbol.arguments = fields_of(node, notes)
    return found


def data_symbols(node: ast.Assign | ast.AnnAssign, notes: dict[int, str], **place) -> list[Symbol]:
    """The public names of an assignment; what is said about them is the comment at its end, or else their value."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    pairs = []  # name, value
    for target in targets:
        several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) and len(target.elts) == len(node.value.elts)
        inner = target.elts if isinstance(target, ast.Tuple) else [target]
        pairs += zip(inner, node.value.elts if several else [node.value] * len(inner), strict=True)
    comment = notes.get(node.end_lineno, "") or notes.get(node.lineno, "")
    doc = lambda value: comment or f"`{shorten(ast.unparse(value) if value else type_of(node.annotation), 80, placeholder=' ...')}`"
    public = [(t.id, v) for t, v in pairs if isinstance(t, ast.Name) and not t.id.startswith("_")]
    return [Symbol(name, kind="data", doc=doc(value), **place) for name, value in public]


def cell_symbols(cell, page: Page) -> list[Symbol]:
    """The public symbols that an exported cell defines."""
    notes, place = comments(code_of(cell)), {"module": page.module, "page": page.name, "cell": cell.id}
    found = []
    for node in parse(cell):
        if isinstance(node, ast.ClassDef):
            found += class_symbols(node, notes, **place)
        elif isinstance(node, FUNCTIONS):
            found.append(function_symbol(node, notes, owner="", **place))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found += data_symbols(node, notes, **place)
    private = {s.name for s in found if s.private}
    return [s for s in found if s.name.split(".")[0] not in private]


class Index:
    """All pages and all public symbols."""

    def __init__(self, paths: list[Path], nbs: Path, package: str):
        self.pages = [read_page(p, nbs, package) for p in paths]
        self.by_path = {p.path.resolve(): p for p in self.pages}
        self.symbols: dict[str, Symbol] = {}
        self.by_cell: dict[tuple[str, str], list[Symbol]] = {}
        for page in self.pages:
            for cell in page.nb.cells:
                if page.module and cell.cell_type == "code" and EXPORTS & cell.directives.keys():
                    self.by_cell[page.name, cell.id] = cell_symbols(cell, page)
                    self.symbols |= {s.full: s for s in self.by_cell[page.name, cell.id]}
        self.by_name = defaultdict(list)
        for s in self.symbols.values():
            self.by_name[s.name].append(s)
        self.by_module = {p.module: p for p in self.pages if p.module}

    def find(self, name: str, page: Page) -> Symbol | None:
        """The symbol that a name in backticks means on this page, or None."""
        called, name = name.endswith("()"), name.removesuffix("()")
        if name in self.symbols:
            return self.symbols[name]
        here = self.symbols.get(f"{page.module}.{name}")
        if here:
            return here
        head, _, rest = name.partition(".")
        if head in page.imported:
            return self.symbols.get(page.imported[head] + (f".{rest}" if rest else ""))
        distinct = called or "_" in name or name != name.lower()  # `train` alone is more often a word than a function
        found = self.by_name.get(name, [])
        return found[0] if distinct and len(found) == 1 else None
