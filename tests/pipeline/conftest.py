"""Workspaces for every test that looks at what a run leaves: of one whole run, and of a little archive that serves."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from runtime import workspace
from serving.torchserve import archive
from tests.pipeline.command import SMALL, command


@pytest.fixture(scope="session")
def pushed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one small run was pushed; tests may run more in it."""
    home = tmp_path_factory.mktemp("workspace")
    result = command(home, "run", *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"pushed: version \S+ \(champion\)", result.stdout), result.stdout
    return home


@pytest.fixture
def tiny_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled feature store, and the little archive as what serves."""
    from tests.serving.live_shop import fill  # with torch and Feast, which most tests here do without
    from tests.serving.tiny_archive import write_content

    home = tmp_path / "home"
    monkeypatch.setenv("HETERREC_HOME", str(home))
    monkeypatch.delenv("HETERREC_ROLLOUT_URL", raising=False)
    fill(home)
    mar = tmp_path / "tiny.mar"
    archive.build(write_content(tmp_path / "content"), mar, name="tiny", version="1.0")
    champion = ModelVersion(
        version="1.0", archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="r",
        registered=datetime(2026, 1, 5, tzinfo=UTC),
    )  # fmt: skip
    with RolloutTable(workspace.rollout_url()) as table:
        table.propose(DocumentChange(Rollout(model="tiny", champion=champion), "push", "first"), 0)
    return home
