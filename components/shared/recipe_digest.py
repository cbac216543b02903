"""Identity of a recipe: what makes two models the same arm of an experiment.

What changes a model's numbers changes the identity: settings, features, and the definitions that a training with
these settings can reach. Nothing else does: no comment, no other recipe, no branch that these settings never take.
"""

import ast
import copy
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from components.shared.former_names import REWRITTEN, former
from runtime import code_digest as code
from runtime.manifest import digest_json

REFIT = ("heterrec.training.refit", "refit")
"""Of networks alone: tables are counted anew in its place."""
ENTRIES = (
    ("heterrec.training.loop", "train"),
    REFIT,
    ("components.features.join", "joined_events"),
    ("components.features.join", "catalogue"),
    ("components.features.join", "slices"),
    ("components.features.splits", "ordered_events"),
    ("components.features.splits", "slice_starts"),
    ("components.ingest.derive", "derived_sql"),
    ("feature_repo.asof_store", "AsofOfflineStore"),
)
"""Where a model's numbers come from: its training, and what makes the values that it is trained on."""
WITHIN = (
    "heterrec",
    "components.features",
    "components.shared.tables",
    "components.ingest.derive",
    "feature_repo.asof_store",
)
"""Modules that are followed. A dataset card counts by the features it names, not by the code that reads it."""
CHOICES = ("block", "tokens", "token_causality")
"""Settings of the network that choose between branches of the code by name (`config.block == "hstu"`)."""
NETWORK = "network"
"""The setting that chooses by itself (`if not config.network`)."""
OF_TABLES = (NETWORK, "memory")
"""The settings that change the numbers of neighbour tables alone."""


class Definition(NamedTuple):
    """A top-level name of a module; "" for what the module runs when it is imported."""

    module: str
    name: str


def recipe_digest(settings: Mapping[str, Any], features: Any) -> str:
    """SHA-256 of the identity. `settings` are a TrainConfig's as they were asked for: what is derived from the data
    moves a little with every day of it. The seed does not count: a retraining on more data, or with another seed, is a
    refresh and no candidate."""
    network = settings.get(NETWORK, True)  # of before there were tables alone
    counts = [key for key in settings if key != "seed"] if network else OF_TABLES
    asked = {key: settings[key] for key in counts}
    chosen = {name: settings["model"][name] for name in CHOICES if network and name in settings.get("model", {})}
    chosen[NETWORK] = network
    return digest_json({"settings": asked, "features": features, "code": training_code(chosen)})


def training_code(chosen: Mapping[str, Any]) -> str:
    """SHA-256 over the syntax of every definition that `ENTRIES` reach where the settings are as `chosen`."""
    return _training_code(frozenset(chosen.items()))


@cache
def _training_code(chosen: frozenset[tuple[str, Any]]) -> str:
    """Once a process, as the sources are read once: each takes most of a second."""
    digest = hashlib.sha256()
    for known_as, module, name in sorted((former(each.module), *each) for each in reach(dict(chosen))):
        digest.update(f"{known_as}:{name}\0{code.canonical(_pruned(module, name, chosen))}\0".encode())
    found = digest.hexdigest()
    return REWRITTEN.get(found, found)


def reach(chosen: Mapping[str, Any]) -> set[Definition]:
    """The definitions that can run, found by the names that they use; one too many rather than one too few."""
    for module, name in ENTRIES:
        assert _module(module).body(name), f"{module} has no {name}: correct ENTRIES in {Path(__file__).name}"
    settings = frozenset(chosen.items())
    seen: set[Definition] = set()
    waiting = [Definition(*entry) for entry in ENTRIES if entry != REFIT or chosen.get(NETWORK, True)]
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += [Definition(here.module, ""), *_module(here.module).used(_pruned(*here, settings))]
    return {found for found in seen if _module(found.module).body(found.name)}


@cache
def _pruned(module: str, name: str, chosen: frozenset[tuple[str, Any]]) -> ast.AST:
    """The definition without the branches that the settings never take."""
    body = copy.deepcopy(_module(module).body(name))
    pruned: ast.AST = _Chosen(dict(chosen)).visit(ast.Module(body=body, type_ignores=[]))
    return pruned


class _Module:
    """The top level of a module: what each name stands for, and where imported names come from."""

    def __init__(self, module: str) -> None:
        self._name = module
        self._bodies: dict[str, list[ast.stmt]] = {"": []}
        self._imported: dict[str, tuple[str, str]] = {}
        tree = code.tree(module)
        for statement in code.run_of(tree.body):
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                for name in _names(statement):
                    self._bodies.setdefault(name, []).append(statement)
        for node in code.statements(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self._imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    def body(self, name: str) -> list[ast.stmt]:
        """The statements that define `name`."""
        return self._bodies.get(name, [])

    def used(self, node: ast.AST) -> Iterator[Definition]:
        """The definitions whose names `node` uses."""
        for inner in code.statements(node):
            if isinstance(inner, ast.Import):
                for alias in inner.names:
                    assert not _followed(alias.name), f"{self._name}: import names `from {alias.name}`, to be followed"
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                yield from self._definitions(inner.value.id, inner.attr)
            elif isinstance(inner, ast.Name):
                yield from self._definitions(inner.id, None)

    def _definitions(self, name: str, attribute: str | None) -> Iterator[Definition]:
        if name in self._bodies:
            yield Definition(self._name, name)
        elif name in self._imported:
            module, imported = self._imported[name]
            if _followed(whole := f"{module}.{imported}") and code.source(whole):
                names = [attribute] if attribute else list(_module(whole)._bodies)
                yield from (Definition(whole, each) for each in names)
            elif _followed(module) and code.source(module):
                yield from _module(module)._definitions(imported, attribute)


class _Chosen(ast.NodeTransformer):
    """Leaves out the branches of an `if` on a setting that has another value, and what stands behind a return."""

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        self._values = chosen

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        ends = next((n for n, statement in enumerate(node.body) if isinstance(statement, ast.Return)), len(node.body))
        node.body = node.body[: ends + 1]
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        taken = self._taken(node.test)
        if taken is None:
            return node
        return (node.body if taken else node.orelse) or ast.Pass()

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        taken = self._taken(node.test)
        return node if taken is None else node.body if taken else node.orelse

    def _taken(self, test: ast.expr) -> bool | None:
        match test:
            case ast.Attribute(attr=name) if name == NETWORK and name in self._values:
                return bool(self._values[name])
            case ast.UnaryOp(op=ast.Not(), operand=operand) if (found := self._taken(operand)) is not None:
                return not found
            case ast.Compare(
                left=ast.Attribute(attr=name), ops=[ast.Eq() | ast.NotEq() as how], comparators=[ast.Constant(value)]
            ) if name in self._values:
                return bool((self._values[name] == value) == isinstance(how, ast.Eq))
        return None


def _names(statement: ast.stmt) -> list[str]:
    """What a top-level statement defines; "" where it does more than define."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets) if all(isinstance(target, ast.Name | ast.Tuple) for target in targets):
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return [""]


def _followed(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in WITHIN)


@cache
def _module(name: str) -> _Module:
    return _Module(name)
