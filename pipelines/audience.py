"""The shoppers most likely to want an item: for a mail or a campaign about it.

By the scorer, the archive and the histories of a request, as lists for all are (`components/recommend`). Logits of
two shoppers are on no common scale: held against each other are chances, of a softmax over the catalogue, as in
training. Its sum is taken over the items of the shopper's own longest list, which hold nearly all of it, and the given.
"""

import heapq
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from components.recommend import parts
from components.recommend.champion import HistorySource, champion_of
from components.recommend.parts import SHOPPERS, CrowdPlan, OtherLists, users_digest
from components.recommend.shown import Wanted
from components.recommend.step import answers, asked_of
from feature_repo.wall_clock import clocks_of, said_at
from runtime.errors import InputError

if TYPE_CHECKING:
    from serving.scoring.scorer import Scorer

ROWS = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("chance", pa.float64())])
"""`item_id` is the one of the given items that this shopper wants most, `chance` that the next is any of them."""
SCHEMA = 1
_OF_PART = pa.schema([("user_id", pa.string()), ("chance", pa.float64()), ("item_id", pa.string())])
"""The best of a part; how many of its shoppers are unknown and owners is in the schema's metadata."""
_DIGITS = 4
_scorer: "Scorer | None" = None
_contract: dict[str, Any] = {}
_said: dict[str, str] = {}
"""What the shop's clocks said when the audience was begun."""


class Wanting(NamedTuple):
    """A shopper; of equal ones the first by name is the better, as nothing else tells them apart."""

    chance: float
    user_id: str
    item_id: str


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Best first, and of how many shoppers they are: `unknown` have no history that the model knows, `owners` have
    one of the items already."""

    best: list[Wanting]
    shoppers: int
    unknown: int
    owners: int


@dataclass(frozen=True, kw_only=True)
class _Campaign(CrowdPlan):
    """What is asked of the shoppers."""

    items: list[str]
    top: int
    owners: bool


def audience(
    *,
    content: Path,
    model: str,
    version: str,
    archive_digest: str,
    users: Sequence[str],
    histories: HistorySource,
    items: Sequence[str],
    top: int,
    making: Path,
    wanted: Wanted | None = None,
    owners: bool | None = None,
    processes: int = 1,
    part: int = SHOPPERS,
) -> Audience:
    """The `top` of `users` who most likely want one of `items` next, by the unpacked archive `content`.

    Parts of the shoppers are kept in the folder `making`, from which a run that was killed goes on. `owners` says
    whether who has one of them already is asked too; left out, where the shop sells things that are bought again.
    Raises `InputError` for an item that the model does not know, and where `making` was begun for something else.
    """
    contract = json.loads((content / "serving.json").read_text())
    known = set(json.loads((content / "items.json").read_text())["item_id"])
    if strange := [item for item in items if item not in known]:
        raise InputError(f"--item: found {strange[0]!r}, expected an item of the catalogue that serves")
    if "ranking" not in contract.get("placements", ()):
        raise InputError(
            "the champion was packaged before items could be ranked: `python -m pipelines catalogue` first"
        )
    listed = sorted(set(users))
    plan = _Campaign(
        schema=SCHEMA,
        model=model,
        version=version,
        archive_digest=archive_digest,
        shoppers=len(listed),
        users_digest=users_digest(listed),
        part=part,
        items=list(dict.fromkeys(items)),
        top=top,
        owners=not contract["exclude_seen"] if owners is None else owners,
    )
    begun = parts.begin(making, plan, listed, wanted or Wanted())
    missing = parts.missing(making, plan, _OF_PART)
    for _ in parts.made(_load, (content, begun), _part, (making, plan, histories), missing, processes):
        pass
    found = [_read(making, number) for number in range(plan.parts)]
    return Audience(
        best=_first(top, (each for some in found for each in some.best)),
        shoppers=len(listed),
        unknown=sum(each.unknown for each in found),
        owners=sum(each.owners for each in found),
    )


def _load(content: Path, wanted: Wanted) -> None:
    import torch

    from serving.scoring.scorer import Scorer

    global _scorer, _contract, _said
    torch.set_num_threads(1)  # a core for each process
    _scorer, _contract = Scorer.load(content), json.loads((content / "serving.json").read_text())
    _said = said_at(clocks_of(_contract.get("asking", ())), wanted.now)


def _part(making: Path, plan: _Campaign, histories: HistorySource, number: int) -> None:
    """Of some shoppers, in a process that has loaded the scorer."""
    found = _best(parts.users_of(making, plan, number), plan, histories)
    counts = {"unknown": str(found.unknown), "owners": str(found.owners)}
    columns = [[getattr(each, name) for each in found.best] for name in _OF_PART.names]
    parts.write(making, number, pa.table(columns, schema=_OF_PART.with_metadata(counts)))


def _read(making: Path, number: int) -> Audience:
    table = pq.read_table(parts.part_of(making, number))
    best = [Wanting(**row) for row in table.to_pylist()]
    counts = {name: int(table.schema.metadata[name.encode()]) for name in ("unknown", "owners")}
    return Audience(best=best, shoppers=len(best), **counts)


def _best(users: Sequence[str], plan: _Campaign, histories: HistorySource) -> Audience:
    assert _scorer is not None, "loaded when the process began"
    looked_at = frozenset(each["name"] for each in _contract.get("event_types", ()) if not each["predict"])
    context = {"context": _said} if _said else {}
    asked: list[dict[str, Any]] = [
        {"placement": "ranking", "items": plan.items, "exclude_seen": False, **context},
        {"k": int(_contract["max_k"]), "exclude_seen": False, **context},
    ]
    unknown, owners, wanting = 0, 0, list[Wanting]()
    for user, history, (given, whole) in answers(_scorer, users, histories, asked):
        if "fallback" in whole:
            unknown += 1
            continue
        own = {event["item_id"] for event in history if event.get("event_type") not in looked_at}
        if not own.isdisjoint(plan.items):
            owners += 1
            if not plan.owners:
                continue
        score = {item["item_id"]: item["score"] for item in given["items"]}
        best = max(score, key=lambda item: (score[item], item))
        wanting.append(Wanting(_chance(score, whole["items"]), user, best))
    return Audience(best=_first(plan.top, wanting), shoppers=len(users), unknown=unknown, owners=owners)


def _chance(score: dict[str, float], own: Sequence[dict[str, Any]]) -> float:
    """Of any of the given items, by the softmax over them and the shopper's own best; to so many digits that who was
    asked in one batch with whom changes nothing."""
    logits = {item["item_id"]: item["score"] for item in own} | score
    highest = max(logits.values())
    weight = {item: math.exp(logit - highest) for item, logit in logits.items()}
    return float(f"{sum(weight[item] for item in score) / sum(weight.values()):.{_DIGITS}g}")


def _first(top: int, wanting: Iterable[Wanting]) -> list[Wanting]:
    return heapq.nsmallest(top, wanting, key=lambda each: (-each.chance, each.user_id))


def write(found: Audience, out: Path) -> None:
    """`ROWS` as Parquet, or as CSV where the name ends so."""
    columns = [
        [each.user_id for each in found.best],
        range(1, len(found.best) + 1),
        [each.item_id for each in found.best],
        [each.chance for each in found.best],
    ]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, ROWS.types, strict=True)], schema=ROWS)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    if out.suffix == ".csv":
        pyarrow.csv.write_csv(table, partial)
    else:
        pq.write_table(table, partial, compression="zstd")
    partial.replace(out)


def of_champion(
    name: str, *, items: Sequence[str], top: int, out: Path, owners: bool | None, processes: int
) -> tuple[Audience, str]:
    """`audience` by the champion of the data set `name`, written to `out`; and the champion's version.

    Parts lie in a hidden folder beside `out` until that is written: the same command goes on from those that a killed
    one has left, and begins anew where it is another question, or another champion serves.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise InputError(f"--out {out}: expected a file whose name ends with .parquet or .csv")
    making = out.with_name(f".{out.name}.parts")
    with champion_of(name) as champion:
        asked = {**asked_of(champion), "items": items, "top": top, "owners": owners, "processes": processes}
        try:
            found = audience(**asked, making=making)
        except OtherLists:
            shutil.rmtree(making)
            found = audience(**asked, making=making)
    write(found, out)
    shutil.rmtree(making)
    return found, champion.version
