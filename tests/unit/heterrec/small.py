"""The small model of these tests."""

import torch

from heterrec.encoder import FeatureEncoder
from heterrec.model import HeterRec
from heterrec.recipes import ModelConfig
from heterrec.sequences import Sequences

SMALL = ModelConfig(width=16, item_layers=1, max_history=12, min_events=1)


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
