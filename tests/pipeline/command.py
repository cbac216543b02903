"""The command as a person types it, in a workspace of the tests."""

import os
import subprocess
import sys
from pathlib import Path

from runtime.workspace import ROOT

BASELINE = Path(__file__).parent / "short_baseline.yaml"
SMALL = (
    *("--option", "users=800", "--option", "days=40", "--option", "items=400"),
    *("--set", "epochs=4", "--baseline", str(BASELINE)),
)
"""The marketplace of the pushed run (conftest.py), and half of the default's epochs: its features surely pay."""


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines` with these arguments, to its end; a hang alone takes an hour."""
    environment = {**os.environ, "HETERREC_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip


def newest_run(home: Path) -> str:
    """The run that was begun last."""
    return max((home / "runs").iterdir(), key=lambda path: path.stat().st_mtime).name
