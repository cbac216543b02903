"""One set-up of logging, by every program; no line in another form."""

import ast
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runtime.service_log import LEAST, ROOMS
from runtime.workspace import ROOT

SOURCES = [path for room in (*ROOMS, "heterrec", "marketplace") for path in sorted((ROOT / room).rglob("*.py"))]
NO_PROGRAM_OF_ITS_OWN = {
    "feature_repo/card_schema.py": "writes one file",
    "pipelines/program.py": "calls the three programs, which set it up",
    "pipelines/version.py": "prints one word",
    "serving/plain/worker.py": "lives beside the code of an archive, and has the standard library only",
}
PRINTS = {
    "heterrec/progress_bar.py": "draws a line over itself",
    "pipelines/containers.py": "passes on what a container prints",
    "pipelines/version.py": "is a script's answer",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_nothing_else_sets_logging_up() -> None:
    by_hand = re.compile(r"basicConfig|dictConfig|fileConfig|setLevel|addHandler|log_level=")
    assert [name(path) for path in SOURCES if by_hand.search(path.read_text())] == ["runtime/service_log.py"]
    servers = [path for path in SOURCES if "uvicorn.Config(" in path.read_text()]
    assert len(servers) >= 3
    for path in servers:
        assert "log_config=None" in path.read_text(), f"{name(path)}: uvicorn would log in its own form"


def test_every_program_sets_logging_up() -> None:
    programs = {name(path): path.read_text() for path in SOURCES if '\nif __name__ == "__main__":' in path.read_text()}
    without = {path for path, text in programs.items() if "    service_log.configure()\n" not in text}
    assert without == set(NO_PROGRAM_OF_ITS_OWN)


def test_only_commands_print() -> None:
    """A line that nobody asked for is logged: `print` is for what a command's user wants to see."""
    named = [path for path in SOURCES if re.search(r"(?<![.\w])print\(", path.read_text())]
    printing = [path for path in named if any(map(prints, ast.walk(ast.parse(path.read_text()))))]
    assert len(printing) > 10
    assert {name(path) for path in printing if "import argparse\n" not in path.read_text()} == set(PRINTS)


def prints(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_line_has_its_utc_time_and_libraries_say_only_what_may_be_wrong(zone: str) -> None:
    code = f"""
import logging
from runtime import service_log
service_log.configure()
for library in {list(LEAST)}:
    service_log.quieten(library)
for logger in ("serving.releases", "botocore", *{[logger for levels in LEAST.values() for logger in levels]}):
    logging.getLogger(logger).info("said")
    logging.getLogger(logger).critical("wrong")
"""
    code += """
import contextlib, io
with contextlib.redirect_stderr(io.StringIO()) as aside:
    logging.getLogger("serving").warning("in a run's own log")
assert "in a run's own log" in aside.getvalue()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(" ", 1) for line in done.stderr.splitlines()]
    for moment, _ in lines:
        assert moment.endswith("Z") and abs(datetime.now(UTC) - datetime.fromisoformat(moment)) < timedelta(minutes=10)
    quiet = [f"CRITICAL {logger}: wrong" for levels in LEAST.values() for logger in levels]
    ours = ["INFO serving.releases: said", "CRITICAL serving.releases: wrong"]
    assert not done.stdout and [line for _, line in lines] == [*ours, "CRITICAL botocore: wrong", *quiet]
