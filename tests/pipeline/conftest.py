"""One whole run of the training pipeline, for every test that looks at what a run leaves."""

import re
from pathlib import Path

import pytest

from tests.pipeline.command import SMALL, command


@pytest.fixture(scope="session")
def pushed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one small run was pushed; tests may run more in it."""
    home = tmp_path_factory.mktemp("workspace")
    result = command(home, "run", *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"pushed: version \S+ \(champion\)", result.stdout), result.stdout
    return home
