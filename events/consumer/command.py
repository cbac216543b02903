"""`python -m serving consumer`: the consumer of the event log as a process of its own."""

import argparse
import logging
import os
import signal
import sqlite3
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.card import DatasetCard, load_card
from feature_repo.forgotten import Forgotten
from runtime import clocks, workspace
from runtime.errors import InputError

if TYPE_CHECKING:
    from events.consumer.consumer import Consumer
    from events.consumer.metrics import ConsumerMetrics

PORT = "HETERREC_CONSUMER_METRICS_PORT"
_RETRY_SECONDS = 1.0
_logger = logging.getLogger(__name__)


def run(options: argparse.Namespace, *, clock: clocks.Clock = clocks.now) -> int:
    """Follow the log until Ctrl-C or SIGTERM; beside another consumer of the same log, wait to take its place."""
    from events.consumer.consumer import Busy
    from events.consumer.metrics import ConsumerMetrics, MetricsServer
    from events.consumer.state import StateDamaged

    card = load_card(options.dataset)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    consumer = consumer_of(card, metrics := ConsumerMetrics(), flush_seconds=options.flush_seconds, clock=clock)
    server = MetricsServer(
        metrics, options.host, options.metrics_port, lambda: "; ".join(consumer.problems.values()) or None
    )
    try:
        print(f"metrics of the consumer of {card.name} at http://{options.host}:{server.port}/metrics", flush=True)
        told = ""
        while not stop.is_set():
            try:
                with consumer:
                    print(f"following {workspace.event_log(card.name)} (Ctrl-C ends it)", flush=True)
                    consumer.run(stop.is_set)
            except (StateDamaged, sqlite3.DatabaseError) as error:
                told = _log_once(f"{error}; the state is opened again", told)
                stop.wait(_RETRY_SECONDS)
            except Busy as error:
                told = _log_once(f"{error}; waiting to take its place", told)
                stop.wait(_RETRY_SECONDS)
    finally:
        server.close()
    return 0


def _log_once(what: str, before: str) -> str:
    if what != before:
        _logger.warning("%s", what)
    return what


def consumer_of(
    card: DatasetCard, metrics: "ConsumerMetrics", *, flush_seconds: float = 30.0, clock: clocks.Clock = clocks.now
) -> "Consumer":
    """The consumer of the card's log in the workspace. Raises `InputError` where the feature store was never filled."""
    from events.consumer.attribution import Identity
    from events.consumer.consumer import Consumer
    from events.consumer.online import OnlineHistories
    from events.stream import Stream
    from feature_repo.feast_import import FeatureStore
    from feature_repo.store import connect

    days, redis = card.limits.retention_days, workspace.event_log_redis()

    def store() -> FeatureStore:
        return connect(card.name, workspace.feature_store(card.name))

    try:
        online = OnlineHistories(
            store,
            forgotten=Forgotten(workspace.forgotten(card.name)),
            retention=None if days is None else timedelta(days=days),
            clock=clock,
        )
    except Exception as error:  # whatever the registry raises that nothing was applied to
        cause = " ".join(str(error).split())  # a database tells in several lines
        raise InputError(
            f"{card.name}: the feature store cannot be opened ({type(error).__name__}: {cause}). Was it filled? "
            f"`make run DATASET={card.name}` does."
        ) from error
    return Consumer(
        workspace.event_log(card.name),
        workspace.exposures(card.name),
        online,
        kinds=changing_kinds(card),
        identity=Identity(
            typed=card.columns.event_type is not None,
            nobody=tuple(card.columns.nobody),
            negative=frozenset(name for name, each in (card.events or {}).items() if each.negative),
        ),
        stream=None if redis is None else lambda known: Stream(redis, card.name, known=known),
        metrics=metrics,
        flush_seconds=flush_seconds,
        clock=clock,
    )


def changing_kinds(card: DatasetCard) -> list[str]:
    """Types of outcomes that change histories: none that a history of several kinds has not in training."""
    known = card.history_types if card.typed else None
    return [name for name in card.event_log.interactions if known is None or name in known]


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `consumer` to a command line."""
    consumer = commands.add_parser(
        "consumer", help="brings what shoppers do into their histories and into the data of the next run, until Ctrl-C"
    )
    consumer.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    consumer.add_argument("--host", default="127.0.0.1", help="address of the metrics (default: %(default)s)")
    consumer.add_argument(
        "--metrics-port",
        type=int,
        default=int(os.environ.get(PORT, 9200)),
        help="0 for a free one (default: %(default)s)",
    )
    consumer.add_argument(
        "--flush-seconds", type=float, default=30.0, help="between writings of day partitions (default: %(default)s)"
    )
    consumer.set_defaults(command=run)
