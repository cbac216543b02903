"""One tiny archive and one TorchServe for all tests that need them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.torchserve import archive
from serving.torchserve.server import TorchServe
from tests.serving.history_shop import on_redis, shop  # noqa: F401  (fixtures)
from tests.serving.open_gateway import arms, open_gateway, rollout  # noqa: F401  (fixtures)
from tests.serving.tiny_archive import write_content


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_content(tmp_path_factory.mktemp("content") / "shop")


@pytest.fixture(scope="session")
def mar(content: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "shop.mar"
    archive.build(content, path, name="shop", version="1.0")
    return path


@pytest.fixture(scope="session")
def server(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    with TorchServe(tmp_path_factory.mktemp("logs")) as running:
        running.register(mar)
        yield running
