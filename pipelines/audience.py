"""The shoppers most likely to want an item: for a mail or a campaign about it.

By the scorer, the archive and the histories of a request, as lists for all are (`components/recommend`). Logits of
two shoppers are on no common scale: held against each other are chances, of a softmax over the catalogue, as in
training. Its sum is taken over the items of the shopper's own longest list, which hold nearly all of it, and the given.
"""

import heapq
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from components.recommend.champion import Histories, champion_of
from components.recommend.step import SHOPPERS, answers
from runtime.errors import InputError

if TYPE_CHECKING:
    from serving.scoring.scorer import Scorer

ROWS = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("chance", pa.float64())])
"""`item_id` is the one of the given items that this shopper wants most, `chance` that the next is any of them."""
_DIGITS = 4
_scorer: "Scorer | None" = None


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


def audience(
    *,
    content: Path,
    users: Sequence[str],
    histories: Histories,
    items: Sequence[str],
    top: int,
    owners: bool | None = None,
    processes: int = 1,
    part: int = SHOPPERS,
) -> Audience:
    """The `top` of `users` who most likely want one of `items` next, by the unpacked archive `content`.

    `owners` says whether who has one of them already is asked too; left out, where the shop sells things that are
    bought again. Raises `InputError` for an item that the model does not know.
    """
    contract = json.loads((content / "serving.json").read_text())
    known = set(json.loads((content / "items.json").read_text())["item_id"])
    if strange := [item for item in items if item not in known]:
        raise InputError(f"--item: found {strange[0]!r}, expected an item of the catalogue that serves")
    if "ranking" not in contract.get("placements", ()):
        raise InputError(
            "the champion was packaged before items could be ranked: `python -m pipelines catalogue` first"
        )
    looked_at = frozenset(each["name"] for each in contract.get("event_types", ()) if not each["predict"])
    kept = not contract["exclude_seen"] if owners is None else owners
    listed = sorted(set(users))
    parts = [listed[first : first + part] for first in range(0, len(listed), part)]
    about = (histories, tuple(dict.fromkeys(items)), top, int(contract["max_k"]), kept, looked_at)
    found: list[Audience] = []
    if processes == 1 or len(parts) < 2:
        _load(content)
        found = [_best(users, *about) for users in parts]
    else:
        with ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_load, initargs=(content,)
        ) as workers:
            found = [each.result() for each in as_completed([workers.submit(_best, each, *about) for each in parts])]
    return Audience(
        best=_first(top, (each for some in found for each in some.best)),
        shoppers=len(listed),
        unknown=sum(each.unknown for each in found),
        owners=sum(each.owners for each in found),
    )


def _load(content: Path) -> None:
    import torch

    from serving.scoring.scorer import Scorer

    global _scorer
    torch.set_num_threads(1)  # a core for each process
    _scorer = Scorer.load(content)


def _best(
    users: Sequence[str],
    histories: Histories,
    items: tuple[str, ...],
    top: int,
    most: int,
    kept: bool,
    looked_at: frozenset[str],
) -> Audience:
    """Of some shoppers, in a process that has loaded the scorer."""
    assert _scorer is not None, "loaded when the process began"
    asked: list[dict[str, Any]] = [
        {"placement": "ranking", "items": list(items), "exclude_seen": False},
        {"k": most, "exclude_seen": False},
    ]
    unknown, owners, wanting = 0, 0, list[Wanting]()
    for user, history, (given, whole) in answers(_scorer, users, histories, asked):
        if "fallback" in whole:
            unknown += 1
            continue
        own = {event["item_id"] for event in history if event.get("event_type") not in looked_at}
        if not own.isdisjoint(items):
            owners += 1
            if not kept:
                continue
        score = {item["item_id"]: item["score"] for item in given["items"]}
        best = max(score, key=lambda item: (score[item], item))
        wanting.append(Wanting(_chance(score, whole["items"]), user, best))
    return Audience(best=_first(top, wanting), shoppers=len(users), unknown=unknown, owners=owners)


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
    """`audience` by the champion of the data set `name`, written to `out`; and the champion's version."""
    if out.suffix not in (".parquet", ".csv"):
        raise InputError(f"--out {out}: expected a file whose name ends with .parquet or .csv")
    with champion_of(name) as champion:
        found = audience(
            content=champion.content,
            users=champion.users,
            histories=champion.histories,
            items=items,
            top=top,
            owners=owners,
            processes=processes,
        )
    write(found, out)
    return found, champion.version
