"""What runs in an image finds there every module and every package that it imports."""

import ast
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from sys import stdlib_module_names

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runtime.code_digest import ROOT, reached

# Reached from there, and run elsewhere.
ELSEWHERE = {
    "train": {
        "components/ingest/spark.py",
        "components/features/spark.py",  # a cluster that joins with Spark adds pyspark and a Java to its image
        "serving/torchserve/server.py",  # `ask` starts a TorchServe, on a laptop
    },
    "serve": {"serving/worth.py"},  # a person's command, for where the log is read: the image of train, or a checkout
    "gateway": {"serving/worth.py", "serving/torchserve/server.py"},  # nor is a TorchServe started beside a gateway
}
OURS = {path.parent.name for path in ROOT.glob("*/__init__.py")}
PROVIDERS = metadata.packages_distributions()


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "k8s/images/Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            found[match[1]] = []
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


@functools.cache
def sources(image: str) -> set[Path]:
    """The files of this project that `image` has."""
    found: set[Path] = set()
    for line in stages()[image]:
        word, *named = shlex.split(line) if line.startswith("COPY") else ("",)
        if word and not named[0].startswith("--from"):
            for path in (path for pattern in named[:-1] for path in ROOT.glob(pattern)):
                found.update(path.rglob("*.py") if path.is_dir() else [path])
    return found


@functools.cache
def packages(image: str) -> set[str]:
    """Names of the distributions that the groups of `image` bring, all that these need included."""
    install = next(line for line in stages()[f"{image}-packages"] if "setup.sh" in line)
    groups = re.search(r"scripts/setup\.sh ([a-z ]+\b)", install)
    assert groups is not None
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def of(group: str) -> Iterator[str]:
        for entry in declared[group]:
            yield from of(entry["include-group"]) if isinstance(entry, dict) else [entry]

    waiting = [Requirement(each) for group in groups[1].split() for each in of(group)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = canonicalize_name(wanted.name), extra
            if key not in seen:
                seen.add(key)
                needs = map(Requirement, metadata.requires(wanted.name) or [])
                waiting += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


@functools.cache
def imported(path: Path) -> set[str]:
    """Top-level names of what the module at `path` imports when it runs, inside functions too."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        waiting += ast.iter_child_nodes(node)
    return found - OURS - stdlib_module_names


def file_of(module: str) -> Path:
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"


def starts(module: str, seen: set[str] | None = None) -> set[str]:
    """Modules of this project that are there once `module` is imported: those that functions import are not."""
    seen = set() if seen is None else seen
    if module in seen or not file_of(module).is_file():
        return seen
    seen.add(module)
    waiting: list[ast.AST] = [ast.parse(file_of(module).read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                starts(name, seen)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                starts(alias.name, seen)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return seen


COMMANDS = {
    "gateway": "serving.run_gateway",
    "consumer": "events.consumer.command",
    "torchserve": "serving.run_torchserve",
    "reconciler": "serving.run_torchserve",
}
"""The module that has a command of `python -m serving`: it brings what its own command needs, late."""


def run_in_images() -> list[tuple[str, str]]:
    """Image and module of all that runs there: each component, and each command of the manifests."""
    found = set()
    for path in ROOT.glob("components/*/component.py"):
        for image in re.findall(r"base_image=(\w+)", path.read_text()):
            found.add((image.lower(), f"components.{path.parent.name}.component"))
    for path in ROOT.glob("k8s/**/*.yaml"):
        for document in filter(None, yaml.safe_load_all(path.read_text())):
            spec = document.get("spec", {}) if isinstance(document, dict) else {}
            pod = spec.get("predictor") or spec.get("template", {}).get("spec") or {}
            for container in pod.get("containers", []) + pod.get("initContainers", []):
                match container.get("args"), container.get("image", "").removeprefix("heterrec-"):
                    case ["python", "-m", "serving", command, *_], image:
                        found.add((image, COMMANDS[command]))
                    case ["python", "-m", package, *_], image if package in OURS:
                        found.add((image, f"{package}.__main__"))
    return sorted(found)


def copied() -> set[str]:
    """What the Dockerfile takes from the build's context."""
    lines = [shlex.split(line) for stage in stages().values() for line in stage if line.startswith("COPY")]
    return {named for line in lines if not line[1].startswith("--from") for named in line[1:-1]}


def test_the_builder_is_sent_all_that_is_copied_and_nothing_else():
    """By .dockerignore, which leaves out everything and lets in what it names: what it forgets, no build finds."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for each in copied():
        assert any(each == name or each.startswith(f"{name}/") for name in sent), f"COPY {each}: not in .dockerignore"
    for name in sent:
        assert any(each == name or each.startswith(f"{name}/") for each in copied()), f"{name}: nothing copies it"


@pytest.mark.parametrize(("image", "module"), run_in_images())
def test_an_image_has_what_its_commands_import(image: str, module: str) -> None:
    modules = reached(module)
    if module in COMMANDS.values():
        modules |= starts("serving.__main__")
    files = {file_of(name) for name in modules}
    missing = sorted(str(path.relative_to(ROOT)) for path in files - sources(image))
    assert not missing, f"{image} has not these files that {module} imports (COPY in k8s/images/Dockerfile)"
    has = packages(image)
    for path in (path for path in files if str(path.relative_to(ROOT)) not in ELSEWHERE[image]):
        for name in imported(path):
            assert has & {canonicalize_name(each) for each in PROVIDERS.get(name, [])}, (
                f"{path.relative_to(ROOT)}, reached from {module}, imports {name}: not in the groups of image {image}"
            )


@pytest.mark.parametrize("image", ["train", "serve", "gateway"])
def test_an_image_reads_a_bucket(image: str) -> None:
    """fsspec finds the driver of s3:// by its name: no import shows that it is needed."""
    assert "s3fs" in packages(image)
