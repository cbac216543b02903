"""The small model of these tests."""

from collections.abc import Callable
from dataclasses import replace

import torch

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, Catalogue, Sequences
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import ModelConfig

SMALL = ModelConfig(width=16, item_layers=1, max_history=12, min_events=1)


def encoder_of(sequences: Sequences) -> FeatureEncoder:
    catalogue = sequences.catalogue
    counts = sequences.training_counts
    return FeatureEncoder.fit(catalogue.features, catalogue.columns(NOW), catalogue.item_ids, counts, min_events=1)


def changed(catalogue: Catalogue, change: Callable[[list], list], **others) -> Catalogue:
    """The catalogue with `change` made to every column, as of every slice."""

    def all_of(columns: dict[str, list]) -> dict[str, list]:
        return {name: change(values) for name, values in columns.items()}

    slices = tuple(each._replace(columns=all_of(each.columns)) for each in catalogue.slices)
    return replace(catalogue, fixed=all_of(catalogue.fixed), slices=slices, **others)


def lively(model: HeterRecNetwork) -> HeterRecNetwork:
    """Every parameter away from where it starts, so that nothing hides behind a zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
