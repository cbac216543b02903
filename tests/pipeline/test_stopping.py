"""A run that is told to end leaves no process behind, and says where its page is and what to do next."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SMALL = ("days=30", "users=200", "items=150", "new_items_per_day=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_ends_in_order(tmp_path, number):
    command = [sys.executable, "-m", "pipelines", "run", *(word for option in SMALL for word in ("--option", option))]
    env = {**os.environ, "HETERREC_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as run:
        assert run.stdout and run.stderr
        for line in run.stdout:
            if "ingest" in line:
                break
        started = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(number)
        rest, said = run.communicate(timeout=300)
    assert run.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name}" in said and "Run the same command again" in said
    page = Path(rest.split("page: ")[1].strip())
    assert page.is_file() and page.is_relative_to(tmp_path)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
