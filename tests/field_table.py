"""docs/fields.md as a test reads it: fields with a meaning for others, and the tests that hold each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runtime.workspace import ROOT

OPAQUE = {"labels", "annotations", "matchLabels", "data", "requests", "limits", "hard"}
"""What is below them is names of ours, or Kubernetes' own resources; below a Service's `selector`, too."""


@dataclass(frozen=True)
class Row:
    patterns: tuple[str, ...]
    """Empty for what is no field of a document."""
    tests: tuple[str, ...]
    """Names, some with … in place of their end."""


def rows(section: str) -> list[Row]:
    """The rows of the tables below a heading."""
    text = (ROOT / "docs" / "fields.md").read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    found, fields = [], False
    for line in text.splitlines():
        cells = line.split("|")[1:-1]
        if not cells or set(cells[0]) <= {"-"}:
            continue
        if not re.search(r"`test_", cells[-1]):
            fields = cells[0].strip() == "field"  # a head
            continue
        named = re.findall(r"`([^`]+)`", cells[0]) if fields else []
        found.append(Row(tuple(named), tuple(re.findall(r"`(test_\w+…?)`", cells[-1]))))
    return found


def covers(pattern: str, path: str) -> bool:
    """Whether a name of the table means the field; `*` is one step, `{a,b}` either."""
    text = re.escape(pattern).replace(r"\*", "[^.]*").replace(r"\{", "(?:").replace(r"\}", ")").replace(",", "|")
    return re.fullmatch(text, path) is not None


def paths(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The ways to all leaves of a document, lists left out and what is below a name of `OPAQUE` not entered."""
    names = path[-1:] == ("selector",) and all(isinstance(each, str) for each in tree.values())
    if isinstance(tree, dict) and tree and not names and not (path and path[-1] in OPAQUE):
        for name, value in tree.items():
            yield from paths(value, (*path, name))
    elif isinstance(tree, list) and tree:
        for value in tree:
            yield from paths(value, path)
    else:
        yield ".".join(path)


def amiss(table: list[Row], found: set[str]) -> tuple[set[str], set[str]]:
    """Fields without a row, and names of the table that no field has."""
    patterns = {pattern for row in table for pattern in row.patterns}
    without = {path for path in found if not any(covers(each, path) for each in patterns)}
    return without, {each for each in patterns if not any(covers(each, path) for path in found)}


def written() -> set[str]:
    """Names of every test of this project."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }


def not_there(table: list[Row], known: set[str]) -> set[str]:
    """Tests that the table names and nobody wrote."""
    return {
        name
        for row in table
        for name in row.tests
        if not (any(each.startswith(name[:-1]) for each in known) if name.endswith("…") else name in known)
    }
