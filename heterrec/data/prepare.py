"""From two tables to `Sequences`: baskets, splits and the catalogue, by the rules of the features step.

The pipeline computes the same in DuckDB, where tables may be larger than memory, with features joined by Feast; a test
holds the two against each other on random tables. Here a feature has one value an item: what varies in time comes
through a dataset card.
"""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heterrec.data.encoder import KINDS, VECTOR
from heterrec.data.frames import (
    column_of,
    is_list,
    is_text,
    keys_of,
    table_of,
)
from heterrec.data.sequence_files import arrow_type
from heterrec.data.sequences import (
    EVER,
    SPLITS,
    Catalogue,
    Ints,
    Sequences,
    Slice,
)

By = Literal["order", "time"]
Ties = Literal["order", "basket"]
DAY = 86_400_000_000
FIRST_POSITION = 946_684_800_000_000
"""2000-01-01 in microseconds: where only the order is known, a position is a day from here on, as in ingest."""
_TEXT_SHARE = 0.5


def prepare(
    interactions: Any,
    items: Any = None,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "event_time",
    position: str | None = None,
    basket: str | None = None,
    available_at: str | None = None,
    kinds: dict[str, str] | None = None,
    title: str | None = None,
    split: By = "order",
    validation_days: float = 7,
    test_days: float = 7,
    repeats: bool = False,
    ties: Ties = "order",
) -> Sequences:
    """The events of `interactions` (one row each) over the catalogue of `items` (one row an item), ready to train on.

    Args:
        interactions: A table (`heterrec.data.frames.table_of`) with a row an event.
        items: A table with a row an item; each further column is a feature. None learns from the events alone.
        user, item, time: Columns of users, items (text or whole numbers; `item` of both tables) and moments (timestamps
            or dates; without a zone they are UTC). `time=None` where only the order is known, which `position` gives.
        position: Column of whole numbers from 0: the order of a user's events of one time, or of all of them.
        basket: Column of what was bought at once, with `ties="basket"`.
        available_at: Column of `items`: since when it can be had. By default the day before the first event.
        kinds: Kind of a feature, one of `KINDS`, or "leave" for a column that is none. By default numbers are numeric,
            lists of numbers embeddings, lists of text multi_categorical; text is categorical, or `text` where most
            values are several words that few items share.
        title: The feature that people read as the item's name.
        split: "order" holds out each user's last basket as test and the one before as validation; "time" the last
            `test_days`, and `validation_days` before them.
        repeats: Whether a shopper may want the same item again; where not, seen items are no candidates.
        ties: With "basket", events of a user at one time, or of one `basket`, have no order among them.

    Raises `ValueError` naming table, column, what was found and what to do; `TypeError` for what is no table.

    >>> shop = prepare({"user_id": [1, 1, 1], "item_id": ["a", "b", "c"], "event_time": days}, {"item_id": ["a", "b"]})
    """
    if split not in ("order", "time"):
        raise ValueError(f"split: found {split!r}, expected 'order' or 'time'")
    if ties not in ("order", "basket"):
        raise ValueError(f"ties: found {ties!r}, expected 'order' or 'basket'")
    if basket is not None and ties == "order":
        raise ValueError(f"basket={basket!r} has no effect with ties='order'; say ties='basket', or leave it out")
    for name, days in (("validation_days", validation_days), ("test_days", test_days)):
        if not days > 0:
            raise ValueError(f"{name}: found {days!r}, expected a number of days above 0")
    events = table_of(interactions, "interactions")
    user_E = keys_of(column_of(events, user, called="interactions", meaning="user"), f"interactions.{user}")
    item_E = keys_of(column_of(events, item, called="interactions", meaning="item"), f"interactions.{item}")
    place_E = None if position is None else _positions(events, position)
    time_E = _event_times(events, time, place_E)
    order = _order(user_E, time_E, np.arange(len(time_E)) if place_E is None else place_E)
    users = user_E.take(pa.array(order)).combine_chunks().dictionary_encode()
    code_E, time_E = np.asarray(users.indices, dtype=np.int64), time_E[order]
    occasion_E = _occasions(events, basket, order) if ties == "basket" else None
    basket_E = _singles(code_E) if occasion_E is None else _baskets(code_E, time_E, occasion_E)
    split_E = (
        _by_order(code_E, basket_E)
        if split == "order"
        else _by_time(code_E, basket_E, time_E, int(validation_days * DAY), int(test_days * DAY))
    )
    item_E = item_E.take(pa.array(order))
    catalogue = _catalogue(items, item, available_at, kinds or {}, title, item_E, time_E)
    row = pc.index_in(item_E, pa.array(catalogue.item_ids, pa.string()))
    return Sequences(
        user_ids=users.dictionary.to_pylist(),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(code_E, minlength=len(users.dictionary)))]).astype(np.int64),
        row=np.asarray(row, dtype=np.int64),
        time=time_E,
        basket=basket_E,
        split=split_E,
        varying={},
        catalogue=catalogue,
        repeats=repeats,
    )


def _positions(events: pa.Table, name: str) -> Ints:
    column = column_of(events, name, called="interactions", meaning="position")
    if not pa.types.is_integer(column.type):
        raise ValueError(f"interactions.{name}: has type {column.type}, expected whole numbers from 0")
    found = np.asarray(column.cast(pa.int64()), dtype=np.int64)
    if found.min() < 0:
        raise ValueError(f"interactions.{name}: found {found.min()}, expected whole numbers from 0")
    return found


def _event_times(events: pa.Table, time: str | None, place_E: Ints | None) -> Ints:
    if time is not None:
        return _times(column_of(events, time, called="interactions", meaning="time"), f"interactions.{time}")
    if place_E is None:
        raise ValueError("time: found None and no position; name the column of times, or of the order with position=…")
    return FIRST_POSITION + place_E * DAY


def _times(column: pa.ChunkedArray, name: str) -> Ints:
    """Microseconds since 1970."""
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ValueError(
            f"{name}: has type {kind}, expected timestamps or dates; parse it before (pandas.to_datetime), or where "
            "only the order is known name it with position=… and say time=None"
        )
    found = column.cast(pa.timestamp("us", kind.tz if pa.types.is_timestamp(kind) else None), safe=False)
    out: Ints = np.asarray(found.cast(pa.int64()), dtype=np.int64)
    return out


def _order(user_E: pa.ChunkedArray, time_E: Ints, place_E: Ints) -> Ints:
    """Sorted by user, time and place; stable."""
    table = pa.table({"user": user_E.combine_chunks(), "time": time_E, "place": place_E})
    keys = [(name, "ascending") for name in ("user", "time", "place")]
    out: Ints = np.asarray(pc.sort_indices(table, sort_keys=keys), dtype=np.int64)
    return out


def _starts(code_E: Ints) -> Ints:
    """(E,) where the events of each event's user begin."""
    first = np.flatnonzero(np.append(True, code_E[1:] != code_E[:-1]))
    out: Ints = np.repeat(first, np.diff(np.append(first, len(code_E))))
    return out


def _singles(code_E: Ints) -> Ints:
    out: Ints = np.arange(len(code_E)) - _starts(code_E)
    return out


def _occasions(events: pa.Table, basket: str | None, order: Ints) -> Ints:
    """(E,) a number for each basket id, and one for each event without."""
    own = np.arange(len(order))
    if basket is None:
        return own
    if basket not in events.column_names:
        raise ValueError(f"interactions: has no column {basket!r} (basket), only {events.column_names}; name yours")
    column = events[basket].take(pa.array(order)).combine_chunks()
    codes = column.dictionary_encode().indices
    out: Ints = np.where(np.asarray(pc.is_valid(codes)), np.asarray(pc.fill_null(codes, 0)) + len(own), own)
    return out


def _baskets(code_E: Ints, time_E: Ints, occasion_E: Ints) -> Ints:
    """Events of one time or of one occasion are one basket, and so are baskets that overlap in time: one opens where
    every earlier one of its user has closed."""
    moments, moment_E = np.unique(time_E, return_inverse=True)
    _, whose_E = np.unique(np.stack([code_E, occasion_E]), axis=1, return_inverse=True)
    closes_O = np.zeros(int(whose_E.max()) + 1, dtype=np.int64)
    np.maximum.at(closes_O, whose_E.reshape(-1), moment_E)
    # The users come one after the other, so that one running maximum serves all.
    of_user_E = code_E * len(moments)
    closed_E = np.maximum.accumulate(of_user_E + closes_O[whose_E.reshape(-1)])
    opens_E = np.append(True, (of_user_E + moment_E)[1:] > closed_E[:-1])
    number_E = np.cumsum(opens_E)
    out: Ints = number_E - number_E[_starts(code_E)]
    return out


def _by_order(code_E: Ints, basket_E: Ints) -> Ints:
    last_U = np.zeros(int(code_E.max()) + 1, dtype=np.int64)
    np.maximum.at(last_U, code_E, basket_E)
    back_E = last_U[code_E] - basket_E
    out: Ints = np.where(last_U[code_E] < 2, 0, np.maximum(2 - back_E, 0))
    return out


def _by_time(code_E: Ints, basket_E: Ints, time_E: Ints, validation: int, test: int) -> Ints:
    """A basket lies in one split as a whole, by the time of its first event."""
    change = np.append(True, (code_E[1:] != code_E[:-1]) | (basket_E[1:] != basket_E[:-1]))
    opened_E = time_E[np.flatnonzero(change)][np.cumsum(change) - 1]
    now = int(time_E.max())
    held: Ints = (opened_E > now - validation - test).astype(np.int64) + (opened_E > now - test)
    if not (held == 0).any():
        days = (now - int(time_E.min())) / DAY
        raise ValueError(
            f"interactions: all of their {days:.1f} days are held out (validation_days and test_days); hold out fewer"
        )
    assert held.max() < len(SPLITS)
    return held


def _catalogue(
    items: Any,
    item: str,
    available_at: str | None,
    kinds: dict[str, str],
    title: str | None,
    item_E: pa.ChunkedArray,
    time_E: Ints,
) -> Catalogue:
    table = pa.table({item: pa.array([], pa.string())}) if items is None else table_of(items, "items")
    listed = keys_of(column_of(table, item, called="items", meaning="item"), f"items.{item}")
    if pc.count_distinct(listed).as_py() < len(listed):
        twice = next(each["values"] for each in pc.value_counts(listed).to_pylist() if each["counts"] > 1)
        raise ValueError(
            f"items.{item}: {twice!r} comes more than once, expected one row an item; keep one, or describe what "
            "varies in time in a dataset card"
        )
    ids = pc.unique(pa.chunked_array([*listed.chunks, *item_E.chunks], pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    place = pc.index_in(ids, listed.combine_chunks())
    known = np.asarray(pc.is_valid(place))
    since = np.full(len(ids), int(time_E.min()) - DAY)
    if available_at is not None:
        given = _times(column_of(table, available_at, called="items", meaning="available_at"), f"items.{available_at}")
        since[known] = given[np.asarray(place.drop_null())]
    row_E = np.asarray(pc.index_in(item_E, ids), dtype=np.int64)
    first_V = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first_V, row_E, time_E)
    features, fixed = [], dict[str, list[Any]]()
    for name in table.column_names:
        if name in (item, available_at) or kinds.get(name) == "leave":
            continue
        column = table[name]
        kind = kinds.get(name) or _kind(column, name)
        fixed[name] = _cells(column, kind, name).combine_chunks().take(place).to_pylist()
        length = next((len(cell) for cell in fixed[name] if cell), None) if KINDS[kind].form == VECTOR else None
        features.append({"name": name, "kind": kind, "varies_in_time": False, "dimension": length})
    for name in [*kinds, *([] if title is None else [title])]:
        if name not in table.column_names:
            raise ValueError(f"items: has no column {name!r}, which kinds or title names; it has {table.column_names}")
    return Catalogue(
        item_ids=ids.to_pylist(),
        available_at=np.minimum(np.where(known, since, first_V), first_V),
        fixed=fixed,
        slices=(Slice(EVER, {}),),
        features=features,
        title=title,
    )


def _kind(column: pa.ChunkedArray, name: str) -> str:
    """The kind that a column's type suggests."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return "categorical"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numeric"
    if is_text(kind):
        said = column.drop_null()
        spaced = pc.sum(pc.match_substring(said, " ")).as_py() or 0
        several = spaced > _TEXT_SHARE * len(said) and pc.count_distinct(said).as_py() > _TEXT_SHARE * len(said)
        return "text" if several else "categorical"
    if is_list(kind):
        inner = kind.value_type
        if pa.types.is_floating(inner):
            return "embedding"
        if is_text(inner) or pa.types.is_integer(inner):
            return "multi_categorical"
    raise ValueError(
        f"items.{name}: has type {kind}, which is no feature; cast it, or leave it out with kinds={{{name!r}: 'leave'}}"
    )


def _cells(column: pa.ChunkedArray, kind: str, name: str) -> pa.ChunkedArray:
    """The column in the type of its kind, as the features step writes it."""
    if kind not in KINDS:
        raise ValueError(f"kinds[{name!r}]: found {kind!r}, expected one of {(*KINDS, 'leave')}")
    try:
        return column.cast(arrow_type(KINDS[kind]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"items.{name}: has type {column.type}, which cannot be read as {kind} ({error})") from error
