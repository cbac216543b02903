"""One made-up workspace for the tests that only look at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from console.app import make_app
from console.settings import ConsoleSettings
from tests.console import made

HOSTS = ("testserver",)


@pytest.fixture(scope="session")
def mars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return made.archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, mars: list[Path]) -> Iterator[Path]:
    """Three runs, a canary, two archives and two shoppers, all of them hostile. Whoever looks at it changes nothing."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETERREC_HOME", str(folder))
        made.run(0, whole=True)
        made.run(1, whole=True, quality=0.17)
        made.run(2)
        made.canary(mars)
        made.histories(["u1", made.HOSTILE])
    before = written(folder)
    yield folder
    assert written(folder) == before, "to look at a workspace must not change it"


def written(folder: Path) -> dict[Path, int]:
    """When each file was last written; SQLite's own files beside the table come and go with a reader."""
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "rollout.db" not in path.name
    }


@pytest.fixture
def console(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("HETERREC_HOME", str(home))
    with TestClient(make_app(ConsoleSettings(hosts=HOSTS, metrics=())), follow_redirects=False) as client:
        yield client


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A console of a workspace in which nothing ever happened."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    with TestClient(make_app(ConsoleSettings(hosts=HOSTS, metrics=()))) as client:
        yield client
