"""No check can be written that does not say what to do where it does not hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.decision import Reason
from components.validate.suite import at_most
from components.workspace import ROOT

CHECKS = ("Check", "RowCheck", "at_most", "within", "factor", "_share")
MAKERS = {"Reason": {"remedy"}, **{name: {"field", "remedy"} for name in CHECKS}}
"""What makes a reason, or the check that becomes one, and what it must be given one of."""


def made(source: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
            yield node


def test_every_reason_that_any_step_can_give_says_what_would_change_it():
    # push has a function of its own called _share.
    calls = [
        (path, call)
        for path in sorted((ROOT / "components").glob("*/*.py"))
        for call in made(path)
        if path.parent.name != "push"
    ]
    assert len(calls) > 60, "the scan no longer finds the checks"
    for path, call in calls:
        given = {word.arg: word.value for word in call.keywords}
        level = given.get("level")
        only_told = isinstance(level, ast.Constant) and level.value == "info"
        read_back = None in given
        assert only_told or read_back or MAKERS[call.func.id] & given.keys(), f"{path}:{call.lineno}"


def test_a_check_without_a_remedy_is_refused():
    with pytest.raises(ValueError, match="'busy' can stop or warn, and does not say what to do"):
        Reason(check="busy", held=True, found=1, allowed=2, message="few")
    with pytest.raises(ValueError, match="'busy' names neither a field of the card nor a remedy"):
        at_most("busy", "few", block=1)
    assert (
        at_most("busy", "few", block=1, field="limits.x").remedy == "correct the source, or change limits.x in the card"
    )
