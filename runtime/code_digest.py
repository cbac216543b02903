"""Identity of code: what a module means, without its comments, docstrings and layout.

Two uses, two extents. A step's key of reuse takes every first-party module that the step can import, whole, and the
versions of the packages that those import: an artifact too many is made anew rather than one too few. A recipe's
identity takes only the definitions that its training can reach, as every change of it costs an A/B test.
"""

import ast
import hashlib
import importlib.metadata
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def code_digest(module: str) -> str:
    """SHA-256 over the syntax of `module` (dotted name) and of all first-party modules it reaches, and over their
    templates and style sheets as they are."""
    digest = hashlib.sha256()
    for name in sorted(reached(module)):
        path = source(name)
        assert path is not None
        digest.update(f"{name}\0{canonical(tree(name))}\0".encode())
        for template in sorted((*path.parent.glob("*.html"), *path.parent.glob("*.css"))):
            digest.update(f"{name} {template.name}".encode() + b"\0" + template.read_bytes() + b"\0")
    return digest.hexdigest()


def package_versions(module: str) -> dict[str, str]:
    """Version of each installed package that `module` or a first-party module it reaches imports, as in the lock file.

    What is imported through another package counts by that package's version. The build is left out ("+cpu", "+cu126").
    """
    named = {name.split(".")[0] for reach in reached(module) for name in _imports(reach)}
    owners = _owners()
    packages = {package for name in named for package in owners.get(name, ())}
    return {package: importlib.metadata.version(package).split("+")[0] for package in sorted(packages)}


def reached(module: str) -> set[str]:
    """Dotted names of the first-party modules that importing `module` can run, itself included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(named for named in _imports(name) if source(named) is not None)
    return seen


def canonical(node: object) -> str:
    """The syntax of `node` as text: the same for the same meaning on every supported Python.

    `ast.dump` is not: its fields come and go with the version (`type_params`), and so do empty lists and the cuts
    between the constant parts of an f-string. Left out is what is never run: docstrings and other bare constants,
    `pass`, and what stands under `if TYPE_CHECKING`.
    """
    if isinstance(node, list):
        return f"[{','.join(canonical(each) for each in node)}]"
    if isinstance(node, ast.Constant):
        return ascii(node.value)
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = {name: _kept(value) for name, value in ast.iter_fields(node) if name not in ("ctx", "type_comment")}
    if isinstance(node, ast.JoinedStr):
        fields["values"] = _joined(node.values)
    told = (f"{name}={canonical(value)}" for name, value in fields.items() if value is not None and value != [])
    return f"{type(node).__name__}({','.join(told)})"


def _kept(value: object) -> object:
    """A field's value, a list of statements without those that are never run."""
    return run_of(value) if isinstance(value, list) else value


def run_of(body: list[Any]) -> list[Any]:
    """Statements without those that are never run."""
    return [each for statement in body for each in _run(statement)]


def _run(statement: object) -> list[object]:
    if isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ):
        return []
    if isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return list(statement.orelse)
    return [statement]


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, neighbouring constants made one."""
    found: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and found and isinstance(found[-1], ast.Constant):
            found[-1] = ast.Constant(str(found[-1].value) + str(value.value))
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            found.append(value)
    return found


@cache
def tree(module: str) -> ast.Module:
    """The module, parsed once a process."""
    path = source(module)
    assert path is not None, f"{module} is no module of this project"
    return ast.parse(path.read_text())


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """`ast.walk` over what can run."""
    waiting: list[object] = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, ast.AST):
            yield here
            for _, value in ast.iter_fields(here):
                kept = _kept(value)
                waiting.extend(kept if isinstance(kept, list) else [kept])


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Dotted names that the module's imports may mean, of this project and of others."""
    named: list[str] = []
    for node in statements(tree(module)):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.append(node.module)
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(named)


@cache
def _owners() -> Mapping[str, Collection[str]]:
    return importlib.metadata.packages_distributions()


def source(module: str) -> Path | None:
    """The file of a first-party module; None where `module` is none."""
    base = ROOT.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    package = base / "__init__.py"
    return package if package.is_file() else None
