"""Do the tests notice? Small breakages of the modules that decide, each run against the tests that belong to them.

`python -m scripts.mutants` runs the list that is kept (tests/mutants.toml): every one must die, and the command fails
where one lives. `python -m scripts.mutants --find serving/rollout/ratio.py --tests "tests/serving/test_sequential.py"`
makes new ones by syntax (comparisons, arithmetic, numbers, conditions) and tells which survive; what matters among them
gets a test, and a line in the list.

A mutant is never written to disk: a forked process, with the libraries loaded already, imports the changed source.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import shlex
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "mutants.toml"
LIBRARIES = ("numpy", "scipy.stats", "pandas", "pyarrow.parquet", "duckdb", "hypothesis", "pytest", "sqlalchemy",
             "torch", "feast", "mlflow", "fastapi.testclient")  # fmt: skip
MANY = 5
"""Mutants from which it pays to load the libraries first."""
LIMIT = 300
"""Seconds a mutant may take; what runs longer has changed the behaviour so that it hangs, and is dead, too."""
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """A file's changed source, and the tests (arguments of pytest) that should fail with it."""

    file: str
    what: str
    source: str
    tests: Sequence[str]


def kept(path: Path) -> Iterator[Mutant]:
    """The list. Raises `ValueError` where a line of it is no longer in its file, once."""
    for entry in tomllib.loads(path.read_text())["mutant"]:
        source = (ROOT / entry["file"]).read_text()
        if (found := source.count(entry["was"])) != 1:
            raise ValueError(
                f"{path.name}: {entry['was']!r} is {found} times in {entry['file']}, expected once. "
                "The code has changed: write the breakage down as it would be made now."
            )
        changed = source.replace(entry["was"], entry["becomes"])
        yield Mutant(entry["file"], f"{entry['was']} -> {entry['becomes']}", changed, shlex.split(entry["tests"]))


def made(file: str, tests: Sequence[str], most: int, seed: int) -> list[Mutant]:
    """Mutants of the file by syntax, `most` of them drawn by `seed`."""
    text = (ROOT / file).read_text()
    tree = ast.parse(text)
    found = []
    for number, node in enumerate(ast.walk(tree)):
        for change in range(len(list(_changes(node)))):
            other = copy.deepcopy(tree)
            changed = list(ast.walk(other))[number]
            before = ast.unparse(changed)
            what = list(_changes(changed))[change]
            what()
            line = getattr(node, "lineno", 0)
            found.append(Mutant(file, f"line {line}: {before} -> {ast.unparse(changed)}", ast.unparse(other), tests))
    return random.Random(seed).sample(found, min(most, len(found)))


def _changes(node: ast.AST) -> Iterator[Any]:
    """What can be changed about a node, each a call that does it."""
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _SWAPS:
            yield lambda: node.ops.__setitem__(0, _SWAPS[type(op)]())  # type: ignore[call-overload]
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in _SWAPS and not _text(node):
            yield lambda: setattr(node, "op", _SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield lambda: setattr(node, "op", ast.UAdd())
        case ast.Constant(value=bool() as value):
            yield lambda: setattr(node, "value", not value)
        case ast.Constant(value=int() | float() as value):
            yield lambda: setattr(node, "value", value + 1 if isinstance(value, int) else value * 2 or 0.5)
        case ast.IfExp() | ast.If():
            yield lambda: setattr(node, "test", ast.Constant(True))
            yield lambda: setattr(node, "test", ast.Constant(False))


def _text(node: ast.BoolOp | ast.BinOp) -> bool:
    return any(
        isinstance(each, ast.JoinedStr) or getattr(each, "value", None).__class__ is str for each in ast.walk(node)
    )


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another source."""

    def __init__(self, mutant: Mutant) -> None:
        self._path = ROOT / mutant.file
        self._name = ".".join(Path(mutant.file).with_suffix("").parts)
        self._source = mutant.source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def dies(mutant: Mutant) -> bool:
    """Whether the tests fail with it, in a process of its own."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _silent()
        import pytest

        sys.meta_path.insert(0, _Changed(mutant))
        plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
        os._exit(int(pytest.main([*plain, *mutant.tests]) != pytest.ExitCode.OK))
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _silent() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--find", help="a file to make mutants of; without it the kept list is run")
    parser.add_argument("--tests", default="", help="the tests that belong to it, and what else pytest is to be told")
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=KEPT, help="the list")
    parser.add_argument("--only", default="", help="of the kept list the files whose name holds this")
    options = parser.parse_args()
    os.chdir(ROOT)
    mutants = (
        list(kept(options.kept))
        if not options.find
        else made(options.find, shlex.split(options.tests), options.most, options.seed)
    )
    mutants = [mutant for mutant in mutants if options.only in mutant.file]
    for library in LIBRARIES if len(mutants) >= MANY else ():
        importlib.import_module(library)
    for each in sorted({(mutant.file, tuple(mutant.tests)) for mutant in mutants}):
        whole = Mutant(each[0], "unchanged", (ROOT / each[0]).read_text(), each[1])
        if dies(whole):
            raise SystemExit(f"{' '.join(each[1])} fails without a mutant: mend that first")
    lived = 0
    for number, mutant in enumerate(mutants, 1):
        dead = dies(mutant)
        lived += not dead
        print(
            f"{number}/{len(mutants)} {'dead ' if dead else 'LIVES'} {mutant.file}: {mutant.what[:200]!r}", flush=True
        )
    print(f"{lived} of {len(mutants)} live")
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main())
