"""Work over many shoppers in parts, each whole or not at all: what was killed goes on from the parts that there are.

A folder is of one plan: plan.json says of what, users.parquet who, wanted.json what the shop wanted when it was begun,
and recommendations/part-*.parquet are what was made of so many shoppers each.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.recommend.shown import Wanted
from runtime.errors import InputError
from runtime.files import replace_text, replacing

SHOPPERS = 2048
"""In a part: what is lost at most where a run is killed, and what bounds its memory."""
PLAN, USERS, PARTS = "plan.json", "users.parquet", "recommendations"
WANTED = "wanted.json"
_PARTIAL = ".partial-"
"""How a file that `replacing` has not finished is called."""


class OtherLists(InputError):
    """The folder holds lists of another model, question or crowd."""


@dataclass(frozen=True, kw_only=True)
class CrowdPlan:
    """Whom a folder is of, by what: one that goes on must be of the same. Who asks for more has a plan with more."""

    schema: int
    model: str
    version: str
    archive_digest: str
    shoppers: int
    users_digest: str
    part: int

    @property
    def parts(self) -> int:
        return -(-self.shoppers // self.part)


def users_digest(users: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(users).encode()).hexdigest()


def begin(out: Path, plan: CrowdPlan, users: Sequence[str], wanted: Wanted) -> Wanted:
    """Begin the folder, or go on with it; what is wanted shown in all of it. Raises `OtherLists` where it was begun by
    another plan, `InputError` where it holds other things."""
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
    if out.exists() and not all(_left_by_a_kill(path) for path in out.iterdir()):
        raise InputError(f"{out}: is not empty and holds no {PLAN}; name a new folder")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    with replacing(out / USERS) as partial:
        pq.write_table(pa.table({"user_id": pa.array(users, pa.string())}), partial)
    wanted.write(out / WANTED)
    replace_text(out / PLAN, json.dumps(asdict(plan), indent=1))  # last: who finds it goes on
    return wanted


def _left_by_a_kill(path: Path) -> bool:
    """Whether it is there where a folder was begun, and not to its end."""
    empty = path.name == PARTS and not any(path.iterdir())
    return empty or path.name in (USERS, WANTED) or path.name.startswith(_PARTIAL)


def missing(out: Path, plan: CrowdPlan, rows: pa.Schema) -> list[int]:
    """The parts that are still to be made, of these columns."""
    return [number for number in range(plan.parts) if not _whole(part_of(out, number), rows)]


def made(
    load: Callable[..., None], opened: Sequence[Any], make: Callable[..., None], about: Sequence[Any],
    numbers: Sequence[int], processes: int,
) -> Iterator[None]:  # fmt: skip
    """`make(*about, number)` of each number, in as many processes, each of which has run `load(*opened)` once; whoever
    is killed leaves no half of a part."""
    if processes == 1 or len(numbers) < 2:
        load(*opened)
        for number in numbers:
            make(*about, number)
            yield
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=load, initargs=tuple(opened)
    ) as workers:
        for each in as_completed([workers.submit(make, *about, number) for number in numbers]):
            each.result()
            yield


def users_of(out: Path, plan: CrowdPlan, number: int) -> list[str]:
    """The shoppers of a part."""
    found: list[str] = pq.read_table(out / USERS)["user_id"].slice(number * plan.part, plan.part).to_pylist()
    return found


def write(out: Path, number: int, table: pa.Table) -> None:
    with replacing(part_of(out, number)) as partial:
        pq.write_table(table, partial, compression="zstd")


def sweep(out: Path) -> None:
    """Remove what runs that were killed have left of parts."""
    for left in (*out.glob(f"{_PARTIAL}*"), *(out / PARTS).glob(f"{_PARTIAL}*")):
        left.unlink()


def part_of(out: Path, number: int) -> Path:
    return out / PARTS / f"part-{number:05}.parquet"


def _whole(path: Path, rows: pa.Schema) -> bool:
    """Whether the part is there: its name comes with its whole content, so it is enough that it can be opened."""
    if not path.is_file():
        return False
    try:
        return bool(pq.read_schema(path).equals(rows))
    except pa.ArrowInvalid:
        return False  # damaged since: it is made anew
