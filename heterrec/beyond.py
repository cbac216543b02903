"""What lists are like, beside how right they are: coverage, novelty, diversity, popularity, calibration.

By the lists that held-out shoppers would have been shown, as of when they were asked. Letters: Q queries, K items of a
list, V items of the catalogue, X entries of words and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heterrec.data.encoder import KINDS
from heterrec.data.sequences import Ints, Queries, Sequences
from heterrec.evaluation.metrics import Scores
from heterrec.inference.best import highest
from heterrec.memory.neighbour_tables import _words

K = 10
SMOOTHED = 0.01
"""Share of the history's own distribution in that of a list, so that a divergence is finite (Steck)."""
_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """Of the lists of one model; None where the data says nothing of it."""

    coverage: float
    """Share of the items that could be shown to somebody that are shown to anybody."""
    gini: float
    """Of how often each of those items is shown: 0 where all are alike, near 1 where few have it all."""
    novelty: float
    """Mean of -log2 of an item's share of the training events, in bits (Zhou et al., 2010)."""
    popularity: float | None
    """Mean training events of a shown item over those of what was bought next: above 1 it leans to the popular."""
    diversity: float | None
    """One less the mean cosine of two items of a list, by their words and values (Ziegler et al., 2005)."""
    calibration: float | None
    """Mean divergence (KL, nats) of a list's categories from those of the shopper's history: 0 is as the shopper
    bought so far (Steck, 2018)."""


class ShownScores:
    """Scores that remember the list of each query that they are asked about: `rank` asks each once."""

    def __init__(self, scores: Scores, sequences: Sequences, queries: Queries, k: int = K) -> None:
        self.scores, self.sequences, self.queries = scores, sequences, queries
        self.row_QK: Ints = np.full((len(queries), min(k, len(sequences.catalogue))), -1)

    def __call__(self, numbers: Ints) -> npt.NDArray[np.float32]:
        found = self.scores(numbers)
        sequences, queries = self.sequences, self.queries
        available = sequences.catalogue.available_at <= sequences.time[queries.stop[numbers]][:, None]
        masked = np.where(available, found, np.float32(-np.inf))
        if not sequences.repeats:
            for place, number in enumerate(numbers.tolist()):
                masked[place, sequences.row[queries.start[number] : queries.stop[number]]] = -np.inf
        self.row_QK[numbers] = highest(masked, self.row_QK.shape[1])[0]
        return found


def beyond(row_QK: Ints, sequences: Sequences, queries: Queries, *, category: str | None = None) -> Beyond | None:
    """What the lists `row_QK` (rows of the catalogue, -1 for none) of `queries` are like; None without any.

    Calibration is by the feature `category`, which does not vary; left out, by the first categorical one.
    """
    if not (row_QK >= 0).any():
        return None
    count_V = sequences.training_counts
    there_V = sequences.catalogue.available_at <= sequences.time[queries.stop].max()
    shown = row_QK[row_QK >= 0]
    times_V = np.bincount(shown, minlength=len(count_V))[there_V]
    share_V = (count_V + 1) / (count_V.sum() + len(count_V))
    bought = [sequences.row[first:last] for first, last in zip(queries.stop, queries.last, strict=True)]
    usual = float(count_V[np.concatenate(bought)].mean())
    return Beyond(
        coverage=float((times_V > 0).mean()),
        gini=_gini(times_V),
        novelty=float(-np.log2(share_V[shown]).mean()),
        popularity=float(count_V[shown].mean()) / usual if usual else None,
        diversity=_diversity(row_QK, sequences),
        calibration=_calibration(row_QK, sequences, queries, category),
    )


def _gini(times_V: Ints) -> float:
    ordered = np.sort(times_V)
    place = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float((place * ordered).sum() / (len(ordered) * ordered.sum()))


def _diversity(row_QK: Ints, sequences: Sequences) -> float | None:
    """The cosines of all pairs of a list add up to the square of the length of its sum, less the items' own."""
    words = _words(sequences.catalogue)  # its name is a part of a recipe's identity, and so stays
    if not words.columns:
        return None
    total, lists = 0.0, 0
    entries_V = np.diff(words.first_V)
    for first in range(0, len(row_QK), _AT_ONCE):
        part_QK = row_QK[first : first + _AT_ONCE]
        query_P, place = np.nonzero(part_QK >= 0)
        row_P = part_QK[query_P, place]
        count_P = entries_V[row_P]
        entry_X = np.repeat(words.first_V[row_P] - (np.cumsum(count_P) - count_P), count_P) + np.arange(count_P.sum())
        key_X = np.repeat(query_P, count_P) * words.columns + words.word_X[entry_X]
        keys, where = np.unique(key_X, return_inverse=True)
        sums = np.bincount(where.reshape(-1), words.weight_X[entry_X], minlength=len(keys))
        length_Q = np.bincount(keys // words.columns, sums**2, minlength=len(part_QK))
        own_Q = np.bincount(query_P, count_P > 0, minlength=len(part_QK))
        size_Q = np.bincount(query_P, minlength=len(part_QK))
        several = size_Q > 1
        pairs_Q = (size_Q * (size_Q - 1))[several]
        total += float((1 - (length_Q - own_Q)[several] / pairs_Q).sum())
        lists += int(several.sum())
    return total / lists if lists else None


def _calibration(row_QK: Ints, sequences: Sequences, queries: Queries, category: str | None) -> float | None:
    catalogue = sequences.catalogue
    listed = [each["name"] for each in catalogue.features if KINDS[each["kind"]].category]
    name = category or next((each for each in listed if each in catalogue.fixed), None)
    if name is None or name not in catalogue.fixed:
        return None
    code_V, values = _codes(catalogue.fixed[name])
    divergences = []
    for number, row_K in enumerate(row_QK):
        history = code_V[sequences.row[queries.start[number] : queries.stop[number]]]
        mine = code_V[row_K[row_K >= 0]]
        history, mine = history[history >= 0], mine[mine >= 0]
        if len(history) and len(mine):
            p, q = (np.bincount(each, minlength=values) / len(each) for each in (history, mine))
            wanted = p > 0
            mixed = (1 - SMOOTHED) * q + SMOOTHED * p
            divergences.append(float((p[wanted] * np.log(p[wanted] / mixed[wanted])).sum()))
    return float(np.mean(divergences)) if divergences else None


def _codes(column: Sequence[str | None]) -> tuple[Ints, int]:
    """(V,) a number for each value, -1 for none, and how many values there are."""
    code = {value: number for number, value in enumerate(sorted({each for each in column if each}))}
    return np.array([code.get(each, -1) if each else -1 for each in column], dtype=np.int64), len(code)
