"""Golden requests: real histories with the answers of the trained model itself, not of the scorer they will test."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from components.package.item_metadata import Shelf, plain
from heterrec.data.encoder import EVENT_TYPE
from heterrec.data.sequences import (
    SPLITS,
    Ints,
    Queries,
    Sequences,
)
from heterrec.inference.answers import Answers
from serving.scoring.asker import FIELDS as ASKER_FIELDS
from serving.scoring.forms import FORMS
from serving.scoring.retrieval import Approximate, RetrievalRequest

COUNT = 24
UNKNOWN = "an item that the catalogue does not have"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Filters = dict[str, Any]
Golden = dict[str, Any]
"""`{"request": ..., "answer": {"items": [{"item_id", "score"}], "unknown_items"}}`, see docs/contracts.md."""


def goldens(answers: Answers, sequences: Sequences, shelf: Shelf, index: Approximate | None = None) -> list[Golden]:
    """Requests from short to long histories with and without seen items and filters, and the two that a shop meets
    first: a shopper without history, and one who saw an item that is not in the catalogue.

    Of an archive that answers through an `index`, those requests are left out of which the index does not find all
    that it should: how often that may be is held by its recall (index.py), and every other answer has to be right.
    Raises `ValueError` where no user has a history to ask for.
    """
    queries = askers(sequences, COUNT)
    users, bonuses = answers.users(sequences, queries), answers.bonuses(sequences, queries)
    scores = answers.scores(sequences, queries)(np.arange(len(queries)))
    asked: list[tuple[int, Filters]] = [(number, {}) for number in range(len(queries))]
    asked += [(number % len(queries), filters) for number, filters in enumerate(filters_of(shelf))]
    found = []
    for number, filters in asked:
        golden, wanted = _golden(sequences, queries, number, scores[number], shelf, filters)
        wanted = wanted._replace(bonus=bonuses[number])
        if index is None or _finds(index, users[number], wanted, golden, shelf):
            found.append(golden)
    if len(found) < len(asked) / 2:
        raise ValueError(f"the index answers {len(found)} of {len(asked)} golden requests in full: use exact retrieval")
    whole = [golden for golden in found if "filters" not in golden["request"]]
    longest = whole[-1]
    strange = {"item_id": UNKNOWN, "event_time": longest["request"]["history"][-1]["event_time"]}
    asked_strange = {**longest["request"], "history": [*longest["request"]["history"], strange]}
    strange_golden = {"request": asked_strange, "answer": {**longest["answer"], "unknown_items": 1}}
    newcomers = [_newcomer(shelf, filters) for filters in [*filters_of(shelf)[-1:], {}]]
    return [*found, strange_golden, *newcomers]


def filters_of(shelf: Shelf) -> list[Filters]:
    """What the most popular item is, feature by feature, and all of it at once."""
    if not shelf.filterable:
        return []
    first = shelf.by_events()[0]
    known = {name: value for name in shelf.filterable if (value := shelf.features[name][first]) not in (None, [], "")}
    each: Filters = {}
    for name, value in known.items():
        if FORMS[shelf.filterable[name]].ranges:
            each[name] = {"min": value - abs(value) / 2, "max": value + abs(value) / 2}
        else:
            each[name] = [str(item) for item in value] if isinstance(value, list) else [value]
    return [*({name: wanted} for name, wanted in each.items()), each] if each else []


def matches(shelf: Shelf, filters: Filters, row: int) -> bool:
    """By the plain meaning of docs/contracts.md, one item at a time: what the scorer's masks are tested against."""
    for name, wanted in filters.items():
        value = shelf.features[name][row]
        if value in (None, [], ""):
            return False
        if isinstance(wanted, dict):
            if not wanted["min"] <= value <= wanted["max"]:
                return False
        elif not set(value if isinstance(value, list) else [value]) & set(wanted):
            return False
    return True


def _newcomer(shelf: Shelf, filters: Filters) -> Golden:
    """A shopper without history: the most popular items that match."""
    rows = [row for row in shelf.by_events() if matches(shelf, filters, row)]
    request: dict[str, Any] = {"user_id": "new", "history": [], "k": 10}
    if filters:
        request |= {"filters": filters, "exclude": [shelf.item_ids[row] for row in rows[:1]]}
        rows = rows[1:]
    items = [{"item_id": shelf.item_ids[row], "score": float(shelf.events[row])} for row in rows[:10]]
    return {"request": request, "answer": {"items": items, "unknown_items": 0}}


def askers(sequences: Sequences, count: int) -> Queries:
    """`count` queries spread evenly over the lengths of histories; the same users several times in tiny data."""
    for split in reversed(SPLITS):
        queries = sequences.queries(split)
        if len(queries):
            by_length = np.argsort(queries.stop - queries.start, kind="stable")
            spread = np.linspace(0, len(queries) - 1, count).round().astype(np.int64)
            return queries.take(by_length[spread])
    raise ValueError("sequences: no user has a history, so there is nothing to ask the model; take more days or users")


def _golden(
    sequences: Sequences,
    queries: Queries,
    number: int,
    score_V: npt.NDArray[np.float32],
    shelf: Shelf,
    filters: Filters,
) -> tuple[Golden, RetrievalRequest]:
    """A request with its answer, and what it wants of the ranking."""
    # Every second request of a repeating shop leaves seen items out, and the other way round.
    exclude_seen = sequences.repeats == bool(number % 2)
    k = (10, 1, 5, 20)[number % 4]
    request = {**request_of(sequences, queries, number), "k": k, "exclude_seen": exclude_seen}
    score_V = score_V.copy()
    hidden = sequences.seen(queries, number).tolist() if exclude_seen else []
    score_V[hidden] = -np.inf
    forbidden = None
    if filters:
        first = int(best(score_V, 1)[0])
        request |= {"filters": filters, "exclude": [shelf.item_ids[first]]}
        hidden = [*hidden, first]
        forbidden = np.array([not matches(shelf, filters, row) for row in range(len(score_V))])
        score_V[first] = -np.inf
        score_V[forbidden] = -np.inf
    items = [
        {"item_id": shelf.item_ids[row], "score": float(score_V[row])}
        for row in best(score_V, k)
        if np.isfinite(score_V[row])
    ]
    golden = {"request": request, "answer": {"items": items, "unknown_items": 0}}
    return golden, RetrievalRequest(min(k, len(score_V)), hidden, forbidden)


def request_of(sequences: Sequences, queries: Queries, number: int) -> dict[str, Any]:
    """Who asks, with the history of a query."""
    events = range(int(queries.start[number]), int(queries.stop[number]))
    return {
        "user_id": sequences.user_ids[int(queries.user[number])],
        "history": [_event(sequences, event) for event in events],
        **_asker(sequences, int(queries.stop[number])),
    }


def _asker(sequences: Sequences, event: int) -> dict[str, Any]:
    """Who asks for the event, as a request says it."""
    known: dict[str, dict[str, Any]] = {}
    for each in sequences.catalogue.asking:
        if (value := sequences.asked[each["name"]][event]) is not None:
            known.setdefault(ASKER_FIELDS[each["of"]], {})[each["name"]] = plain(value)
    return known


def _finds(
    index: Approximate, user_D: npt.NDArray[np.float32], wanted: RetrievalRequest, golden: Golden, shelf: Shelf
) -> bool:
    (best,) = index.best(torch.from_numpy(user_D[None]), [wanted])
    return {shelf.item_ids[row] for row, _ in best} == {item["item_id"] for item in golden["answer"]["items"]}


def _event(sequences: Sequences, event: int) -> dict[str, Any]:
    time = _EPOCH + timedelta(microseconds=int(sequences.time[event]))
    values = {name: plain(values[event]) for name, values in sequences.varying.items()}
    kind = {EVENT_TYPE: values.pop(EVENT_TYPE)} if EVENT_TYPE in values else {}
    return {
        "item_id": sequences.catalogue.item_ids[int(sequences.row[event])],
        "event_time": time.isoformat().replace("+00:00", "Z"),
        **kind,
        "features": values,
    }


def best(score_V: npt.NDArray[np.float32], k: int) -> Ints:
    return np.argsort(-score_V, kind="stable")[:k].astype(np.int64)
