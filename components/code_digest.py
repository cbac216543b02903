"""Digest of the code that a step runs: its module and every first-party module it imports, found by reading them.

Kubeflow's cache does not see an edit in an imported module; a key made with this digest does.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


def code_digest(module: str) -> str:
    """SHA-256 over the sources of `module` (dotted name), all first-party modules it reaches, and their templates."""
    digest = hashlib.sha256()
    for name in sorted(reached(module)):
        path = _path(name)
        assert path is not None
        for source in (path, *sorted(path.parent.glob("*.html"))):
            digest.update(f"{name} {source.name}".encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def reached(module: str) -> set[str]:
    """Dotted names of the first-party modules that importing `module` can run, itself included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(_imports(name))
    return seen


@cache
def _imports(module: str) -> tuple[str, ...]:
    path = _path(module)
    assert path is not None, f"{module} is no module of this project"
    named: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.append(node.module)
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(name for name in named if _path(name) is not None)


def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    package = base / "__init__.py"
    return package if package.is_file() else None
