"""Golden requests: real histories with the answers of the trained model itself, not of the scorer they will test."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from heterrec.export import Loaded
from heterrec.inference import item_matrix, user_vectors
from heterrec.sequences import SPLITS, Ints, Queries, Sequences

COUNT = 24
UNKNOWN = "an item that the catalogue does not have"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Golden = dict[str, Any]
"""`{"request": ..., "answer": {"items": [{"item_id", "score"}], "unknown_items"}}`, see docs/contracts.md."""


def goldens(loaded: Loaded, sequences: Sequences, popular: list[dict[str, Any]]) -> list[Golden]:
    """Requests from short to long histories with and without seen items, and the two that a shop meets first:
    a shopper without history, and one who saw an item that is not in the catalogue.

    Raises `ValueError` where no user has a history to ask for.
    """
    queries = _chosen(sequences)
    users = user_vectors(loaded.model, loaded.encoder, sequences, queries)
    scores = users @ item_matrix(loaded.model, loaded.encoder, sequences.catalogue).T
    found = [_golden(sequences, queries, number, scores[number]) for number in range(len(queries))]
    longest = found[-1]
    strange = {"item_id": UNKNOWN, "event_time": longest["request"]["history"][-1]["event_time"]}
    asked_strange = {**longest["request"], "history": [*longest["request"]["history"], strange]}
    found.append({"request": asked_strange, "answer": {**longest["answer"], "unknown_items": 1}})
    best = [{"item_id": entry["item_id"], "score": float(entry["events"])} for entry in popular[:10]]
    empty = {"user_id": "new", "history": [], "k": 10}
    return [*found, {"request": empty, "answer": {"items": best, "unknown_items": 0}}]


def _chosen(sequences: Sequences) -> Queries:
    """`COUNT` queries spread evenly over the lengths of histories; the same users several times in tiny data."""
    for split in reversed(SPLITS):
        queries = sequences.queries(split)
        if len(queries):
            by_length = np.argsort(queries.stop - queries.start, kind="stable")
            spread = np.linspace(0, len(queries) - 1, COUNT).round().astype(np.int64)
            return queries.take(by_length[spread])
    raise ValueError("sequences: no user has a history, so there is nothing to ask the model; take more days or users")


def _golden(sequences: Sequences, queries: Queries, number: int, score_V: npt.NDArray[np.float32]) -> Golden:
    events = range(int(queries.start[number]), int(queries.stop[number]))
    # Every second request of a repeating shop leaves seen items out, and the other way round.
    exclude_seen = sequences.repeats == bool(number % 2)
    k = (10, 1, 5, 20)[number % 4]
    request = {
        "user_id": sequences.user_ids[int(queries.user[number])],
        "history": [_event(sequences, event) for event in events],
        "k": k,
        "exclude_seen": exclude_seen,
    }
    if exclude_seen:
        score_V = score_V.copy()
        score_V[sequences.seen(queries, number)] = -np.inf
    items = [
        {"item_id": sequences.catalogue.item_ids[row], "score": float(score_V[row])}
        for row in _best(score_V, k)
        if np.isfinite(score_V[row])
    ]
    return {"request": request, "answer": {"items": items, "unknown_items": 0}}


def _event(sequences: Sequences, event: int) -> dict[str, Any]:
    time = _EPOCH + timedelta(microseconds=int(sequences.time[event]))
    return {
        "item_id": sequences.catalogue.item_ids[int(sequences.row[event])],
        "event_time": time.isoformat().replace("+00:00", "Z"),
        "features": {name: _json(values[event]) for name, values in sequences.varying.items()},
    }


def _json(value: Any) -> Any:
    """JSON knows no NaN; for the encoder both are a missing value."""
    return None if value != value else value


def _best(score_V: npt.NDArray[np.float32], k: int) -> Ints:
    return np.argsort(-score_V, kind="stable")[:k].astype(np.int64)
