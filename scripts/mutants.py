"""Do the tests notice? Small breakages of the modules that decide, each run against the tests that belong to them.

`make mutants` (this, without arguments) runs the list that is kept (tests/mutants.toml): every one must die, and the
command fails where one lives. `make mutate MODULE=experiments/sample_ratio.py` (`--find` the file) makes new ones by
syntax (scripts/breakages.py), runs the tests that import the module, and tells which survive; what matters among them
gets a test, and a line in the list.

A mutant is never written to disk: a forked process imports the changed source, and with it all that is ours. What the
tests load of others (libraries, pytest's plugins) was loaded once, before the fork. A test that runs the module in a
process of its own does not see the mutant.
"""

import argparse
import ast
import gc
import importlib.abc
import importlib.util
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from scripts.breakages import breakages

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "mutants.toml"
LEAST, TIMES = 30.0, 5.0
"""Seconds a mutant may take, or so many times what the tests take without one; what runs longer has changed the
behaviour so that it hangs, and is dead, too."""


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
    """Mutants of the file by syntax, `most` of them drawn by `seed`, in the order of the file."""
    found = [Mutant(file, what, source, tests) for what, source in breakages((ROOT / file).read_text())]
    drawn = sorted(random.Random(seed).sample(range(len(found)), min(most, len(found))))
    return [found[number] for number in drawn]


def tests_of(file: str) -> list[str]:
    """The test files that import the module by its name. Raises `ValueError` where none does."""
    module = _module(file)
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if module in set(_imported(path))]
    if not found:
        raise ValueError(f"{file}: no file under tests imports it; name with --tests those that run it")
    return [str(path.relative_to(ROOT)) for path in found]


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _module(file: str) -> str:
    return ".".join(Path(file).with_suffix("").parts)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another source."""

    def __init__(self, mutant: Mutant) -> None:
        self._path = ROOT / mutant.file
        self._name = _module(mutant.file)
        self._source = mutant.source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def dies(mutant: Mutant, limit: float, after: Callable[[], None] = lambda: None) -> bool:
    """Whether the tests fail with it, in a process of its own, or take longer than `limit` seconds. The process calls
    `after` once the tests ran."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _silent()
        import pytest

        sys.meta_path.insert(0, _Changed(mutant))
        plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
        failed = pytest.main([*plain, *mutant.tests]) != pytest.ExitCode.OK
        after()
        os._exit(int(failed))
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
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
    parser.add_argument("--tests", help="what pytest is to be told; left out, the files that import the module")
    parser.add_argument("--most", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=KEPT, help="the list")
    parser.add_argument("--only", default="", help="of the kept list the files whose name holds this")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.find:
        tests = shlex.split(options.tests) if options.tests else tests_of(options.find)
        mutants = made(options.find, tests, options.most, options.seed)
    else:
        mutants = [mutant for mutant in kept(options.kept) if options.only in mutant.file]
    limits = {key: _limit(*key) for key in sorted({(mutant.file, tuple(mutant.tests)) for mutant in mutants})}
    lived = 0
    for number, mutant in enumerate(mutants, 1):
        dead = dies(mutant, limits[mutant.file, tuple(mutant.tests)])
        lived += not dead
        said = f"{'dead ' if dead else 'LIVES'} {mutant.file}: {mutant.what[:200]!r}"
        print(f"{number}/{len(mutants)} {said}", flush=True)
    print(f"{lived} of {len(mutants)} live")
    return int(lived > 0)


def _limit(file: str, tests: Sequence[str]) -> float:
    """How long the tests may take with a mutant; ends the program where they fail without one. What they load that is
    not ours is loaded here, for all processes to come."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as loaded:
        unchanged = Mutant(file, "unchanged", (ROOT / file).read_text(), tests)
        if dies(unchanged, float("inf"), lambda: print(*_of_others(), file=loaded, flush=True)):
            raise SystemExit(f"{' '.join(tests)} fails without a mutant: mend that first")
        seconds = time.monotonic() - began
        loaded.seek(0)
        with warnings.catch_warnings(action="ignore"):  # the tests' own process has told them
            for name in loaded.read().split():
                with suppress(ImportError):  # a name that a package makes of its own (six.moves) comes with that
                    importlib.import_module(name)
    gc.freeze()
    print(f"{' '.join(tests)}: {seconds:.1f} s for {file} as it is", file=sys.stderr)
    return max(LEAST, TIMES * seconds)


def _of_others() -> list[str]:
    """The modules that are loaded and are not of this project, in the order in which they were asked for."""
    own = {path.name for path in ROOT.iterdir()} | {"__main__", "conftest"}
    return [name for name in sys.modules if name.split(".")[0] not in own]


if __name__ == "__main__":
    sys.exit(main())
