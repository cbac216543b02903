"""A headless Chromium that a test uses as a person would: it clicks, presses keys, and looks.

It is told so over two pipes in the browser's own protocol (Chrome DevTools), of which no library is needed.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = [
    "--proxy-server=127.0.0.1:1",
    "--proxy-bypass-list=127.0.0.1",
    "--no-first-run",
    "--disable-background-networking",
]
A_HANG = 120.0
PIPES = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from 3 and writes to 4."""
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " ")}


class Browser:
    """One page of it. `said` are the faults that its console told of: scripts, policies, files that were not there."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", *OFFLINE]
        command = [CHROMIUM, *options, f"--user-data-dir={profile}", "about:blank"]
        moved = [sys.executable, "-IS", "-c", PIPES, str(reads), str(writes)]
        self._process = subprocess.Popen([*moved, *command], pass_fds=(reads, writes), stderr=subprocess.DEVNULL)
        os.close(reads)
        os.close(writes)
        self._rest, self._number, self._session, self.said = b"", 0, "", list[str]()

    def __enter__(self) -> Self:
        try:
            pages = self.send("Target.getTargets")["targetInfos"]
            page = next(each["targetId"] for each in pages if each["type"] == "page")
            self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(A_HANG)
        os.close(self._read)
        os.close(self._write)

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        """The answer to one command."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": values}
        os.write(
            self._write, json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (told := self._next()).get("id") != self._number:
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(told["params"]))
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return told["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            if not part:
                raise RuntimeError("the browser ended")
            self._rest += part
        told, _, self._rest = self._rest.partition(b"\0")
        return json.loads(told)

    def open(self, url: str, until: str) -> None:
        """Go there, and wait for `until`."""
        self.send("Page.navigate", url=url)
        self.wait(until)

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']['exception'].get('description')}")
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until it is true."""
        until = time.monotonic() + A_HANG
        while not self.ask(expression):
            assert time.monotonic() < until, (expression, self.ask("document.body.innerText"))
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """With the left button, on the middle of its first line."""
        self.ask(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        line = self.ask(f"(() => {{ const r = document.querySelector({selector!r}).getClientRects()[0]; "
                        "return [r.x + r.width / 2, r.y + r.height / 2] })()")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=line[0], y=line[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        code, text = KEYS[key]
        told = {"key": text if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **told)
        self.send("Input.dispatchKeyEvent", type="keyUp", **told)

    def shown_as(self, width: int, height: int, scheme: str) -> None:
        """As on a screen of that size in CSS pixels, in the scheme "light" or "dark"."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
