"""docs/notebook.md is what it says: its Python runs from top to bottom, and its commands are commands."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from heterrec.plugins import load_plugins
from runtime.workspace import ROOT

TEXT = (ROOT / "docs" / "notebook.md").read_text()
FILE = "# file: "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_its_python_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shown = io.StringIO()
    for number, block in enumerate(blocks("python")):
        if block.startswith(FILE):
            name = block.splitlines()[0].removeprefix(FILE)
            Path(name).write_text(block)
            continue
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(block, f"docs/notebook.md, block {number + 1}", "exec"), names)
    tables = shown.getvalue()
    for model in ("HeterRec", "item ID only", "tables", "narrow", "last brand", "popularity", "neighbour tables"):
        assert re.search(rf"^{model} +\d  ", tables, flags=re.MULTILINE), tables
    assert re.search(r"item ID only +2 .* [+-]\.?\d+\.\d+ \[[+-]", tables), tables
    own = load_plugins(Path("mine.py"))
    assert list(own.baselines) == ["newest"] and list(own.recipes) == ["narrow"]
    found = names["contest"](names["shop"], {}, dict(own.baselines))  # type: ignore[operator]
    assert found.queries > 100


def test_its_commands_are_commands() -> None:
    from pipelines.__main__ import _parser

    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    asked = [words[3:] for words in commands if words[:3] == ["python", "-m", "pipelines"]]
    assert len(asked) == 2
    for words in asked:
        _parser().parse_args(words)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert all(words[1] in targets for words in commands if words[0] == "make")
