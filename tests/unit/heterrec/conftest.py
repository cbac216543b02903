from pathlib import Path

import pytest
import torch

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import Sequences, read_sequences
from heterrec.model.network import HeterRecNetwork
from tests.unit.heterrec.shop import write_shop
from tests.unit.heterrec.small import SMALL, encoder_of, lively


@pytest.fixture(scope="session")
def shop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def baskets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("baskets"), basket=3)


@pytest.fixture(scope="session")
def shop(shop_root: Path) -> Sequences:
    return read_sequences(shop_root)


@pytest.fixture(scope="session")
def baskets(baskets_root: Path) -> Sequences:
    return read_sequences(baskets_root)


@pytest.fixture(scope="session")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Its prices and stock are others as of each slice."""
    return read_sequences(write_shop(tmp_path_factory.mktemp("changing"), changing=True))


@pytest.fixture(scope="session")
def encoder(shop: Sequences) -> FeatureEncoder:
    return encoder_of(shop)


@pytest.fixture
def model(encoder: FeatureEncoder) -> HeterRecNetwork:
    torch.manual_seed(3)
    return lively(HeterRecNetwork(SMALL, encoder)).eval()
