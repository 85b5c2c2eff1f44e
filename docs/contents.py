"""What the site contains, in reading order: the navigation, the table of contents, the index of all public names, `llms.txt`.

The last two have every public name with the first line of its docstring.
"""

import html

import re

from symbols import Index, Page, Symbol

SECTIONS = {  # folder: (name, what it is about), in reading order: guides first, then the lifecycle
    "guides": ("Guides", "One task each, from the first command to measurements"),
    "apps": ("Applications", "Whole stories on real data"),
    "book": ("From a neuron to GPT", "The whole path in small steps, each one a page that runs"),
    "data": ("Data", "From a file to data that can be trusted"),
    "metrics": ("Metrics", "How good a model is, with confidence intervals"),
    "models": ("Models", "From a constant to boosted trees, from a layer to GPT"),
    "train": ("Train", "The best model within a time limit; the training loop"),
    "evaluate": ("Evaluate", "Scores, calibration, fairness, and whether more data would help"),
    "explain": ("Explain", "Why the model predicts what it predicts"),
    "generate": ("Generate", "From next-token probabilities to text"),
    "decide": ("Decide", "From probabilities to decisions, and to a verdict"),
    "deploy": ("Deploy", "Reports, model cards and prediction services"),
    "monitor": ("Monitor", "Is the model still right? Drift, and performance with and without labels"),
    "jobs": ("Jobs", "Kinds of models, and each verb as one function"),
    "cli": ("Command line", "The `aimt` command"),
    "core": ("Core", "The run, the problem, errors and files: what everything else stands on"),
}
ROOMS = {  # folders inside a section, in reading order: name
    "data": {
        "io": "Files and databases",
        "table": "Tables",
        "series": "Time series",
        "checks": "Data checks",
        "split": "Splits",
        "text": "Text",
        "image": "Images",
        "audio": "Audio",
        "music": "Music",
        "video": "Video",
        "design": "Designs",
        "sources": "Data sets",
    },
    "metrics": {"generation": "Generators"},
    "decide": {"generators": "Generators"},
    "models": {
        "layers": "Layers",
        "flow": "Flow matching",
        "trees": "Trees",
        "table": "Tables",
        "series": "Time series",
        "text": "Text",
        "image": "Images",
        "audio": "Audio",
        "music": "Music",
        "video": "Video",
        "design": "Designs",
    },
    "train": {"table": "Tables", "loop": "The training loop", "networks": "Networks"},
    "evaluate": {"table": "Tables", "text": "Text", "generation": "Generators"},
    "explain": {"networks": "Networks"},
    "generate": {"text": "Text", "audio": "Audio", "image": "Images", "music": "Music", "video": "Video", "design": "Designs"},
    "deploy": {
        "report": "Reports",
        "generators": "Reports of generators",
        "serve": "Prediction services",
        "export": "Export",
        "studio": "The studio",
    },
    "jobs": {
        "kinds": "Kinds of models",
        "steps": "Steps of each kind",
        "families": "Pretrained families",
        "generators": "Generators of designs",
        "verbs": "Verbs",
        "operate": "Serving, retraining and the studio",
        "shared": "Shared parts",
    },
}


def navigation(index: Index) -> list[dict]:
    """The sections that exist, in lifecycle order, each with its pages."""
    by_section: dict[str, list[Page]] = {}
    for page in index.pages:
        if "/" in page.name:
            by_section.setdefault(page.name.split("/")[0], []).append(page)
    order = [s for s in SECTIONS if s in by_section] + [s for s in by_section if s not in SECTIONS]
    named = {s: SECTIONS.get(s, (s.capitalize(), "")) for s in order}
    return [{"section": s, "title": named[s][0], "line": named[s][1], "rooms": rooms_of(s, by_section[s])} for s in order]


def rooms_of(section: str, pages: list[Page]) -> list[dict]:
    """The pages of a section by its rooms; those that stand in no room come first, without a title."""
    rooms: dict[str, list[dict]] = {}
    for page in pages:
        parts = page.name.split("/")[1:-1]
        shown = {"name": page.name, "title": page.title, "promise": page.promise}
        rooms.setdefault(parts[0] if parts else "", []).append(shown)
    titles = ROOMS.get(section, {})
    return [{"title": titles.get(room, room.capitalize()), "pages": found} for room, found in rooms.items()]


def plain_html(text: str) -> str:
    """A line of Markdown as HTML: code, emphasis, and the text of links."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\*\*(\S.*?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*(\S.*?)\*", r"<em>\1</em>", text)


def book(nav: list[dict]) -> str:
    """The table of contents on the home page."""
    parts = []
    for s in nav:
        lists = ""
        for room in s["rooms"]:
            items = "".join(
                f'<li><a href="{p["name"]}.html">{html.escape(p["title"])}</a> <span>{plain_html(p["promise"])}</span></li>'
                for p in room["pages"]
            )
            title = f'<p class="room">{html.escape(room["title"])}</p>' if room["title"] else ""
            lists += f"{title}<ol>{items}</ol>"
        parts.append(f'<section><p class="part">{html.escape(s["title"])}</p><p class="line">{plain_html(s["line"])}</p>{lists}</section>')
    return '## The book\n\n<div class="book">\n' + "\n".join(parts) + "\n</div>"


def public(index: Index, page: Page) -> list[Symbol]:
    """The public names of a page's module in the order of the page, without the methods of its classes."""
    by_cell = (index.by_cell.get((page.name, cell.id), []) for cell in page.nb.cells)
    return list({s.name: s for found in by_cell for s in found if "." not in s.name}.values())


def pages_of(index: Index, nav: list[dict]) -> list[tuple[str, list[Page]]]:
    """The pages of each room under its title: "Data: Tables"."""
    by_name, found = {p.name: p for p in index.pages}, []
    for section in nav:
        for room in section["rooms"]:
            title = section["title"] + (f": {room['title']}" if room["title"] else "")
            found.append((title, [by_name[p["name"]] for p in room["pages"]]))
    return found


def llms(index: Index, nav: list[dict], title: str, description: str, site: str) -> str:
    """The text of llms.txt: pages with their promises, and under each the names that its module exports."""
    parts = [
        f"# {title}",
        f"> {description}",
        "Each link leads to a page as Markdown: prose, code, outputs. Under a page stand the names of its module.",
    ]
    for room, pages in pages_of(index, nav):
        lines = [f"## {room}", ""]
        for page in pages:
            lines.append(f"- [{page.title}]({site}{page.name}.html.md): {page.promise}")
            lines += [f"  - `{s.full}`: {s.line}" for s in public(index, page)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def api_index(index: Index, nav: list[dict]) -> str:
    """The page with all public names by module, as Markdown with HTML."""
    parts = ["# API index\n\n> Every public name by module, with one line about it and a link to its entry."]
    for room, pages in pages_of(index, nav):
        modules = [(page, found) for page in pages if (found := public(index, page))]
        if not modules:
            continue
        blocks = []
        for page, found in modules:
            items = "".join(
                f'<li><a href="{page.name}.html#{s.full}"><code>{html.escape(s.name)}</code></a> <span>{plain_html(s.line)}</span></li>'
                for s in found
            )
            blocks.append(f'<p class="part"><a href="{page.name}.html"><code>{page.module}</code></a></p><ol>{items}</ol>')
        parts.append(f'## {room}\n\n<div class="names">\n' + "\n".join(blocks) + "\n</div>")
    return "\n\n".join(parts)
