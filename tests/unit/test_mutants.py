"""The list of kept mutants is one of the code as it is, and the tool tells a noticed breakage from one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import mutants
from scripts.mutants import KEPT, kept, made


def test_every_kept_mutant_changes_the_code_as_it_is_and_names_tests() -> None:
    for mutant in kept(KEPT):
        compile(mutant.source, mutant.file, "exec")
        assert mutant.source != (mutants.ROOT / mutant.file).read_text()
        assert Path(mutants.ROOT / mutant.tests[0]).is_file()


def test_a_line_that_the_code_no_longer_has_is_told(tmp_path: Path) -> None:
    lines = ['file = "experiments/transitions.py"', 'was = "no such line"', 'becomes = ""', 'tests = "tests"']
    (tmp_path / "mutants.toml").write_text("\n".join(["[[mutant]]", *lines]))
    with pytest.raises(ValueError, match=r"'no such line' is 0 times in experiments/transitions.py, expected once"):
        list(kept(tmp_path / "mutants.toml"))


def test_a_breakage_that_a_test_notices_dies_and_another_lives(tmp_path: Path) -> None:
    """By the command, whose process has nothing but the libraries; what is broken is never written to disk."""
    (tmp_path / "test_place.py").write_text(
        "from experiments.assignment import place\n\ndef test_place():\n    assert 0 < place('s', 'u') < 1\n"
    )
    file = "experiments/assignment.py"
    source = (mutants.ROOT / file).read_text()
    first = source.splitlines()[0]
    listed = []
    for becomes in (f"raise ValueError\n{first}", f"{first} And more."):
        entry = {"file": file, "was": first, "becomes": becomes, "tests": str(tmp_path / "test_place.py")}
        listed += ["[[mutant]]", *(f"{name} = {json.dumps(value)}" for name, value in entry.items())]
    (tmp_path / "mutants.toml").write_text("\n".join(listed))
    command = [sys.executable, "-m", "scripts.mutants", "--kept", str(tmp_path / "mutants.toml")]
    # Each of its three processes would load every plugin that is installed, for a test that needs none.
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(command, cwd=mutants.ROOT, capture_output=True, text=True, check=False, env=alone)
    lines = ran.stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["dead", "LIVES"], ran
    assert ran.returncode == 1 and lines[-1] == "1 of 2 live"
    assert (mutants.ROOT / file).read_text() == source


def test_mutants_by_syntax_are_programs_and_each_another_one() -> None:
    found = made("experiments/transitions.py", ["tests"], most=1000, seed=0)
    assert len({mutant.source for mutant in found}) == len(found) > 10
    for mutant in found:
        compile(mutant.source, mutant.file, "exec")
