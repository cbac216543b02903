"""Great Expectations' pages as it renders them, but of themselves: in a closed network theirs are blank or broken.

Theirs take styles, scripts, fonts and pictures from a dozen public addresses, and the list of pages is made by one of
these scripts. What is left is the tables that it renders, with a style of our own, and a list of pages without script.
"""

import re
import shutil
from pathlib import Path

from runtime.page import render

NETWORK = re.compile(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""", re.IGNORECASE)
_GONE = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"<script\b.*?</script>",
        r"<link\b[^>]*>",
        r"<style\b.*?</style>",
        r"<img\b[^>]*>",
        r"<footer\b.*?</footer>",
        r"<button\b.*?</button>",
        # Its buttons that hide what held are scripts.
        r'<div class="btn-group\b.*?</div>',
        r'\son[a-z]+="[^"]*"',
    )
)
_OUTWARD = re.compile(r"""<a\b[^>]*href=["'](?:https?:)?//[^>]*>(.*?)</a>""", re.IGNORECASE | re.DOTALL)
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; background: #f6f7f9; margin: 0 auto; max-width: 980px;
  padding: 24px 20px 60px }
nav, ol, ul { list-style: none; margin: 0; padding: 0 } .sticky, [data-toggle], hr { display: none }
.sticky-top li { display: inline } .breadcrumb-item + .breadcrumb-item::before { content: " / " }
h1, h2, h3, h4, h5 { font-size: 17px; margin: 8px 0 } h6 { font-size: 13px;
  margin: 14px 0 2px; color: #6b7686 } [style*="color:red"] { color: inherit !important } p { margin: 4px 0 }
.ge-section { background: #fff; border: 1px solid #e3e6eb;
  border-radius: 8px; padding: 12px 18px; margin: 0 0 12px; overflow-x: auto }
table { border-collapse: collapse; width: 100% } td, th { padding: 5px 12px 5px 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid #eef0f3 } th { color: #6b7686; font-size: 13px }
.badge { background: #eef0f3; border-radius: 4px; padding: 1px 6px } a { color: #2457a6 }
.fa-check-circle::before { content: "✓"; color: #177a4b } .fa-times::before { content: "✗"; color: #b3261e }
.fa-exclamation-triangle::before { content: "!"; color: #a15c00 } svg { max-width: 100% }
</style>"""
INDEX = """{% extends "base" %}{% block body %}<h1>{{ title }}</h1>
<p class="sub">As Great Expectations renders what it asked of each table and what it found there. The verdict for
people is <a href="../page.html">the gate's page</a>, which also has what was held against earlier days and runs.</p>
<section><table>{% for path, name in pages %}<tr><td><a href="{{ path }}">{{ name }}</a></td></tr>
{% endfor %}</table></section>{% endblock %}"""


def make_offline(folder: Path, *, name: str) -> None:
    """Rewrite the Data Docs in `folder` so that none of their pages asks the network for anything."""
    shutil.rmtree(folder / "static", ignore_errors=True)
    pages = sorted(path for path in folder.rglob("*.html") if path != folder / "index.html")
    for page in pages:
        page.write_text(_offline(page.read_text()))
    named = [(page.relative_to(folder).as_posix(), _called(page.relative_to(folder))) for page in pages]
    (folder / "index.html").write_text(render(INDEX, title=f"Data Docs of {name}", pages=named))


def _offline(html: str) -> str:
    for pattern in _GONE:
        html = pattern.sub("", html)
    html = _OUTWARD.sub(r"\1", html)
    return html.replace("</head>", f"{STYLE}\n</head>", 1)


def _called(path: Path) -> str:
    what = {"expectations": "What was expected", "validations": "What was found"}.get(path.parts[0], path.parts[0])
    return f"{what}: {path.stem}"
