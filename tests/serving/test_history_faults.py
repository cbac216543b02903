"""Histories while their store is away, locked, full or damaged: it is told, and nothing is lost."""

import sqlite3
import time
from datetime import timedelta

import pytest

from events.consumer.histories import _entity
from feature_repo.faults import Unavailable
from feature_repo.feast_import import ValueProto
from tests.serving.history_shop import NOW, Shop, event


def test_redis_that_is_gone_is_told_at_once_and_nothing_is_lost_when_it_is_back(on_redis, tmp_path):
    shop = Shop(tmp_path)
    shop.apply()
    writer = shop.writer()
    writer.append([event("u", 1)])
    on_redis.stop()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"online store of 'tiny'.*deliver the same events again"):
        writer.append([event("u", 2)])
    assert time.monotonic() - started < 3
    on_redis.start()
    writer.append([event("u", 1), event("u", 2)])
    assert shop.items("u") == ["i1", "i2"]


def test_a_locked_database_is_told_and_nothing_is_lost(tmp_path):
    shop = Shop(tmp_path)
    shop.apply()
    writer = shop.writer()
    writer.append([event("u", 1)])
    writer._provider.online_store._conn.execute("PRAGMA busy_timeout = 50")
    with sqlite3.connect(tmp_path / "feast" / "online.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="database is locked"):
            writer.append([event("u", 2)])
    assert writer.append([event("u", 2)]).added == 1
    assert shop.items("u") == ["i1", "i2"]


def test_a_full_disk_is_told_and_the_history_is_as_before(tmp_path):
    shop = Shop(tmp_path)
    shop.apply()
    writer = shop.writer()
    writer.append([event("u", 1)])
    connection = writer._provider.online_store._conn
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="full"):
        writer.append([event(f"u{n}", number) for n in range(9) for number in range(200)])
    connection.execute("PRAGMA max_page_count = 1000000")
    assert shop.items("u") == ["i1"]
    writer.append([event(f"u{n}", number) for n in range(9) for number in range(200)])
    assert [len(shop.items(f"u{n}")) for n in range(9)] == [200] * 9


def test_a_value_that_is_no_history_is_left_for_the_batch_to_rebuild(shop):
    writer = shop.writer()
    broken = {"history": ValueProto(bytes_val=b"UH, cut short")}
    later = NOW + timedelta(hours=1)
    writer._provider.online_write_batch(writer._config, writer._view, [(_entity("u"), broken, later, later)], None)
    written = writer.append([event("u", 2), event("v", 2)])
    assert [refused.event.record.event_id for refused in written.refused] == ["u-2"]
    assert "the stored history cannot be read" in written.refused[0].reason
    writer.merge([("u", [event("u", 1).record])], NOW)
    writer.append([refused.event for refused in written.refused])
    assert (shop.items("u"), shop.items("v")) == (["i1", "i2"], ["i2"])
