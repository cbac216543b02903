"""Golden requests of every placement beside "for you", and of a session: what the trained model itself, its tables and
the counts say there, by the plain meaning of docs/contracts.md and not by the scorer that they will test.

Letters: V items, C candidates, E numbers that say what an item is like.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from components.package.goldens import (
    COUNT,
    UNKNOWN,
    Filters,
    Golden,
    askers,
    best,
    filters_of,
    matches,
    request_of,
)
from components.package.item_metadata import Shelf
from heterrec.data.sequences import Queries, Sequences
from heterrec.inference.answers import Answers
from heterrec.memory.neighbours import NeighbourTable
from serving.scoring.alike import FUSED
from serving.scoring.placed import (
    KINDS,
    POPULAR,
    RANKING,
    SIMILAR,
    TOGETHER,
)

_K, _POOL = 5, 50
"""Items asked for; and how many alike items a shopper's own order is of where so few are asked for."""
_GIVEN = 40
"""Items of a list to be ranked."""
_EACH = 2
"""Every second of the shoppers whom other goldens are of: none is named who is not named there."""
_CLEAR = 1e-4
"""By so much scores differ that no rounding can turn: the places of two items are answered as numbers."""
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Asked:
    """Whom and what there is to ask about."""

    answers: Answers
    sequences: Sequences
    shelf: Shelf
    queries: Queries
    score_QV: Scores
    favourites: list[int]
    """Rows of the items with the most events."""
    filters: Filters
    """What the first of them is, by one feature; empty where there is none to filter by."""

    @property
    def every(self) -> Rows:
        return np.arange(len(self.shelf.item_ids))


def placed_goldens(
    answers: Answers, sequences: Sequences, shelf: Shelf, placements: Sequence[str], baskets: NeighbourTable
) -> list[Golden]:
    """One or a few requests of each of `placements`, with and without filters and a shopper; `baskets` is what lies in
    one basket. A shopper's order of alike items is asked for only where no rounding can turn it."""
    queries = askers(sequences, COUNT).take(np.arange(0, COUNT, _EACH))
    scores = answers.scores(sequences, queries)(np.arange(len(queries)))
    filters = next(iter(filters_of(shelf)), {})
    asked = _Asked(answers, sequences, shelf, queries, scores, shelf.by_events(), filters)
    found = [_session(asked)]
    if RANKING in placements:
        found += _rankings(asked)
    if SIMILAR in placements:
        found += [*_alike_for_all(asked), *_alike_for_one(asked)]
    if POPULAR in placements:
        found += _popular(asked)
    if TOGETHER in placements:
        found += _basket_goldens(asked, baskets)
    return found


def _session(asked: _Asked) -> Golden:
    """Events without features, as a session has them: then they are those that the catalogue has."""
    number = len(asked.queries) // 2
    queries, sequences = asked.queries.take(np.array([number])), asked.sequences
    events = range(int(queries.start[0]), int(queries.stop[0]))
    varying = {name: list(values) for name, values in sequences.varying.items()}
    for name in varying.keys() & asked.shelf.features.keys():
        for event in events:
            varying[name][event] = asked.shelf.features[name][int(sequences.row[event])]
    told = replace(sequences, varying=varying)
    (score_V,) = asked.answers.scores(told, queries)(np.arange(1))
    request = request_of(sequences, asked.queries, number)
    history = [{name: value for name, value in event.items() if name != "features"} for event in request["history"]]
    request |= {"history": history, "exclude_seen": False, "k": _K}
    return _golden(asked, request, asked.every, score_V)


def _rankings(asked: _Asked) -> list[Golden]:
    """For a shopper by the model, with and without filters; for nobody by events. The list has one strange item."""
    rows = np.unique(np.linspace(0, len(asked.every) - 1, _GIVEN).round().astype(np.int64))
    items = [UNKNOWN, *(asked.shelf.item_ids[row] for row in rows)]
    given: dict[str, Any] = {"placement": RANKING, "items": items, "k": len(items)}
    found = []
    for number, filters in ((0, {}), (len(asked.queries) - 1, asked.filters)):
        request = {**request_of(asked.sequences, asked.queries, number), **given, **_by(filters)}
        found.append(_golden(asked, request, rows, asked.score_QV[number][rows]))
    nobody = {"user_id": "new", "history": [], **given}
    return [*found, _golden(asked, nobody, rows, np.array(asked.shelf.events, np.float64)[rows])]


def _alike_for_all(asked: _Asked) -> list[Golden]:
    found = []
    for given, filters in ((asked.favourites[:1], {}), (asked.favourites[:2], asked.filters)):
        request = {"user_id": "", "history": [], **_given(asked, SIMILAR, given), **_by(filters)}
        found.append(_golden(asked, request, *_alike(asked, given), hidden=given))
    return found


def _alike_for_one(asked: _Asked) -> list[Golden]:
    """By a shopper who has a place of every alike item for sure, in both orders."""
    for given in asked.favourites[:_K]:
        row_A, score_A = _alike(asked, [given])
        for number in range(len(asked.queries)):
            seen = asked.sequences.seen(asked.queries, number).tolist()
            kept = ~np.isin(row_A, [given, *seen])
            row_C, score_C = row_A[kept], score_A[kept]
            pool = best(score_C, _POOL + 1)
            own_C = asked.score_QV[number][row_C[pool[:_POOL]]]
            if len(pool) < 2 or not (_clear(score_C[pool]) and _clear(own_C)):
                continue
            place_C = np.argsort(np.argsort(-own_C))
            fused_C = 1 / (FUSED + 1 + np.arange(len(own_C))) + 1 / (FUSED + 1 + place_C)
            shopper = request_of(asked.sequences, asked.queries, number)
            request = {**shopper, **_given(asked, SIMILAR, [given]), "exclude_seen": True}
            return [_golden(asked, request, row_C[pool[:_POOL]], fused_C)]
    return []


def _alike(asked: _Asked, given: Sequence[int]) -> tuple[Rows, Scores]:
    """By the network the cosine with the middle of the given items; without one what the tables recall of them."""
    network, memory = asked.answers.loaded.model, asked.answers.memory
    if network is None:
        gate = asked.answers.gate
        assert memory is not None and gate is not None
        nought = np.zeros(len(given), np.int64)
        recalled = memory.recall(np.array(given, np.int64), nought, nought, 1)
        return recalled.item_J, memory.bonus(gate, recalled)
    like_VE = asked.answers.items[:, : network.channels * network.config.width]
    length_V = np.maximum(np.sqrt(np.einsum("ve,ve->v", like_VE, like_VE)), 1e-12)
    middle_E = (like_VE[list(given)] / length_V[list(given), None]).sum(0)
    return asked.every, like_VE @ (middle_E / max(np.linalg.norm(middle_E), 1e-12)) / length_V


def _popular(asked: _Asked) -> list[Golden]:
    """Each kind, the first of them filtered too."""
    shelf, found = asked.shelf, []
    column = dict(zip(KINDS, (shelf.events, shelf.trend, shelf.since), strict=True))
    for kind, filters in (*((kind, {}) for kind in KINDS), (KINDS[0], asked.filters)):
        value_V = np.array(column[kind], np.float64)
        rows = asked.every if kind != "trending" else np.flatnonzero(value_V > 0)
        request = {"user_id": "", "history": [], "placement": POPULAR, "kind": kind, "k": _K, **_by(filters)}
        found.append(_golden(asked, request, rows, value_V[rows]))
    return found


def _basket_goldens(asked: _Asked, baskets: NeighbourTable) -> list[Golden]:
    """What lies in a basket with the given items, and what the first table says is bought after them."""
    memory, found = asked.answers.memory, []
    tables = [baskets, *([] if memory is None else memory.tables[:1])]
    for given, filters in (
        (asked.favourites[:1], {}),
        (asked.favourites[:3], {}),
        (asked.favourites[:3], asked.filters),
    ):
        score_V, named_V = np.zeros(len(asked.every)), np.zeros(len(asked.every), bool)
        for table in tables:
            for row in given:
                mine = slice(int(table.first_V[row]), int(table.first_V[row + 1]))
                np.add.at(score_V, table.item_N[mine], table.weight_N[mine].astype(np.float64))
                named_V[table.item_N[mine]] = True
        request = {"user_id": "", "history": [], **_given(asked, TOGETHER, given), **_by(filters)}
        rows = np.flatnonzero(named_V)
        found.append(_golden(asked, request, rows, score_V[rows], hidden=given))
    return found


def _given(asked: _Asked, placement: str, rows: Sequence[int]) -> dict[str, Any]:
    return {"placement": placement, "items": [asked.shelf.item_ids[row] for row in rows], "k": _K}


def _by(filters: Filters) -> dict[str, Any]:
    return {"filters": filters} if filters else {}


def _clear(score_C: Scores) -> bool:
    return bool((np.abs(np.diff(np.sort(score_C))) > _CLEAR).all())


def _golden(asked: _Asked, request: dict[str, Any], row_C: Rows, score_C: Scores, hidden: Sequence[int] = ()) -> Golden:
    """The best of these candidates that the request allows."""
    filters, items = request.get("filters", {}), list[dict[str, Any]]()
    for c in best(score_C, len(score_C)).tolist():
        row = int(row_C[c])
        if len(items) == request["k"]:
            break
        if row not in hidden and matches(asked.shelf, filters, row):
            items.append({"item_id": asked.shelf.item_ids[row], "score": float(score_C[c])})
    return {"request": request, "answer": {"items": items, "unknown_items": 0}}
