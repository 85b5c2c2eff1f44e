"""Sphinx settings of the site; docs/build.py runs Sphinx with them."""

import json
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
ini = ini["DEFAULT"]

project, author, release = ini["title"], ini["author"], ini["version"]
copyright = f"{author}, {ini['license']}"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.githubpages"]
source_suffix = {".ipynb": "myst-nb"}
html_extra_path = [str(root / "_proc" / "extra")]

nb_execution_mode = "off"  # outputs are stored in the notebooks and checked by the tests
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_number_source_lines = False
nb_code_prompt_show = nb_code_prompt_hide = "Code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "fieldlist", "attrs_inline", "attrs_block", "deflist", "tasklist"]
myst_heading_anchors = 4
myst_dmath_allow_digits = False  # "$5 to $10" is money
highlight_language = "none"  # a code block without a language is plain text
add_module_names = False
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div.cell_input pre, div.highlight-sh pre, div.highlight-python pre, div.highlight-bash pre"

html_theme = "pydata_sphinx_theme"
html_title = ini["title"]
html_favicon = str(root / "docs" / "_static" / "favicon.svg")
html_static_path = ["_static"]
html_css_files = ["aimt.css"]
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False
html_baseurl = f"{ini['doc_host']}{ini['doc_baseurl']}/"
templates_path = ["_templates"]
html_sidebars = {"**": ["nav"]}
html_context = {"nav": json.loads((root / "_proc" / "nav.json").read_text(encoding="utf-8")), "default_mode": "auto"}
html_theme_options = {
    "navbar_center": [],
    "navbar_align": "left",
    "github_url": ini["git_url"],
    "show_prev_next": True,
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "article_header_start": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_math_renderer = "mathml"  # made when the site is built: no JavaScript, nothing to fetch


UNKNOWN = ((r"\arg", r"\text{arg}\,"), ("{aligned}", "{align*}"))  # What the converter does not know, and what says the same


def setup(app):
    from docutils import nodes
    from latex2mathml.converter import convert
    from sphinx.util import logging

    def mathml(self, node, display):
        formula = node.astext()
        for word, known in UNKNOWN:
            formula = formula.replace(word, known)
        try:
            drawn = convert(formula, display=display)
            if left := re.search(r"<m[io][^>]*>(\\[^<]*|&)</m[io]>", drawn):
                raise ValueError(f"{left[1]!r} is left over")
        except Exception as e:
            logging.getLogger(__name__).warning("this formula cannot be read (%r): %s", e, node.astext(), location=node)
            return f"<code>{self.encode(node.astext())}</code>"
        return drawn

    def inline(self, node):
        self.body.append(mathml(self, node, "inline"))
        raise nodes.SkipNode

    def block(self, node):
        self.body.append(f'<div class="math">{mathml(self, node, "block")}</div>')
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
