"""Recommendations for all shoppers at once, as the champion would answer each of them now.

The scorer, the archive, the histories and what comes after a ranking are those of a request, so that a list is what
the gateway would show: by the champion, by the shop's rules and stock of when it was begun, and nothing explored.
Written are parts of so many shoppers, each whole or not at all: what was killed goes on from the parts that there are.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.recommend.champion import Champion, Histories, champion_of
from components.recommend.shown import Showing, Wanted
from runtime.errors import InputError
from runtime.files import digest_file, replace_text, replacing

if TYPE_CHECKING:
    from serving.gateway.after.showing import Items
    from serving.scoring.scorer import Scorer

SCHEMA = 2
SHOPPERS = 2048
"""In a part: what is lost at most where a run is killed, and what bounds its memory."""
AT_ONCE = 256
"""Shoppers that the scorer is asked about in one call."""
PLAN, USERS, REPORT, PARTS = "plan.json", "users.parquet", "report.json", "recommendations"
WANTED = "wanted.json"
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


class OtherLists(InputError):
    """The folder holds lists of another model, question or crowd."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder of recommendations is of: one that goes on must be of the same."""

    schema: int
    model: str
    version: str
    archive_digest: str
    k: int
    filters: Mapping[str, Any]
    shoppers: int
    users_digest: str
    part: int

    @property
    def parts(self) -> int:
        return -(-self.shoppers // self.part)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What is in the folder, and how many parts of it an earlier run had left."""

    plan: Plan
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
    histories: Histories,
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
    plan = Plan(
        schema=SCHEMA,
        model=model,
        version=version,
        archive_digest=archive_digest,
        k=k,
        filters=dict(filters or {}),
        shoppers=len(listed),
        users_digest=hashlib.sha256("\0".join(listed).encode()).hexdigest(),
        part=part,
    )
    wanted = wanted or Wanted()
    problems = Showing(content, wanted, k=k, filters=plan.filters).problems  # before a folder is begun
    wanted = _open(out, plan, listed, wanted)
    missing = [number for number in range(plan.parts) if not _whole(out, number)]
    found = plan.parts - len(missing)
    told(found, plan.parts)
    for number, _ in enumerate(_made(content, wanted, histories, out, plan, missing, processes), start=1):
        told(found + number, plan.parts)
    for left in (out / PARTS).glob(".part-*"):  # of runs that were killed
        left.unlink()
    rows = sum(pq.read_metadata(_path(out, number)).num_rows for number in range(plan.parts))
    digests = {_path(out, number).name: digest_file(_path(out, number)) for number in range(plan.parts)}
    _write_json(out / REPORT, {**asdict(plan), "rows": rows, "digests": digests, "problems": problems})
    return Done(plan=plan, rows=rows, found=found, problems=problems)


def _open(out: Path, plan: Plan, users: list[str], wanted: Wanted) -> Wanted:
    """Begin the folder, or go on with it; what is wanted shown in all of it."""
    if (out / PLAN).is_file():
        before = json.loads((out / PLAN).read_text())
        differing = [name for name, value in asdict(plan).items() if before.get(name) != value]
        if differing:
            name = differing[0]
            raise OtherLists(
                f"{out}: was begun with {name} {before.get(name)!r}, and now it is {asdict(plan)[name]!r}; name a new "
                "folder, or remove this one"
            )
        return Wanted.read(out / WANTED)
    if out.exists() and any(path for path in out.iterdir() if path.name not in (USERS, WANTED)):
        raise InputError(f"{out}: is not empty and holds no {PLAN}; name a new folder")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    with replacing(out / USERS) as partial:
        pq.write_table(pa.table({"user_id": pa.array(users, pa.string())}), partial)
    wanted.write(out / WANTED)
    _write_json(out / PLAN, asdict(plan))  # last: who finds it goes on
    return wanted


def _made(
    content: Path,
    wanted: Wanted,
    histories: Histories,
    out: Path,
    plan: Plan,
    missing: list[int],
    processes: int,
) -> Iterator[None]:
    """Make the missing parts, in as many processes; whoever is killed leaves no half of one."""
    about = (out, plan, histories)
    opened = content, wanted, plan
    if processes == 1 or len(missing) < 2:
        _load(*opened)
        for number in missing:
            _part(*about, number)
            yield
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_load, initargs=opened) as workers:
        for each in as_completed([workers.submit(_part, *about, number) for number in missing]):
            each.result()
            yield


def _load(content: Path, wanted: Wanted, plan: Plan) -> None:
    import torch

    from serving.scoring.scorer import Scorer

    global _scorer, _showing
    torch.set_num_threads(1)  # a core for each process
    _scorer = Scorer.load(content)
    _showing = Showing(content, wanted, k=plan.k, filters=plan.filters)


def _part(out: Path, plan: Plan, histories: Histories, number: int) -> None:
    assert _scorer is not None and _showing is not None, "loaded when the process began"
    users = pq.read_table(out / USERS)["user_id"].slice(number * plan.part, plan.part).to_pylist()
    columns = asyncio.run(_columns(_scorer, _showing, users, histories))
    path = _path(out, number)
    with replacing(path) as partial:
        pq.write_table(pa.table(columns, schema=ROWS), partial, compression="zstd")


async def _columns(
    scorer: "Scorer", showing: Showing, users: Sequence[str], histories: Histories
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
    scorer: "Scorer", users: Sequence[str], histories: Histories, asked: Sequence[dict[str, Any]]
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


def _whole(out: Path, number: int) -> bool:
    """Whether the part is there: its name comes with its whole content, so it is enough that it can be opened."""
    path = _path(out, number)
    if not path.is_file():
        return False
    try:
        return bool(pq.read_schema(path).equals(ROWS))
    except pa.ArrowInvalid:
        return False  # damaged since: it is made anew


def _path(out: Path, number: int) -> Path:
    return out / PARTS / f"part-{number:05}.parquet"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_text(path, json.dumps(content, indent=1))


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


def asked_of(champion: Champion) -> dict[str, Any]:
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
