"""What every model must beat. A baseline is a function of the data and of who asks: fitted on the training events
alone, it gives the scores of the whole catalogue for those queries."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from heterrec.data.sequences import Ints, Queries, Sequences
from heterrec.evaluation.metrics import Scores

Fit = Callable[[Sequences, Queries], Scores]
"""A baseline: `fit(sequences, queries)` are the scores of the queries, for `heterrec.evaluation.metrics.rank`."""


def popularity(sequences: Sequences) -> Scores:
    """Score every item by its training events, the same for all users."""
    counts = sequences.training_counts.astype(np.float32)

    def scores(queries: Ints) -> npt.NDArray[np.float32]:
        return np.broadcast_to(counts, (len(queries), len(counts)))

    return scores


def most_popular(sequences: Sequences, queries: Queries) -> Scores:
    """`popularity` as a baseline."""
    return popularity(sequences)


BASELINES: dict[str, Fit] = {"popularity": most_popular}
