"""The library alone: what `make wheel` packs is all that it needs, and nothing else."""

import ast
import base64
import csv
import hashlib
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from runtime.workspace import ROOT
from scripts.wheel import build


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(tmp_path_factory.mktemp("wheel")))


def in_about(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_it_holds_every_module_of_the_library_as_it_is_and_no_other(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    there = {f"heterrec/{path.relative_to(ROOT / 'heterrec')}" for path in (ROOT / "heterrec").rglob("*.py")}
    assert packed == {*there, "heterrec/py.typed"}
    assert all(wheel.read(name) == (ROOT / name).read_bytes() for name in there)


def test_its_record_has_the_digest_and_size_of_every_file(wheel: zipfile.ZipFile) -> None:
    rows = {name: (digest, size) for name, digest, size in csv.reader(in_about(wheel, "RECORD").splitlines())}
    assert set(rows) == set(wheel.namelist())
    for name, (digest, size) in rows.items():
        content = wheel.read(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, size) == (("", "") if name.endswith("/RECORD") else (f"sha256={expected}", str(len(content))))


def test_all_that_it_imports_it_brings_or_asks_for(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(in_about(wheel, "METADATA"))
    asked = {each.split(">=")[0] for each in metadata.get_all("Requires-Dist", [])}
    assert asked == {"torch", "numpy", "pyarrow"} and metadata["Name"] == "heterrec"
    allowed = {*sys.stdlib_module_names, *asked, "heterrec"}
    for name in wheel.namelist():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(wheel.read(name))):
                named = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {each.split(".")[0] for each in named} - allowed, (name, named)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = build(tmp_path / "a"), build(tmp_path / "b")
    assert one.name == two.name and one.read_bytes() == two.read_bytes()
