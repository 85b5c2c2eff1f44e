"""The gallery: the first figure of each page, as its notebook stores it, with a link to where the page draws it."""

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path

from contents import pages_of
from symbols import Index, Page, anchor, is_hidden


@dataclass(frozen=True)
class Picture:
    page: Page
    heading: str  # of the part of the page that draws it
    alt: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header of the PNG."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def alt_text(cell, heading: str) -> str:
    """What the figure of a cell shows, in words."""
    return cell.directives.get("fig-alt") or cell.directives.get("alt") or f"Figure: {heading}"


def first_picture(page: Page) -> Picture | None:
    """The first figure that a page shows."""
    heading = page.title
    for cell in page.nb.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+\s+(.+)$", cell.source, flags=re.M)
            heading = found[-1].replace("`", "") if found else heading
        elif cell.cell_type == "code" and not is_hidden(cell) and cell.directives.get("output") != "false":
            for output in cell.get("outputs", []):
                if png := output.get("data", {}).get("image/png"):
                    return Picture(page, heading, alt_text(cell, heading), base64.b64decode("".join(png)))
    return None


def gallery(index: Index, nav: list[dict], folder: Path) -> str:
    """The page as Markdown with HTML; its pictures are written to the folder."""
    parts = ["# Gallery\n\n> The first figure of each page. Choose one to see the code that draws it, and what it says."]
    parts.append(
        'What trained generators draw, play and write stands in the <a href="guides/gallery.html">gallery of generated samples</a>.'
    )
    folder.mkdir(parents=True, exist_ok=True)
    for room, pages in pages_of(index, nav):
        items = []
        for picture in filter(None, map(first_picture, pages)):
            page, (width, height) = picture.page, picture.size
            name = page.name.replace("/", "-") + ".png"
            (folder / name).write_bytes(picture.png)
            place = "" if picture.heading == page.title else "#" + anchor(picture.heading)
            items.append(
                f'<li><a href="{page.name}.html{place}"><img src="{folder.name}/{name}" alt="{html.escape(picture.alt)}" '
                f'width="{width}" height="{height}" loading="lazy"><b>{html.escape(page.title)}</b></a> '
                f"<span>{html.escape(picture.heading) if place else ''}</span></li>"
            )
        if items:
            parts.append(f'## {room}\n\n<ul class="gallery">\n' + "\n".join(items) + "\n</ul>")
    return "\n\n".join(parts)
