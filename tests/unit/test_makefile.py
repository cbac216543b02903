"""What `make` would do: every variable is set somewhere, and what runs beside a command ends with it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from runtime.workspace import ROOT

TEXT = (ROOT / "Makefile").read_text()


def test_every_variable_of_a_target_is_set() -> None:
    """`make` takes an unknown one for nothing: `make serve` once started no console for that."""
    used = set(re.findall(r"\$[({]([A-Z_]+)[)}]", TEXT.replace("$$", "")))
    given = set(re.findall(r"^(?:[a-z-]+: )?(?:export )?([A-Z_]+) *[?:]?=", TEXT, flags=re.MULTILINE))
    assert used <= given | {"CURDIR", "MAKEFILE_LIST"}


def test_serve_and_demo_have_the_console_beside_them() -> None:
    for target in ("serve", "demo"):
        dry = ["make", "--dry-run", "--old-file=setup", target]
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "-m scripts.with_console  -- -m " in done.stdout


def test_console_and_command_end_together(tmp_path: Path) -> None:
    lasting = tmp_path / "lasting.py"
    lasting.write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "scripts.with_console", "--port", "0", "--", str(lasting)]
    environment = {**os.environ, "HETERREC_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = sorted(running.stdout.readline() for _ in range(2))
        assert said[0] == "begun\n" and said[1].startswith(f"console of {tmp_path} at http://127.0.0.1:")
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "", "its end is the end of both"
    assert running.returncode == 128 + signal.SIGTERM
