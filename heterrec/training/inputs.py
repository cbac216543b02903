"""What one training reads of the data: the encoder fitted on it, its slices, validation queries and candidates."""

from typing import Any

import numpy as np

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import Queries, Sequences
from heterrec.loss.lmp import NEVER
from heterrec.recipes import TrainConfig

ALWAYS = np.iinfo(np.int64).min


def fitted_encoder(sequences: Sequences, config: TrainConfig) -> FeatureEncoder:
    """Vocabularies and scales of what was known while the training split lasted."""
    catalogue = sequences.catalogue
    return FeatureEncoder.fit(
        catalogue.features,
        catalogue.known_by(sequences.training_end),
        catalogue.item_ids,
        sequences.known_counts,
        min_events=config.model.min_events,
        event_types=catalogue.event_types,
        asking=catalogue.asking if config.model.features else (),
        asked=sequences.training_asked,
    )


def training_slices(sequences: Sequences) -> int:
    """How many slices of the catalogue, from the first on, training targets are asked in."""
    return 1 + int(sequences.catalogue.slices_of(sequences.training_end))


def sampled(queries: Queries, count: int, seed: int) -> Queries:
    if len(queries) <= count:
        return queries
    return queries.take(np.sort(np.random.default_rng(seed).permutation(len(queries))[:count]))


def candidate_since(sequences: Sequences, only_available: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(V + 1,) time from which a row is a candidate; items that were never bought in training are none.

    As negatives that are never a positive they would teach that a null ID is never chosen.
    """
    traded = sequences.training_counts > 0
    since = sequences.catalogue.available_at if only_available else np.full(len(traded), ALWAYS)
    return np.append(NEVER, np.where(traded, since, NEVER))
