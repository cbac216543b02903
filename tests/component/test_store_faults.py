"""Stores that are damaged, locked, gone or full: one clear error, nothing half applied, and the next run repairs."""

import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from components.features import step as features
from components.ingest.latest import ingest
from components.materialise import step as materialise
from feature_repo.faults import Unavailable
from feature_repo.online import online, user_history
from feature_repo.store import connect
from runtime import workspace
from runtime.errors import InputError
from runtime.task import Task
from tests.component.ingest_cards import INTERACTIONS, ITEMS
from tests.component.ingest_cards import make_card as csv_card
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)

CARD = make_card()


@pytest.fixture
def shop(tmp_path):
    """A folder with everything that materialise needs; gives a function that does it."""
    events = write_events(
        tmp_path / "events",
        CARD,
        [event("u", "a", at(1)), event("v", "a", at(2))],
        [item("a")],
        [change("a", at(0), 1.0)],
    )
    inputs = {
        "card": CARD, "events": events, "facts": write_facts(tmp_path / "facts", at(2)),
        "sequences": tmp_path / "sequences", "feast_root": tmp_path / "feast",
    }  # fmt: skip
    features.run(**{**inputs, "feast_root": tmp_path / "scratch"})
    return lambda: materialise.run(**inputs, materialised=tmp_path / "materialised")


def price(root: Path) -> float:
    return online(connect("tiny", root / "feast"), ["item_varying:price"], [{"item_id": "a"}])["price"][0]


def test_a_damaged_registry_is_told_and_the_next_run_writes_it_anew(shop, tmp_path):
    shop()
    registry = tmp_path / "feast" / "registry.db"
    registry.write_bytes(registry.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"registry\.db: the feature registry cannot be read .*python -m pipelines"):
        connect("tiny", tmp_path / "feast")
    shop()
    assert price(tmp_path) == 1.0
    assert (tmp_path / "feast" / "registry.db.damaged").exists()


def test_a_locked_online_store_is_told_and_reads_go_on(shop, tmp_path):
    shop()
    with sqlite3.connect(tmp_path / "feast" / "online.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"online store of 'tiny': OperationalError: database is locked.*again"):
            shop()
        assert price(tmp_path) == 1.0
    assert shop()["checked_users"] == 2


def test_redis_that_is_gone_is_told_when_reading_and_when_writing(shop, tmp_path, redis_server, monkeypatch):
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
    monkeypatch.setenv("REDIS_ADDRESS", redis_server.address)
    shop()
    redis_server.stop()
    for call in (lambda: price(tmp_path), lambda: user_history(connect("tiny", tmp_path / "feast"), "u"), shop):
        with pytest.raises(Unavailable, match="online store of 'tiny': ConnectionError"):
            call()
    redis_server.start()
    shop()
    assert (price(tmp_path), len(user_history(connect("tiny", tmp_path / "feast"), "u"))) == (1.0, 1)


def test_a_registry_in_a_database_serves_readers_and_says_when_it_is_gone(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "sql_registry")
    monkeypatch.setenv("FEAST_REGISTRY_URL", f"sqlite:///{tmp_path}/registry-of-all.db")
    shop()
    assert price(tmp_path) == 1.0
    assert not (tmp_path / "feast" / "registry.db").exists()
    store = connect("tiny", tmp_path / "feast")
    assert store.get_feature_view("item_static").features[0].name == "brand"
    assert store.get_feature_view("item_varying").features[0].tags["kind"] == "numeric"


def test_a_key_that_is_no_utf8_is_told_with_its_file(tmp_path):
    card = csv_card(tmp_path)
    head, stray = b"user_id,item_id,event_time\n", b"caf\xe9,x,2025-03-01\n"
    whole = b"u,x,2025-03-01\nv,x,2025-03-01\n"
    from components.ingest import step

    for number, (lines, refused) in enumerate((((head + whole + stray), False), ((head + stray + whole), True))):
        card.source.interactions.write_bytes(lines)
        (tmp_path / f"events-{number}").mkdir()
        if refused:  # from its first lines on it is written in something else
            with pytest.raises(InputError, match=r"interactions.csv: is not UTF-8. .*`encoding: latin-1`"):
                step.run(card=card, events=tmp_path / f"events-{number}")
        else:
            report = step.run(card=card, events=tmp_path / f"events-{number}")
            assert report["reasons"] == {"malformed_line": 1} and report["accepted"] == 2


def test_a_full_disk_leaves_no_artifact_and_the_next_ingest_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    many = {name: column * 4000 for name, column in INTERACTIONS.items()}
    many["event_time"] = [f"2025-03-0{1 + n % 2}T{n % 24:02d}:{n % 60:02d}:{n % 59:02d}Z" for n in range(12_000)]
    many["user_id"] = [f"user-{n}" for n in range(12_000)]
    card = csv_card(tmp_path, many, ITEMS)

    def run(run_id: str) -> dict:
        return ingest(
            Task("ingest", run_id=run_id, module="components.ingest.step"), tmp_path / run_id, card=card, as_of=""
        )

    child = os.fork()
    if child == 0:
        # No file may grow beyond 20 kB: what a full disk does, to this process alone.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            run("full")
        except BaseException as error:
            os._exit(7 if "File too large" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stored = workspace.artifacts() / "events"
    assert [path for path in stored.glob("*") if not path.name.startswith(".")] == []
    assert not workspace.latest_events("tiny").exists()
    assert run("room")["accepted"] == 12_000
