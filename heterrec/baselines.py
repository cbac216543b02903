"""What every model must beat."""

import numpy as np
import numpy.typing as npt

from heterrec.metrics import Scores
from heterrec.sequences import Ints, Sequences


def popularity(sequences: Sequences) -> Scores:
    """Score every item by its training events, the same for all users."""
    counts = sequences.training_counts.astype(np.float32)

    def scores(queries: Ints) -> npt.NDArray[np.float32]:
        return np.broadcast_to(counts, (len(queries), len(counts)))

    return scores
