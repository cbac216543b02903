"""`make screenshots`: pictures of the console on the workspace as it is, for docs/, by a browser without a network.

What `python -m scripts.screenshots` is given besides goes to the console, such as --metrics URL of a gateway that runs.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from runtime.workspace import ROOT

FOLDER = ROOT / "docs" / "images"
MOST_BYTES = 300_000
PAGES = {"now": ("/", 780), "shopper": ("/shopper?random=1", 900), "run": (None, 1000), "map": ("/map", 860)}
"""By name the address, and how much of the page is taken, in pixels; the run is the latest one."""
WIDTH = 1080
BETWEEN_LOOKS = 6.0


def main() -> int:
    """Write them; 1 where there is no browser, or a picture is too large for a repository."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium here: install it (Debian: apt-get install chromium), then run this again", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "console", "--port", "0", *sys.argv[1:]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as console:
        try:
            assert console.stdout is not None
            address = re.findall(r"http://\S+", console.stdout.readline())[0]
            with urllib.request.urlopen(address):
                time.sleep(BETWEEN_LOOKS)  # of which the console tells rates
            sizes = [_take(browser, address, name) for name in PAGES]
        finally:
            console.terminate()
    return int(any(size > MOST_BYTES for size in sizes))


def _take(browser: str, address: str, name: str) -> int:
    """One picture; how many bytes it has."""
    from console.runs import names

    page, height = PAGES[name]
    url = address + (page or f"/runs/{names()[0]}")
    target: Path = FOLDER / f"{name}.png"
    with tempfile.TemporaryDirectory() as profile:
        offline = ["--proxy-server=127.0.0.1:1", "--proxy-bypass-list=127.0.0.1", "--disable-background-networking"]
        # Time enough for the parts that come later: the first list of a shopper loads the models.
        waits = ["--virtual-time-budget=60000", "--timeout=120000"]
        shown = ["--hide-scrollbars", f"--window-size={WIDTH},{height}", f"--screenshot={target}"]
        fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        subprocess.run([browser, *fixed, *offline, *waits, *shown, url], check=True, capture_output=True, timeout=600)
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size // 1000} kB")
    return target.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
