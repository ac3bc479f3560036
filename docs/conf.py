"""Configuration of the site, which ``make docs`` builds: warnings are errors, and nothing comes from the network."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # gallery_pictures

project = "lcnumba"
author = "the lcnumba developers"
project_copyright = "2026, the lcnumba developers"
release = version = installed("lcnumba")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["examples", "figures", "gallery"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence"]
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
    "show_signature": False,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
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
    lines[:] = [line if ">>>" in line else re.sub(r"(?<=[(\s/])\*(?=[a-z])", r"\\*", line) for line in text]


def setup(app):
    """Connect to Sphinx, before numpydoc reads the docstrings."""
    app.connect("autodoc-process-docstring", prepare, priority=100)
