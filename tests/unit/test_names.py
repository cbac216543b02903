"""A name says what it is, and one thing only: who searches for it finds one definition."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "heterrec", "marketplace", "feature_repo", "events", "experiments", "serving", "components",
         "pipelines", "console", "benchmarks", "scripts")  # fmt: skip
SAYS_NOTHING = {"told", "tell", "found", "together", "share"}
"""Words that stood for up to eight things each; a function is called by what it gives or does."""


def defined(what: str) -> Iterator[tuple[str, str]]:
    """Each name that a module defines by the keyword(s) `what` at its top level, and where."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for name in re.findall(rf"^(?:{what}) (\w+)", path.read_text(), re.MULTILINE):
                yield name, str(path.relative_to(ROOT))


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, path in defined("class"):
        if not name.startswith("_"):
            places[name].append(path)
    assert len(places) > 300, "the scan reads the whole tree"
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_function_of_a_module_is_called_by_a_word_that_says_nothing() -> None:
    functions = list(defined("def|async def"))
    assert len(functions) > 1000, "the scan reads the whole tree"
    assert [(name, path) for name, path in functions if name.strip("_") in SAYS_NOTHING] == []
