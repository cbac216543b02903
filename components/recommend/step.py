"""Recommendations for all shoppers at once, as the champion would answer each of them now.

The scorer, the archive, the histories and what comes after a ranking are those of a request, so that a list is what
the gateway would show: by the champion, by the shop's rules and stock of when it was begun, and nothing explored.
Written are parts of so many shoppers, each whole or not at all: what was killed goes on from the parts that there are.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.recommend import parts
from components.recommend.champion import HistorySource, OpenedChampion, champion_of
from components.recommend.parts import SHOPPERS, CrowdPlan, OtherLists, users_digest
from components.recommend.shown import Showing, Wanted
from runtime.errors import InputError
from runtime.files import digest_file, replace_text

if TYPE_CHECKING:
    from serving.gateway.after.showing import Items
    from serving.scoring.scorer import Scorer

SCHEMA = 2
AT_ONCE = 256
"""Shoppers that the scorer is asked about in one call."""
REPORT = "report.json"
ROWS = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("by", pa.string()),
    ]
)
"""`by` is model, popular for a shopper whose history holds no item of the catalogue, or holdout for one who is held out
of all models; `score` is null for what a rule put there, unranked."""
_scorer: "Scorer | None" = None
_showing: Showing | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlan(CrowdPlan):
    """What a folder of recommendations is of."""

    k: int
    filters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What is in the folder, and how many parts of it an earlier run had left."""

    plan: BatchPlan
    rows: int
    found: int
    problems: Sequence[str]
    """Rules that the archive cannot follow: they are left out."""


def recommend(
    *,
    content: Path,
    model: str,
    version: str,
    archive_digest: str,
    users: Sequence[str],
    histories: HistorySource,
    k: int,
    out: Path,
    wanted: Wanted | None = None,
    filters: Mapping[str, Any] | None = None,
    processes: int = 1,
    part: int = SHOPPERS,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Done:
    """Write the `k` best items of each of `users` into the folder `out`; goes on where a run was killed.

    `content` is the unpacked archive, `wanted` what the shop wants shown (nothing in particular), `filters` those of a
    request. `out` gets plan.json, wanted.json, users.parquet, recommendations/part-*.parquet (`ROWS`, by user and rank)
    and, last, report.json. `told` hears of each part. Raises `InputError` where `out` holds something else, or the
    archive or the scorer refuses what is asked.
    """
    most = int(json.loads((content / "serving.json").read_text())["max_k"])
    if k > most:
        raise InputError(f"k: found {k}, expected at most {most}: what this model answers in one request")
    listed = sorted(set(users))
    plan = BatchPlan(
        schema=SCHEMA,
        model=model,
        version=version,
        archive_digest=archive_digest,
        k=k,
        filters=dict(filters or {}),
        shoppers=len(listed),
        users_digest=users_digest(listed),
        part=part,
    )
    wanted = wanted or Wanted()
    problems = Showing(content, wanted, k=k, filters=plan.filters).problems  # before a folder is begun
    wanted = parts.begin(out, plan, listed, wanted)
    missing = parts.missing(out, plan, ROWS)
    found = plan.parts - len(missing)
    told(found, plan.parts)
    making = parts.made(_load, (content, wanted, plan), _part, (out, plan, histories), missing, processes)
    for number, _ in enumerate(making, start=1):
        told(found + number, plan.parts)
    parts.sweep(out)
    paths = [parts.part_of(out, number) for number in range(plan.parts)]
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    digests = {path.name: digest_file(path) for path in paths}
    report = {**asdict(plan), "rows": rows, "digests": digests, "problems": problems}
    replace_text(out / REPORT, json.dumps(report, indent=1))
    return Done(plan=plan, rows=rows, found=found, problems=problems)


def _load(content: Path, wanted: Wanted, plan: BatchPlan) -> None:
    import torch

    from serving.scoring.scorer import Scorer

    global _scorer, _showing
    torch.set_num_threads(1)  # a core for each process
    _scorer = Scorer.load(content)
    _showing = Showing(content, wanted, k=plan.k, filters=plan.filters)


def _part(out: Path, plan: BatchPlan, histories: HistorySource, number: int) -> None:
    assert _scorer is not None and _showing is not None, "loaded when the process began"
    columns = asyncio.run(_columns(_scorer, _showing, parts.users_of(out, plan, number), histories))
    parts.write(out, number, pa.table(columns, schema=ROWS))


async def _columns(
    scorer: "Scorer", showing: Showing, users: Sequence[str], histories: HistorySource
) -> dict[str, list[Any]]:
    """`ROWS` of these shoppers."""
    columns: dict[str, list[Any]] = {name: [] for name in ROWS.names}
    shown = histories.impressions(users) if showing.fatigue is not None else [{} for _ in users]
    found = zip(answers(scorer, users, histories, [showing.asked]), shown, strict=True)
    for (user, history, (answer,)), impressions in found:

        async def rank(more: dict[str, Any], user: str = user) -> "Items":
            ((_, _, (another,)),) = answers(scorer, [user], histories, [more])
            items: Items = another["items"]
            return items

        items, by = await showing.list(user, history, answer, impressions, rank)
        columns["user_id"] += [user] * len(items)
        columns["rank"] += range(1, len(items) + 1)
        columns["item_id"] += [item["item_id"] for item in items]
        columns["score"] += [item["score"] for item in items]
        columns["by"] += [by] * len(items)
    return columns


def answers(
    scorer: "Scorer", users: Sequence[str], histories: HistorySource, asked: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Of each shopper the history, and the answers to requests with it and each of the fields `asked`."""
    names = scorer.asking.get("user_features", ())
    for first in range(0, len(users), AT_ONCE):
        some = users[first : first + AT_ONCE]
        of_user = histories(some)
        known: list[dict[str, Any]] = [{} for _ in some]
        if names:
            known = [
                {"user_features": {name: value for name, value in each.items() if name in names}}
                for each in histories.features(some)
            ]
        requests = [
            {"user_id": user, "history": of_user[user], **more, **fields}
            for user, more in zip(some, known, strict=True)
            for fields in asked
        ]
        found = scorer.score(requests)
        for number, user in enumerate(some):
            mine = found[number * len(asked) : (number + 1) * len(asked)]
            for answer in mine:
                if "error" in answer:
                    raise InputError(f"{user!r}: the model refuses what is asked: {answer['error']}")
            yield user, of_user[user], mine


def of_champion(
    name: str,
    *,
    k: int,
    out: Path,
    processes: int,
    filters: Mapping[str, Any] | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Done:
    """`recommend` by the champion of the data set `name`, for the shoppers whom the last run or refresh found."""
    with champion_of(name) as champion:
        return recommend(**asked_of(champion), k=k, out=out, filters=filters, processes=processes, told=told)


def asked_of(champion: OpenedChampion) -> dict[str, Any]:
    return {each.name: getattr(champion, each.name) for each in fields(champion)}


def run(*, model: str, k: int, processes: int, lists: Path, scratch: Path) -> dict[str, Any]:
    """`recommend` by the champion of `model` into the empty folder `lists`; the report, with what it took over.

    Parts are made in `scratch`, where an attempt that was killed has left those that it had; what was begun by another
    champion, or for other shoppers, is begun anew.
    """
    with champion_of(model) as champion:
        making = scratch / "lists"
        try:
            done = recommend(**asked_of(champion), k=k, out=making, processes=processes)
        except OtherLists:
            shutil.rmtree(making)
            done = recommend(**asked_of(champion), k=k, out=making, processes=processes)
    shutil.copytree(making, lists, dirs_exist_ok=True)
    plan = done.plan
    return {"model": model, "version": plan.version, "k": k, "shoppers": plan.shoppers, "rows": done.rows,
            "parts": plan.parts, "parts_found": done.found}  # fmt: skip
