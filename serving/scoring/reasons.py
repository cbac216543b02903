"""Why an item is answered: shares that add up to its score, each of a table, a part of the network or a count, and
where that can be said of one of the shopper's own items.

A network's score is a product, of which each part of the item's row has an exact share. How a shopper's items make the
user vector is no sum: of each item it is said how much less the score would be without it, and the rest stands under
no item. What the tables add is the logarithm of a sum: it is shared in proportion to the sum's terms.
Letters: C rows that are explained, J pairs of an event and one of them, H channels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.scoring.remembering import Remembering
from serving.scoring.shelves import Term

SHOWN = 12
"""Shares of an item that are told; the smaller ones are told as one of their kind."""


class ReasonTerm(NamedTuple):
    """`given` is the row of one of the shopper's items, or of the items given; None where it is of none of them."""

    by: str
    given: int | None
    value: float
    exact: bool


Shares = dict[int, list[ReasonTerm]]
"""By the row that is explained."""


def of_memory(memory: Remembering, events: Sequence[int], ages: Sequence[int], rows: Sequence[int]) -> Shares:
    """What the tables add to the scores of these rows, by channel and event; `events` are rows of the catalogue."""
    event_J, row_J, mixed_JH, bonus_J = memory.reminders(events, ages, np.array(rows, np.int64))
    out: Shares = {row: [] for row in rows}
    for row in rows:
        mine = row_J == row
        if not mine.any():
            continue
        mixed_MH, bonus = mixed_JH[mine], float(bonus_J[mine][0])
        alone = np.count_nonzero(mixed_MH) == 1
        share_MH = mixed_MH * (bonus / mixed_MH.sum())
        for event, channel in zip(*np.nonzero(share_MH), strict=True):
            given = int(event_J[mine][event])
            out[row].append(ReasonTerm(memory.channels[channel], given, float(share_MH[event, channel]), bool(alone)))
    return out


def of_network(
    whole_CP: npt.NDArray[np.float32],
    without_TCP: npt.NDArray[np.float32],
    events: Sequence[int],
    rows: Sequence[int],
    parts: Sequence[str],
) -> Shares:
    """What the P parts of the network say of C rows, wholly and without each of the T `events` (rows of the
    catalogue); T is 0 where there is but one event, whose own the whole is."""
    out: Shares = {row: [] for row in rows}
    for c, row in enumerate(rows):
        for p, part in enumerate(parts):
            whole = float(whole_CP[c, p])
            if not len(without_TCP):
                out[row].append(ReasonTerm(part, events[0], whole, True))
                continue
            lost_T = whole - without_TCP[:, c, p].astype(float)
            out[row] += [
                ReasonTerm(part, event, float(lost), False) for event, lost in zip(events, lost_T, strict=True)
            ]
            out[row].append(ReasonTerm(part, None, whole - float(lost_T.sum()), False))
    return out


def of_terms(terms: Iterable[Term], rows: Sequence[int]) -> Shares:
    """Of scores that are the sums of these terms."""
    out: Shares = {row: [] for row in rows}
    for term in terms:
        for row, value in zip(term.rows.tolist(), term.values.tolist(), strict=True):
            if row in out:
                out[row].append(ReasonTerm(term.by, term.given, value, True))
    return out


def joined(*each: Shares) -> Shares:
    """One list a row."""
    rows = dict.fromkeys(row for shares in each for row in shares)
    return {row: [share for shares in each for share in shares.get(row, ())] for row in rows}


def reason_entries(shares: Iterable[ReasonTerm], item_id: Callable[[int], str]) -> list[dict[str, Any]]:
    """For an answer: one entry for each kind and item, the greatest first; what is beyond `SHOWN` is told by its kind
    alone."""
    sums: dict[tuple[str, int | None], list[float]] = {}
    exact: dict[tuple[str, int | None], bool] = {}
    for share in shares:
        key = (share.by, share.given)
        sums.setdefault(key, []).append(share.value)
        exact[key] = exact.get(key, True) and share.exact
    values = {key: float(np.sum(each)) for key, each in sums.items()}
    for key in sorted(values, key=lambda key: -abs(values[key]))[SHOWN:]:
        if key[1] is not None:
            rest = (key[0], None)
            values[rest] = values.get(rest, 0.0) + values.pop(key)
            exact[rest] = exact.get(rest, True) and exact[key]
    return [
        {"by": by, "item_id": None if given is None else item_id(given), "share": value, "exact": exact[(by, given)]}
        for (by, given), value in sorted(values.items(), key=lambda each: -abs(each[1]))
        if value
    ]
