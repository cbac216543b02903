"""One whole run of the training pipeline, for every test that looks at what a run leaves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.workspace import ROOT

SMALL = ("users=800", "days=40", "items=400")


@pytest.fixture(scope="session")
def pushed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one small run was pushed; tests may run more in it."""
    home = tmp_path_factory.mktemp("workspace")
    result = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *(part for each in SMALL for part in ("--option", each))],
        cwd=ROOT, env={**os.environ, "HETERREC_HOME": str(home), "COLUMNS": "200"}, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"pushed: version \S+ \(champion\)", result.stdout), result.stdout
    return home
