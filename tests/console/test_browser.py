"""The console as a person meets it: started by its command, looked at in a real browser that has no network."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.image import imread

from runtime.workspace import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = [
    "--proxy-server=127.0.0.1:1",
    "--proxy-bypass-list=127.0.0.1",
    "--no-first-run",
    "--disable-background-networking",
]


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Of a console in a process of its own, which ends in order when it is told to."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    command = [sys.executable, "-m", "console", "--port", "0", "--metrics", "http://127.0.0.1:9"]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**kept, "HETERREC_HOME": str(home)}, **told) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert str(home) in line, process.stderr.read()
        yield re.findall(r"http://\S+", line)[0]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in errors, errors


def browse(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    kept = [f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *OFFLINE, *kept, *options, url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def test_the_command_says_where_it_is_and_answers_there(address: str):
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert answer.read() == b"alive"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("/canary", "alert(1)"),
        ("/shopper?model=shop&user=u1", "Who would recommend what"),
        ("/runs/shop-20260106T000000", "alert(1)"),
    ],
)
def test_a_browser_runs_the_pages_under_their_policy(address: str, page: str, shown: str, tmp_path: Path):
    """Its console says nothing of a policy that was broken or a file that was not there; parts that come later came."""
    seen = browse(address + page, tmp_path, "--dump-dom")
    said = [line for line in seen.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    assert shown in seen.stdout and "<script>alert" not in seen.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_follow_light_and_dark(address: str, scheme: str, tmp_path: Path):
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    picture = tmp_path / "page.png"
    browse(f"{address}/data", tmp_path, *dark, "--hide-scrollbars", "--window-size=500,900", f"--screenshot={picture}")
    seen = imread(picture)[..., :3]
    assert (seen.mean() < 0.4) == (scheme == "dark")
    assert seen.std() > 0.02, "the page is blank"
