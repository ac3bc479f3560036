"""Configuration of the site, which ``make docs`` builds: warnings are errors, and nothing comes from the network."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parent))  # gallery_pictures

project = "lcnumba"
author = "the lcnumba developers"
project_copyright = "2026, the lcnumba developers; BSD-3-Clause"
release = version = installed("lcnumba")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["figures", "gallery"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "substitution"]
myst_substitutions = {"version": version}
myst_heading_anchors = 3

autosummary_imported_members = True
autosummary_ignore_module_all = False
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the sections of the docstrings have them
numpydoc_show_class_members = False
copybutton_prompt_text = ">>> |... |$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "image_scrapers": ("gallery_pictures.scrape",),
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "run_stale_examples": True,  # the library may have changed
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "gallery_pictures.Order",
    "ignore_pattern": "global_field",  # a program for several processes, which an example starts
}

html_theme = "pydata_sphinx_theme"
html_title = "lcnumba"
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "logo": {"text": "lcnumba"},
    "navbar_end": ["search-button", "theme-switcher"],
    "navbar_persistent": [],
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "collapse_navigation": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "get-started": []}


def prepare(app, what, name, obj, options, lines):
    """Join lists of parameters that go on in another line, and keep the stars of shapes such as (N, *input, C)."""
    text = re.sub(r"\\\n\s*", "", "\n".join(lines)).split("\n")
    lines[:] = [
        line if ">>>" in line else re.sub(r"(?<=[(\s/])\*(?=[a-z])", r"\\*", line)
        for line in text
    ]


def lead_to_pages(app, name, source):
    """Let links to files of the gallery and to the changelog lead to their pages; show titles, not names of files."""
    source[0] = re.sub(r"\]\(gallery/(plot_\w+)\.py\)", r"](auto_gallery/\1.rst)", source[0])
    source[0] = source[0].replace("](../CHANGELOG.md)", "](changelog.md)")
    source[0] = re.sub(r"\[[\w-]+\.md\]\(([\w-]+\.md)", r"[](\1", source[0])


def refuse_network(app, exception):
    """Raise if a page fetches anything from another host; links to follow may lead there."""
    if exception is not None or app.builder.name != "html":
        return
    fetches = re.compile(
        r"""<(?:script|img|iframe|source|link(?! rel="canonical"))\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"""
    )
    of_style = re.compile(r"""(?:url\(\s*|@import\s+)["']?(?:https?:)?//[^)"'\s]*""")
    found = set()
    for path in Path(app.outdir).rglob("*"):
        if path.suffix in (".html", ".css", ".svg"):
            text = path.read_text(encoding="utf-8")
            tags = fetches.findall(text) if path.suffix == ".html" else []
            found |= {f"{path.name}: {tag}" for tag in tags + of_style.findall(text)}
    if found:
        raise ExtensionError("pages fetch from other hosts:\n" + "\n".join(sorted(found)))


def setup(app):
    """Connect to Sphinx, before numpydoc reads the docstrings."""
    app.connect("source-read", lead_to_pages)
    app.connect("build-finished", refuse_network)
    app.connect("autodoc-process-docstring", prepare, priority=100)
