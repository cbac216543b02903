"""Adding and changing items, over HTTP."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException
from fastapi.exceptions import RequestValidationError

from experiments.database import TableAway
from experiments.document import Rollout
from experiments.item_log import ItemLogFull
from serving.gateway.after.news import News
from serving.gateway.after.upserts import absorbed
from serving.gateway.api import ItemsTaken, PutItem, PutItems
from serving.gateway.archive import Contents
from serving.gateway.archives import ArchiveCache
from serving.gateway.dates import BadDate, in_days

_Authorization = Annotated[str | None, Header(description="Bearer token, where the service asks for one")]
_UNKNOWN = "the archives that serve do not say which features their items have; package them anew (a catalogue run)"


def add_items(
    app: FastAPI,
    news: News,
    archives: ArchiveCache,
    released: Callable[[], Rollout],
    problems: dict[int | str, dict[str, Any]],
) -> None:
    """Let shops add and change items; within 5 s of the answer every replica recommends them by their features. To take
    one out again is to withdraw it."""

    @app.put("/v1/items", responses=problems)
    async def items(put: PutItems, authorization: _Authorization = None) -> ItemsTaken:
        rollout = released()
        serving = archives.contents_of(rollout)
        if not any(contents.item_values.features for contents in serving):
            raise HTTPException(501, _UNKNOWN)
        said = {item.item_id: features for item, features in zip(put.items, _checked(put.items, serving), strict=True)}
        known = len(serving) == len(rollout.serving)
        done = [each for each in news.upserts.items if known and all(absorbed(each, one) for one in serving)]
        try:
            number = await news.put(said, {each.item_id: each.number for each in done})
        except ItemLogFull as error:
            raise HTTPException(409, str(error)) from error
        except TableAway as error:
            news.failed(error)
            raise HTTPException(503, "the change could not be written; send it again") from error
        takes = [contents is not None and contents.item_program for contents in map(archives.known, rollout.serving)]
        waiting = [arm.version for arm, each in zip(rollout.serving, takes, strict=True) if not each]
        return ItemsTaken(number=number, waiting=waiting)


def _checked(items: Sequence[PutItem], serving: Sequence[Contents]) -> list[dict[str, Any] | None]:
    """The features of each item as archives have them, None where they are taken back. Raises `RequestValidationError`
    that names what is wrong."""
    faults, found = list[dict[str, Any]](), list[dict[str, Any] | None]()
    for n, item in enumerate(items):
        try:
            found.append(None if item.features is None else _values(item.features, serving))
        except _BadFeature as error:
            fault = {"loc": ("body", "items", n, "features", error.name), "msg": str(error), "type": "feature"}
            faults.append(fault)
    if faults:
        raise RequestValidationError(faults)
    return found


class _BadFeature(ValueError):
    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


def _values(features: dict[str, Any], serving: Sequence[Contents]) -> dict[str, Any]:
    names = dict.fromkeys(name for contents in serving for name in contents.item_values.features)
    if unknown := sorted(features.keys() - names):
        raise _BadFeature(unknown[0], f"no such feature; there are {', '.join(names)}")
    values = _in_days(features, serving)
    for contents in serving:
        if (fault := contents.item_values.fault(values)) is not None:
            name, expected = fault
            missing = "" if name in values else "is not said: "
            raise _BadFeature(name, f"{missing}expected {expected}")
        values = contents.item_values.plain(values)
    return values


def _in_days(features: dict[str, Any], serving: Sequence[Contents]) -> dict[str, Any]:
    """With dates as archives have them: days since 1970."""
    zones = {name: zone for contents in serving for name, zone in contents.catalogue.dates.items()}
    said = {name: {"min": value} for name, value in features.items() if name in zones and isinstance(value, str)}
    try:
        days = in_days(said, zones, datetime.now(UTC))
    except BadDate as error:
        raise _BadFeature(error.feature, "expected a date (2026-01-31) or a time (2026-01-31T12:00:00Z)") from error
    return {**features, **{name: bound["min"] for name, bound in days.items()}}
