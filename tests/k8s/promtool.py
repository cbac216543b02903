"""Prometheus' own tool, which parses and evaluates: is an expression one, and does an alert fire when it should."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROGRAM = shutil.which("promtool")
needed = pytest.mark.skipif(
    PROGRAM is None, reason="promtool is not installed (apt-get install prometheus; .ci/run does)"
)


def check(rules: dict[str, Any], folder: Path) -> str:
    """What is wrong with a file of rules; empty where nothing is."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return _run("check", "rules", path)


def test(rules: dict[str, Any], tests: dict[str, Any], folder: Path) -> str:
    """What did not come out as the unit tests say; empty where all did."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    path = folder / "tests.yaml"
    path.write_text(yaml.safe_dump({**tests, "rule_files": ["rules.yaml"]}))
    return _run("test", "rules", path)


test.__test__ = False  # type: ignore[attr-defined]


def _run(*command: str | Path) -> str:
    assert PROGRAM is not None
    done = subprocess.run([PROGRAM, *command], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr
