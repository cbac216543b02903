"""No check can be written that does not say what to do where it does not hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.validate.suite import at_most
from runtime.decision import Reason
from runtime.workspace import ROOT

Name = tuple[str, str]
"""A module and what it calls something."""
TELLS = {"remedy", "field"}
"""What becomes the remedy of a reason; a check may name the field of the card that would change it."""


class Module:
    """A source, and what the names in it stand for."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.name = path, ".".join(path.relative_to(root).with_suffix("").parts)
        self.tree = ast.parse(path.read_text())
        self._names: dict[str, Name] = {}
        self._modules: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for each in node.names:
                    self._names[each.asname or each.name] = (str(node.module), each.name)
                    self._modules[each.asname or each.name] = f"{node.module}.{each.name}"
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                self._names[node.name] = (self.name, node.name)

    def meant(self, node: ast.AST) -> Name | None:
        """What a name, or `module.name`, stands for."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return self._modules.get(node.value.id, ""), node.attr
        return None

    def types(self, annotation: ast.AST | None) -> set[Name | None]:
        return {self.meant(node) for node in ast.walk(annotation)} if annotation else set()


def makers(modules: list[Module]) -> dict[Name, set[str]]:
    """What makes a reason or a check that becomes one, by its type, and the parameters by which it can be told the
    remedy: classes with a field for it, and functions that return one of those and can be told. A function that cannot
    be told makes them itself, and says it there."""
    nodes = [(module, node) for module in modules for node in ast.walk(module.tree)]
    found: dict[Name, set[str]] = {}
    for module, node in nodes:
        if isinstance(node, ast.ClassDef):
            fields = {getattr(each.target, "id", "") for each in node.body if isinstance(each, ast.AnnAssign)}
            if "remedy" in fields:
                found[module.name, node.name] = fields & TELLS
    for module, node in nodes:
        if isinstance(node, ast.ClassDef) and (bases := found.keys() & {module.meant(base) for base in node.bases}):
            found[module.name, node.name] = set().union(*(found[base] for base in bases))
    types = set(found)
    for module, node in nodes:
        if isinstance(node, ast.FunctionDef) and types & module.types(node.returns):
            parameters = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
            if parameters & TELLS:
                found[module.name, node.name] = parameters & TELLS
    return found


def untold(root: Path) -> Iterator[tuple[str, bool]]:
    """Every place in the rooms of `root` where a reason or a check is made, and whether it is not told what to do."""
    rooms = ("runtime", "components")
    modules = [Module(path, root) for room in rooms for path in sorted((root / room).rglob("*.py"))]
    known = makers(modules)
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and (asked := known.get(module.meant(node.func) or ("", ""))):
                given = {word.arg: word.value for word in node.keywords}
                level = given.get("level")
                only_told = isinstance(level, ast.Constant) and level.value == "info"
                read_back = None in given
                yield f"{module.path}:{node.lineno}", not (only_told or read_back or asked & given.keys())


def test_every_reason_that_any_step_can_give_says_what_would_change_it() -> None:
    found = dict(untold(ROOT))
    assert len(found) > 60, "the scan no longer finds the checks"
    assert not [place for place, silent in found.items() if silent]


@pytest.mark.parametrize(
    ("call", "silent"),
    [
        ("Reason(check='busy', held=True, found=1, allowed=2, message='few')", [True]),
        ("Reason(check='busy', held=True, found=1, allowed=2, message='few', remedy='wait')", [False]),
        ("Reason(check='busy', held=True, found=1, allowed=2, message='few', level='info')", [False]),
        ("decision.Reason(check='busy', held=True, found=1, allowed=2, message='few')", [True]),
        ("by_another_name('busy')", [False, True]),
        ("by_another_name('busy', remedy='wait')", [False, False]),
        ("_share(1, 2)", []),
    ],
)
def test_a_reason_is_found_by_what_it_is_whatever_makes_it(call: str, silent: list[bool], tmp_path: Path) -> None:
    """A function of the name of one that makes checks makes none; one of any name that returns a reason does."""
    (tmp_path / "components" / "gate").mkdir(parents=True)
    (tmp_path / "runtime").mkdir()
    source = (ROOT / "runtime" / "decision.py").read_text()
    (tmp_path / "runtime" / "decision.py").write_text(source)
    maker = (
        "def by_another_name(check: str, remedy: str = '') -> list[Reason]:\n"
        "    return [Reason(check=check, held=True, found=1, allowed=2, message='', remedy=remedy)]\n\n"
    )
    kept = maker if "another_name" in call else "def _share(one, other):\n    return one / other\n\n"
    head = "from runtime import decision\nfrom runtime.decision import Reason\n\n"
    (tmp_path / "components" / "gate" / "step.py").write_text(f"{head}{kept}found = {call}\n")
    told = [(place, each) for place, each in untold(tmp_path) if place.partition(":")[0].endswith("gate/step.py")]
    assert sorted(each for _, each in told) == silent, told


def test_a_check_without_a_remedy_is_refused() -> None:
    with pytest.raises(ValueError, match="'busy' can stop or warn, and does not say what to do"):
        Reason(check="busy", held=True, found=1, allowed=2, message="few")
    with pytest.raises(ValueError, match="'busy' names neither a field of the card nor a remedy"):
        at_most("busy", "few", block=1)
    assert (
        at_most("busy", "few", block=1, field="limits.x").remedy == "correct the source, or change limits.x in the card"
    )
