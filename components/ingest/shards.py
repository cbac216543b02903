"""What each machine of a Spark ingest does: read some parts of the source, judge some users' rows, write some days.

Blocks are Arrow streams. A row's number carries its part in front, so that rows come in the order of the whole source
wherever they are; it is taken off once they were judged.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from components.ingest import tables
from components.ingest.erase import erase, list_gone
from components.ingest.increment import IngestPlan, counts_by_part
from components.ingest.parse import Given, columns_of_interactions, user
from components.ingest.row_validation import (
    agreement,
    keep,
    number_each_part,
    rejected_sql,
)
from components.ingest.sources import files
from components.ingest.step import judge_interactions, set_zone
from components.ingest.write import write_days, write_file
from feature_repo.card import DatasetCard
from runtime.files import replacing
from runtime.sql import literal, session

PART = 2**40
"""More rows than a part has: the number of a row is its part's place times this, and its place in the part."""
BLOCK_ROWS = 50_000
Block = tuple[int, tuple[Literal["rows", "lines"], bytes]]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What every machine is told."""

    card: DatasetCard
    parts: tuple[str, ...]
    """Paths of the files below the folder, in order; one empty name for a single file."""
    given: tuple[Given, ...]
    latest: str
    """SQL: what comes after it is bad."""
    gone: tuple[tuple[str, int], ...]
    """Digests of users who asked to be deleted, and until when their events go."""
    aside: Path
    """Where machines leave what is told, and the rows that were set aside."""
    interactions: Path
    shards: int


@contextmanager
def opened(card: DatasetCard) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB as `step` has it, in the zone of the card's times."""
    with session() as connection:
        connection.execute("SET asof_loop_join_threshold = 0; SET arrow_lossless_conversion = true")
        set_zone(connection, card)
        yield connection


def read_some(names: Iterable[str], asked: ShardTask) -> Iterator[Block]:
    """The rows of some parts, each by the shard that judges its user's rows; a row of nobody goes with its likes."""
    listed = list(names)
    if not listed:
        return
    with opened(asked.card) as connection:
        only = listed if asked.parts != ("",) else None
        source = files.interactions_of(asked.card, connection, only)
        given = keep(connection, "interactions", source, whole=False)
        assert tuple(given.values()) == asked.given, "what type a column has is a matter of all parts"
        connection.execute("ALTER TABLE raw_interactions RENAME TO judged_interactions")
        number_each_part(connection, "interactions")
        who = user(given[asked.card.columns.user_id], ()).value
        like = ", ".join(each.sql for each in asked.given)
        place = _place(asked)
        for kind, query in {
            "rows": f"SELECT hash(CASE WHEN {who} IS NULL THEN hash({like}) ELSE hash({who}) END) % {asked.shards} AS "
            f"shard, {place} + row AS row, {like}, origin FROM judged_interactions",
            "lines": f"SELECT 0 AS shard, {place} + row AS row, line, origin FROM lines_interactions",
        }.items():
            for shard, block in _blocks(connection, f"FROM ({query}) ORDER BY shard", "shard"):
                yield shard, ("lines" if kind == "lines" else "rows", block)


def judged(shard: int, blocks: Iterable[Block], asked: ShardTask) -> Iterator[tuple[int, bytes]]:
    """Of the rows of some users those that were accepted, by day (since 1970); the others, and what is to be told of
    all of them, go to `aside`."""
    card = asked.card
    with opened(card) as connection:
        columns = ", ".join(f"{each.sql} {each.kind}" for each in asked.given)
        connection.execute(f"CREATE TEMP TABLE raw_interactions (row BIGINT, {columns}, origin VARCHAR)")
        connection.execute("CREATE TEMP TABLE lines_interactions (row BIGINT, line VARCHAR, origin VARCHAR)")
        for _, (kind, block) in blocks:
            _insert(connection, "raw_interactions" if kind == "rows" else "lines_interactions", block)
        given = {each.name: each for each in asked.given}
        read = columns_of_interactions(card, given, latest=asked.latest, all_features=False)
        judge_interactions(connection, card, given, read, reject={})
        told = {each.name: agreement(connection, "interactions", each) for each in read if each.unreadable}
        for table in ("judged_interactions", "lines_interactions"):
            connection.execute(f"UPDATE {table} SET row = row % {PART}")
        connection.execute("SET TimeZone = 'UTC'")
        list_gone(connection, card, None, stored=False)
        if asked.gone:
            connection.executemany("INSERT INTO forgotten VALUES (?, ?)", list(asked.gone))
        erased = erase(connection, card)
        rejected = rejected_sql("interactions", asked.given, keep_lines=not asked.gone)
        _whole(asked.aside / f"{shard}.parquet", lambda path: write_file(connection, rejected, tables.REJECTED, path))
        plan = IngestPlan(basis="", parts={}, previous=None, before=None, as_of=None)
        answer = {"agreement": told, "counts": counts_by_part(connection, plan), **erased}
        _whole(asked.aside / f"{shard}.json", lambda path: path.write_text(json.dumps(answer)))
        accepted = tables.accepted_sql(card, has_items=True)
        day = "date_diff('day', DATE '1970-01-01', event_time::DATE) AS day"
        yield from _blocks(connection, f"SELECT *, {day} FROM ({accepted}) ORDER BY day", "day")


def written(number: int, blocks: Iterable[tuple[int, bytes]], asked: ShardTask) -> Iterator[int]:
    """Write some days as `step` does; how many they were."""
    with opened(asked.card) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        empty = tables.schema_of_interactions(asked.card).empty_table()
        connection.register("empty", empty)
        connection.execute("CREATE TEMP TABLE accepted AS FROM empty")
        for _, block in blocks:
            _insert(connection, "accepted", block)
        root = asked.aside / f"days-{number}"
        shutil.rmtree(root, ignore_errors=True)  # of an attempt that was lost
        query = tables.interactions_sql(asked.card)
        yield write_days(connection, query, tables.schema_of_interactions(asked.card), root)
        for folder in sorted(root.iterdir()):
            target = asked.interactions / folder.name
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)


def _place(asked: ShardTask) -> str:
    if asked.parts == ("",):
        return "0"
    parts = ", ".join(map(literal, asked.parts))
    return f"(list_position([{parts}], origin) - 1)::BIGINT * {PART}"


def _blocks(connection: duckdb.DuckDBPyConnection, query: str, by: str) -> Iterator[tuple[int, bytes]]:
    """The rows of `query`, which come in order of the number `by`, in blocks of one number each, without it."""
    for batch in connection.execute(query).to_arrow_reader(BLOCK_ROWS):
        table = pa.Table.from_batches([batch])
        numbers = table[by].to_pylist()
        rest, start = table.drop_columns([by]), 0
        for end in range(1, len(numbers) + 1):
            if end == len(numbers) or numbers[end] != numbers[start]:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, rest.schema) as stream:
                    stream.write_table(rest.slice(start, end - start))
                yield int(numbers[start]), sink.getvalue().to_pybytes()
                start = end


def _insert(connection: duckdb.DuckDBPyConnection, table: str, block: bytes) -> None:
    rows = pa.ipc.open_stream(block).read_all()
    connection.register("block", rows)
    connection.execute(f"INSERT INTO {table} BY NAME FROM block")
    connection.unregister("block")


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    with replacing(path) as partial:
        write(partial)
