"""How the tests are given out, by tests that are given out so."""

import os
import subprocess
import sys
from pathlib import Path

from runtime.workspace import ROOT
from tests import workers
from tests.conftest import LONGEST

(COSTLY,) = workers.TOGETHER  # not by its name, for this file has no part in it
CONFTEST = """
import os
import pytest
from tests.workers import pytest_xdist_make_scheduler  # noqa: F401

@pytest.fixture(scope="session")
def COSTLY(tmp_path_factory):
    with open("made", "a") as file:
        file.write(f"{os.getpid()}\\n")
"""
USES = "def test_it(COSTLY): pass\n"
RUNS = "import os, pathlib\ndef test_it(): pathlib.Path(f'ran-{os.getpid()}').touch()\n"


def give_out(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in {"conftest": CONFTEST, **files}.items():
        (folder / f"{name}.py").write_text(text.replace("COSTLY", COSTLY))
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "--numprocesses", "2", "--dist", "loadfile"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_what_takes_minutes_is_made_once_for_all_files_that_name_it(tmp_path: Path) -> None:
    done = give_out(tmp_path, test_a=USES, test_b=RUNS, test_c=USES, test_d=USES)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout
    (process,) = (tmp_path / "made").read_text().split()
    (other,) = tmp_path.glob("ran-*")
    assert other.name != f"ran-{process}", "and another process has the rest"


def test_where_a_file_cannot_be_imported_none_is_run_and_every_such_file_is_named(tmp_path: Path) -> None:
    stale = "from runtime.workspace import that_is_gone\n" + RUNS
    done = give_out(tmp_path, test_a=RUNS, test_b=stale, test_c=stale.replace("gone", "moved"))
    assert done.returncode == 2 and "test_b.py, test_c.py" in done.stdout, done.stdout
    assert "that_is_gone" in done.stdout and "that_is_moved" in done.stdout
    assert not list(tmp_path.glob("ran-*"))


def test_the_files_of_the_pushed_run_are_given_out_together() -> None:
    units = {path: workers.unit(path) for path in (ROOT / "tests").rglob("test_*.py")}
    together = {path.stem for path, unit in units.items() if unit == COSTLY}
    assert together == {"test_batch", "test_local_run", "test_user_interface"}, "every process makes it anew"
    assert all(unit == str(path) for path, unit in units.items() if path.stem not in together)


def test_the_longest_files_are_there() -> None:
    """A file that was renamed would be left for the end."""
    assert not set(LONGEST) - {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
