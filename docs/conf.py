"""The documentation's site: `make docs` builds it from these pages, the card's models and the library's docstrings."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

project = "HeterRec pipeline"
author = "the HeterRec pipeline's authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "card_fields", "command_lines"]
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["extensions"]
# A docstring's `name` is code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"

html_theme = "furo"
html_title = project
html_static_path: list[str] = []
# Nothing is fetched from elsewhere: the pages open from a folder without a network.
html_theme_options = {"top_of_page_buttons": []}
html_show_sphinx = False
