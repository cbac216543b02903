import sys
from pathlib import Path

import pytest
import torch

from heterrec.encoder import FeatureEncoder
from heterrec.model import HeterRec
from heterrec.recipes import ModelConfig
from heterrec.sequences import Sequences, read_sequences

sys.path.insert(0, str(Path(__file__).parent))

from shop import write_shop

SMALL = ModelConfig(width=16, item_layers=1, max_history=12, min_events=1)


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
def encoder(shop: Sequences) -> FeatureEncoder:
    return encoder_of(shop)


@pytest.fixture
def model(encoder: FeatureEncoder) -> HeterRec:
    torch.manual_seed(3)
    return lively(HeterRec(SMALL, encoder)).eval()


def encoder_of(sequences: Sequences) -> FeatureEncoder:
    catalogue = sequences.catalogue
    counts = sequences.training_counts
    return FeatureEncoder.fit(catalogue.features, catalogue.columns, catalogue.item_ids, counts, min_events=1)


def lively(model: HeterRec) -> HeterRec:
    """Every parameter away from where it starts, so that nothing hides behind a zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
