"""Tables of a page that is made from code: words with code between backticks, a row a list of cells."""

import re
from collections.abc import Iterable, Sequence

from docutils import nodes


def table(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.table:
    made, group, heading, body = nodes.table(), nodes.tgroup(cols=len(head)), nodes.thead(), nodes.tbody()
    made += group
    group.extend([*(nodes.colspec(colwidth=width) for width in widths), heading, body])
    heading += _row(head)
    body.extend(_row(cells) for cells in rows)
    return made


def inline(text: str) -> list[nodes.Node]:
    """Plain words, with what stands between backticks as code."""
    pieces = enumerate(text.split("`"))
    return [nodes.literal(text=piece) if number % 2 else nodes.Text(piece) for number, piece in pieces if piece]


def section(name: str, title: str, text: str = "") -> nodes.section:
    """A section with paragraphs, which other pages reach by `name`."""
    made = nodes.section(ids=[re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")])
    made += nodes.title("", "", *inline(title))
    made.extend(nodes.paragraph("", "", *inline(paragraph)) for paragraph in text.split("\n\n") if paragraph)
    return made


def _row(cells: Sequence[str]) -> nodes.row:
    made = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", *inline(cell))
        made += entry
    return made
