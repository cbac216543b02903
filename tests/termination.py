"""That a long-running program ends at once when it is told to, for tests that have one running."""

import os
import signal
import subprocess
import time
from typing import Any

import psutil

PROCESSOR_SECONDS = 0.75
"""What an end may take of a core; a console that walked through all its objects took 1.4."""
A_HANG = 60.0


def terminated(process: "subprocess.Popen[Any]") -> int:
    """Its exit status after SIGTERM. Fails where it is at work for longer than an end may take.

    Measured is processor time: seconds of the clock are those of who else is at work on the machine.
    """
    running = psutil.Process(process.pid)
    before = sum(running.cpu_times()[:2])
    process.send_signal(signal.SIGTERM)
    until = time.monotonic() + A_HANG
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < until, f"{process.args}: still there"
        time.sleep(0.02)
    took = sum(running.cpu_times()[:2]) - before  # it is not reaped yet
    assert took < PROCESSOR_SECONDS, f"{process.args}: its end took {took:.2f} s of a core"
    return process.wait()
