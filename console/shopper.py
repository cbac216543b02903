"""One shopper: the history as a line of items, and what each of those who could answer makes of it, side by side."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from console.archives import Answer, OpenArchives, Opened
from experiments.document import Rollout
from feature_repo.history import HistoryRecord, decode
from feature_repo.store import histories_path
from runtime import workspace
from runtime.errors import InputError

K = 10
SHOWN = 50
"""Latest events that are drawn."""
MOST_TRIED = 10
LATER = timedelta(minutes=1)
_MOST_FOUND = 20
_REASONS = 5
"""Shares of a score that are shown."""


@dataclass(frozen=True, kw_only=True)
class HistoryEvent:
    """One event of the history; `tried` was added on this page and nowhere else."""

    item: str
    title: str
    at: datetime
    values: dict[str, Any]
    tried: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreShare:
    """A share of a score: of what kind, by which of the shopper's items ("" where by none alone); below zero it
    speaks against."""

    by: str
    title: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a list; `moved` says how it stands against the list it is compared with."""

    item: str
    title: str
    score: float
    moved: str
    style: str
    why: Sequence[ScoreShare] = ()


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What one of them answers; or why it does not."""

    name: str
    version: str
    places: Sequence[Place] = ()
    fault: str = ""
    note: str = ""


def find(model: str, text: str) -> list[str]:
    """Shoppers whose id begins with or has `text` in it. Empty where histories were never written."""
    users = _users(model)
    if users is None:
        return []
    found: list[str] = users.filter(pc.match_substring(users, text, ignore_case=True)).slice(0, 1000).to_pylist()
    return sorted(found, key=lambda user: (user != text, not user.startswith(text), user))[:_MOST_FOUND]


def somebody(model: str) -> str | None:
    """Any shopper that has a history."""
    users = _users(model)
    return str(users[secrets.randbelow(len(users))].as_py()) if users is not None and len(users) else None


def history(model: str, user: str) -> tuple[list[HistoryRecord], str]:
    """The latest events of a shopper, oldest first, and where they were read: the online store, or where that cannot be
    read its copy of the last materialise."""
    from feast.errors import FeastError

    from feature_repo.faults import Unavailable
    from feature_repo.online import user_history
    from feature_repo.store import connect

    try:
        return user_history(connect(model, workspace.feature_store(model)), user), "online store"
    except (FeastError, Unavailable, ValueError, OSError) as error:
        path = histories_path(workspace.feature_store(model))
        if not path.is_file():
            raise InputError(f"the history of {user!r} cannot be read: {error}") from error
        rows = pq.read_table(path, columns=["history"], filters=[("user_id", "=", user)])["history"].to_pylist()
        return (decode(rows[0]) if rows else []), "copy of the last materialise; the online store cannot be read"


def line(records: Sequence[HistoryRecord], tried: Sequence[str], champion: Opened) -> list[HistoryEvent]:
    """The events as they are drawn, the newest first; what was tried comes after all of them."""
    seen = [
        HistoryEvent(
            item=record.item_id,
            title=champion.title(record.item_id),
            at=datetime.fromtimestamp(record.event_time / 1e6, UTC),
            values=dict(record.values),
        )
        for record in records[-SHOWN:]
    ]
    # In the same visit as the newest event: a shop's clock may be another one than ours.
    at = seen[-1].at if seen else datetime.now(UTC)
    names = set().union(*(each.values for each in seen)) if seen else set(champion.items["features"])
    for number, item in enumerate(tried, start=1):
        values = {name: value for name, value in champion.features(item).items() if name in names}
        seen.append(
            HistoryEvent(item=item, title=champion.title(item), at=at + number * LATER, values=values, tried=True)
        )
    return seen[::-1]


def lists(row: Rollout, archives: OpenArchives, user: str, seen: Sequence[HistoryEvent]) -> list[Ranked]:
    """Champion, challenger, neighbour tables and popular items for the history `seen` (newest first).

    The champion's is compared with what it was before anything was tried, the others with the champion's.
    """
    assert row.champion is not None
    champion = archives.of(row.model, row.champion)
    request = _request(user, seen)
    before = champion.answer(_request(user, [each for each in seen if not each.tried]))
    mine = champion.answer(request)
    tried = any(each.tried for each in seen)
    note = "against before it was tried" if tried else ""
    found = [_ranked("champion", champion, mine, before if tried else mine, note)]
    for role, arm in row.roles.items():
        if role == "champion":
            continue
        try:
            opened = archives.of(row.model, arm)
            found.append(_ranked(role, opened, opened.answer(request), mine, "against the champion"))
        except InputError as error:
            found.append(Ranked(name=role, version=arm.version, fault=str(error)))
    found.append(_from_tables(champion, request, mine))
    popular = champion.popular(K)
    found.append(_ranked("popular", champion, popular, mine, "against the champion; scores are events"))
    return found


def _from_tables(champion: Opened, request: dict[str, Any], mine: Answer) -> Ranked:
    name = "neighbour tables"
    tables = champion.tables
    if tables is None:
        return Ranked(name=name, version="", fault="the champion's archive has none")
    answer = tables.answer(request)
    if answer is None:
        return Ranked(name=name, version="", fault="no item of the history is in the catalogue")
    return _ranked(name, champion, answer, mine, "against the champion")


def _ranked(name: str, opened: Opened, answer: Answer, other: Answer, note: str) -> Ranked:
    was = {item["item_id"]: place for place, item in enumerate(other, start=1)}
    places = []
    for place, item in enumerate(answer, start=1):
        there = was.get(item["item_id"])
        moved, style = ("new", "good") if there is None else _moved(there - place)
        title = str(item.get("title") or item["item_id"])
        why = _reasons(opened, item.get("why") or ())
        places.append(Place(item=item["item_id"], title=title, score=item["score"], moved=moved, style=style, why=why))
    return Ranked(name=name, version=opened.version, places=places, note=note)


def _reasons(opened: Opened, shares: Sequence[dict[str, Any]]) -> list[ScoreShare]:
    """The greatest shares of one score (docs/contracts.md, "Why"), the greatest first."""
    return [
        ScoreShare(by=by, title="" if item is None else opened.title(item), share=share)
        for by, item, share in ((each["by"], each["item_id"], each["share"]) for each in shares[:_REASONS])
    ]


def _moved(up: int) -> tuple[str, str]:
    if not up:
        return "", "none"
    return (f"▲{up}", "good") if up > 0 else (f"▼{-up}", "warn")


def _request(user: str, seen: Sequence[HistoryEvent]) -> dict[str, Any]:
    """As the gateway asks a model (docs/contracts.md, "archive"); `seen` is newest first."""
    events = [{"item_id": e.item, "event_time": e.at.isoformat(), "features": e.values} for e in reversed(seen)]
    return {"user_id": user, "history": events, "k": K, "explain": True}


_IDS: dict[str, tuple[int, pa.Array]] = {}


def _users(model: str) -> pa.Array | None:
    """The ids of all who have a history, read once for each version of the file."""
    path = histories_path(workspace.feature_store(model))
    if not path.is_file():
        return None
    moment = path.stat().st_mtime_ns
    if model not in _IDS or _IDS[model][0] != moment:
        _IDS[model] = moment, pq.read_table(path, columns=["user_id"])["user_id"].combine_chunks()
    return _IDS[model][1]
