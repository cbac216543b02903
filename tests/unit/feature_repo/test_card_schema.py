"""The card's JSON Schema is that of its models, and no field of theirs is without effect."""

import ast
import functools
import json
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from feature_repo.card import DATASETS, DatasetCard
from feature_repo.card_schema import PATH, schema

ROOT = Path(__file__).parents[3]
DECLARED = {"card.py", "card_features.py", "card_source.py", "limits.py", "card_schema.py"}


def test_the_schema_in_the_repository_is_that_of_the_models():
    assert PATH.read_text() == schema(), "run `python -m feature_repo.card_schema`"


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_editors_take_our_cards_and_refuse_a_field_that_is_none(path):
    card = json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str))
    jsonschema.validate(card, json.loads(PATH.read_text()))
    with pytest.raises(jsonschema.ValidationError, match="spilt"):
        jsonschema.validate({**card, "spilt": card["split"]}, json.loads(PATH.read_text()))


def models_of(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models_of(inner)


def fields_of(model: type[BaseModel]) -> dict[type[BaseModel], dict[str, set[type[BaseModel]]]]:
    """Every model below `model`: its fields, and the models that each of these holds."""
    found: dict[type[BaseModel], dict[str, set[type[BaseModel]]]] = {}
    todo = [model]
    while todo:
        if (each := todo.pop()) not in found:
            found[each] = {name: set(models_of(info.annotation)) for name, info in each.model_fields.items()}
            todo += [inner for inners in found[each].values() for inner in inners]
    return found


class Reads(ast.NodeVisitor):
    """What is read of which name in a module: `names.user_id` is ("names", "user_id")."""

    def __init__(self, properties_only: bool) -> None:
        self.pairs: set[tuple[str, str]] = set()
        self.strings: set[str] = set()
        self.typed: dict[str, set[str]] = defaultdict(set)
        """Name of a class to the names of parameters and variables that are annotated with it."""
        self.called: dict[str, set[str]] = defaultdict(set)
        """An attribute or variable to the names that are given its value, or those of its elements."""
        self._properties_only = properties_only

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self._properties_only and "property" not in {getattr(each, "id", "") for each in node.decorator_list}:
            return
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self._annotate(node.arg, node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotate(last(node.target), node.annotation)
        self.generic_visit(node)

    def _annotate(self, name: str, annotation: ast.expr | None) -> None:
        for each in ast.walk(annotation) if annotation is not None else ():
            self.typed[each.id if isinstance(each, ast.Name) else getattr(each, "value", "") or ""].add(name)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = zip(target.elts, node.value.elts, strict=False) if isinstance(target, ast.Tuple) and isinstance(
                node.value, ast.Tuple) else [(target, node.value)]  # fmt: skip
            for to, of in pairs:
                self.called[last(of)].add(last(to))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.called[last(node.value)].add(last(node.target))
        self.generic_visit(node)

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        for each in ast.walk(over):
            self.called[last(each)].add(last(target))

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._loop(node.target, node.iter)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.pairs.add((last(node.value), node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if last(node.func) == "getattr":
            named = node.args[1]
            self.pairs.add((last(node.args[0]), named.value if isinstance(named, ast.Constant) else "*"))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "model_dump":
            for said in (each.value for each in node.keywords if each.arg == "include"):
                names = [each.value for each in ast.walk(said) if isinstance(each, ast.Constant)]
                self.pairs |= {(last(node.func.value), name) for name in names}
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.strings.add(node.value)


def last(node: ast.AST) -> str:
    """The name at the end of an expression: `card.source.csv` is csv."""
    return getattr(node, "attr", "") or getattr(node, "id", "")


@functools.cache
def modules() -> list[Reads]:
    read = []
    for room in ("feature_repo", "components", "pipelines", "serving", "events", "experiments", "runtime"):
        for path in sorted((ROOT / room).rglob("*.py")):
            found = Reads(properties_only=path.name in DECLARED)
            found.visit(ast.parse(path.read_text()))
            read.append(found)
    return read


def unread(model: type[BaseModel]) -> list[str]:
    """Fields that no line reads, of an object that is called as one of that model is."""
    fields, read = fields_of(model), modules()
    called: dict[type[BaseModel], set[str]] = defaultdict(set)
    for holder in fields.values():
        for name, inners in holder.items():
            for inner in inners:
                called[inner].add(name)
    found = []
    for each, names in fields.items():
        general = called[each] | {"self", *properties_with(each)}
        for name in names:
            readers = [base.__name__ for base in each.__mro__ if name in getattr(base, "model_fields", {})]
            for module in read:
                here = general.union(*(module.typed[reader] for reader in readers))
                here |= {alias for known in list(here) for alias in module.called.get(known, ())} - {""}
                if any((known, name) in module.pairs for known in here) or (
                    name in module.strings and any((known, "*") in module.pairs for known in here)
                ):
                    break
            else:
                found.append(f"{each.__name__}.{name}")
    return found


def properties_with(model: type[BaseModel]) -> set[str]:
    """Properties of the card that hold some of the model's objects, as such or as what they have in common with
    others: `card.described` are features of items and of users."""
    found = set()
    for name, each in vars(DatasetCard).items():
        if isinstance(each, property):
            held = models_of(typing.get_type_hints(each.fget)["return"])
            found |= {name for kind in held if issubclass(model, kind)}
    return found


NEEDS_NO_READER = {
    "DatasetCard.version",  # refused where it is another
    "DatasetCard.description",  # for people
}


def test_every_field_of_the_card_is_read_by_something_that_is_not_the_card():
    assert set(unread(DatasetCard)) <= NEEDS_NO_READER


def test_a_field_that_nothing_reads_is_found():
    class UserFeature(DatasetCard.model_fields["user_features"].annotation.__args__[0]):  # type: ignore[misc,name-defined]
        most_boring_value: str = "none"

    class Limits(DatasetCard.model_fields["limits"].annotation):  # type: ignore[misc,name-defined]
        most_boring_days: int = 3

    class Card(DatasetCard):
        limits: Limits = Limits()
        user_features: list[UserFeature] = Field(default_factory=list)

    assert {"Limits.most_boring_days", "UserFeature.most_boring_value"} <= set(unread(Card))
