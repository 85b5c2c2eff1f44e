"""Make README.md from nbs/index.ipynb: `python docs/readme.py`.

Markdown passes through unchanged but for links: those to notebooks lead to the site, those to other files of the
repository are made relative to its root, and names in backticks become links. Outputs follow as indented text.
"""

import os
import re
from pathlib import Path

from build import CODE, LINK, NBS, ROOT, SPAN, ini, notebooks
from symbols import Index, Page, is_hidden, shown_code

SITE = f"{ini['doc_host']}{ini['doc_baseurl']}/"


def address(m: re.Match, page: Page, index: Index) -> str:
    """A Markdown link, with its address as seen from the root of the repository."""
    path, _, fragment = m[2].partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return m[0]
    target = index.by_path.get((page.path.parent / path).resolve())
    if target is None:
        relative = Path(os.path.relpath((page.path.parent / path).resolve(), ROOT)).as_posix()
        return f"[{m[1]}]({relative}{'#' + fragment if fragment else ''})"
    symbol = index.symbols.get(f"{target.module}.{fragment}")
    return f"[{m[1]}]({SITE}{target.name}.html{'#' + (symbol.full if symbol else fragment) if fragment else ''})"


def link_names(line: str, page: Page, index: Index) -> str:
    def on_code(m: re.Match) -> str:
        symbol = index.find(m[1], page)
        return f"[{m[0]}]({SITE}{symbol.page}.html#{symbol.full})" if symbol else m[0]

    parts = re.split(r"(\[(?:[^\[\]`]|`[^`]*`)+\]\([^)\s]+\))", line)  # leave links as they are
    return "".join(p if p.startswith("[") else CODE.sub(on_code, p) for p in parts)


def markdown(text: str, page: Page, index: Index) -> str:
    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence and line.startswith(("#|", "<iframe")):
            continue
        elif not fence and not re.match(r"#{1,6}\s|    ", line):
            if not any("](" in m[2] for m in SPAN.finditer(line)):
                line = link_names(LINK.sub(lambda m: address(m, page, index), line), page, index)
        lines.append(line)
    return "\n".join(lines).strip()


def output_text(output: dict) -> str:
    data = output.get("data", {})
    text = output.get("text") or data.get("text/markdown") or data.get("text/plain") or ""
    return "".join(text).rstrip()


def readme(index: Index) -> str:
    page = next(p for p in index.pages if p.name == "index")
    parts = ["<!-- made from nbs/index.ipynb by docs/readme.py -->"]
    for cell in page.nb.cells:
        d = cell.directives if cell.cell_type == "code" else {}
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source, page, index))
        elif cell.cell_type == "code" and not is_hidden(cell):
            if code := shown_code(cell):
                parts.append(f"```python\n{code}\n```")
            texts = [output_text(o) for o in cell.get("outputs", [])] if d.get("output") != "false" else []
            parts += ["\n".join("    " + line for line in t.splitlines()) for t in texts if t]
    return "\n\n".join(p for p in parts if p) + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(Index(notebooks(), NBS, ini["lib_name"])), encoding="utf-8", newline="\n")
