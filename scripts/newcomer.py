"""`make newcomer`: what somebody with two tables does in a fresh clone, by the tutorial's own commands in its order.

A shop is made on the spot, no field of the card is edited, no file of code is opened. It ends well when the served
model has answered and the console's first page names the shop; each command's seconds are printed.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
HANGS = 1200.0
SHOP = "my_shop"


def main() -> int:
    """0 where the shop is served and seen; else `AssertionError` or `CalledProcessError` with what was said."""
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        write_tables(clone)
        *commands, last = documented()
        assert len(commands) <= 4, "the tutorial promises five commands"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HETERREC_", "MAKE"))}
        for command in commands:
            with told(command):
                subprocess.run(["sh", "-c", command], cwd=clone, env=environment, check=True)
        # A free port: another console may be at the usual one.
        with told(f"{last}, until the console shows it"):
            serve(last, clone, {**environment, "CONSOLE": "--port 0"})
    print("nothing of the card was edited")
    return 0


def documented() -> list[str]:
    """The first block of commands in the tutorial."""
    block = re.search(r"^```sh\n(.*?)^```", TUTORIAL.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line.partition("  #")[0].strip() for line in block[1].splitlines()]


def write_tables(folder: Path, *, shoppers: int = 400, items: int = 150, days: int = 40) -> None:
    """`clicks.csv` and `items.csv`: each shopper likes one maker, and goes on to the next thing of its series."""
    draw, start = Random(0), datetime(2025, 3, 1, tzinfo=UTC)
    makers = [f"maker {number % 10}" for number in range(items)]
    series = {name: [item for item in range(items) if makers[item] == name] for name in set(makers)}
    lines = []
    for shopper in range(shoppers):
        liked, at = series[f"maker {draw.randrange(10)}"], start + timedelta(days=draw.random() * days / 2)
        place = draw.randrange(len(liked))
        for _ in range(draw.randrange(4, 16)):
            item = liked[place % len(liked)] if draw.random() < 0.8 else draw.randrange(items)
            place += 1
            lines.append((at, f"customer-{shopper}", f"sku-{item:03d}"))
            at += timedelta(days=draw.random() * days / 16)
    clicks = "".join(f"{who},{what},{when:%Y-%m-%d %H:%M:%S}\n" for when, who, what in sorted(lines))
    (folder / "clicks.csv").write_text("customer,product,when\n" + clicks)
    rows = (f"sku-{n:03d},Thing {n} of {makers[n]},{makers[n]},{5 + n * 0.37:.2f}\n" for n in range(items))
    (folder / "items.csv").write_text("product,title,brand,price\n" + "".join(rows))


class told:
    """Prints how many seconds its body took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            print(f"newcomer: {time.monotonic() - self._began:6.0f} s  {self._what}", flush=True)


def serve(command: str, clone: Path, environment: dict[str, str]) -> None:
    """Do what the printed line says, look at the console's page, and end it with Ctrl-C."""
    running = subprocess.Popen(
        ["sh", "-c", f"exec {command} 2>&1"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    said: dict[str, str] = {}
    try:
        assert running.stdout is not None
        for line in lines(running.stdout):
            if found := re.search(r"^console of .* at (http://\S+)", line):
                said["console"] = found[1]
            if line.startswith("curl "):
                said["curl"] = line
            if len(said) == 2:
                break
        assert len(said) == 2, "it ended before it served"
        answer = json.loads(subprocess.run(shlex.split(said["curl"]), check=True, capture_output=True).stdout)
        assert answer["items"], answer
        page = read(said["console"])
        assert SHOP in page and answer["version"] in page, "the console's first page does not know the shop"
        print(f"newcomer: {answer['version']} answered with {len(answer['items'])} items, and the console has it")
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)


def lines(output: Iterator[str]) -> Iterator[str]:
    for line in output:
        print(line, end="", flush=True)
        yield line


def read(address: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=60) as reply:
        text: str = reply.read().decode()
        return text


if __name__ == "__main__":
    sys.exit(main())
