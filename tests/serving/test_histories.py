"""The writer of online histories on SQLite and a real Redis: nothing lost, nothing reordered, nothing left behind."""

import multiprocessing
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.consumer.histories import (
    HistoryWriter,
    UserEvent,
    _key,
    partition_of,
)
from feature_repo.forgotten import Forgotten
from tests.serving.history_shop import (
    CARD,
    NOW,
    Shop,
    event,
    seconds,
)


def test_an_event_can_be_read_within_100_ms_of_its_acknowledgement(shop):
    from feature_repo.online import user_history
    from feature_repo.store import connect

    writer, reader = shop.writer(), connect("tiny", shop.root / "feast")
    writer.append([event("u", number) for number in range(200)])
    writer.append([event("warm", 1)])
    user_history(reader, "warm")
    delays = []
    for number in range(200, 240):
        acknowledged = time.perf_counter()
        writer.append([event("u", number)])
        while user_history(reader, "u")[-1].item_id != f"i{number}":
            assert time.perf_counter() - acknowledged < 5, "the event never arrived"
        delays.append(time.perf_counter() - acknowledged)
    assert sorted(delays)[len(delays) * 9 // 10] < 0.1, sorted(delays)


def test_late_and_repeated_events_find_their_place_once(shop):
    writer = shop.writer()
    assert writer.append([event("u", 1), event("u", 3)]).added == 2
    again = writer.append([event("u", 2), event("u", 3), event("u", 1), event("v", 1)])
    assert (again.added, again.known, again.users) == (2, 2, 2)
    assert shop.items("u") == ["i1", "i2", "i3"]
    assert shop.items("v") == ["i1"]
    assert writer.append([event("u", 2)]).users == 0, "what changes nothing is not written"


def test_events_of_one_instant_keep_the_order_of_the_log_in_whatever_order_they_arrive(shop):
    writer = shop.writer()
    for number in (3, 0, 4, 1, 2):
        writer.append([event("u", number, at=7)])
    assert shop.items("u") == ["i0", "i1", "i2", "i3", "i4"]


def test_only_the_latest_are_kept_and_an_older_one_does_not_push_them_out(shop):
    writer = shop.writer(latest=3)
    writer.append([event("u", number) for number in range(2, 6)])
    assert writer.append([event("u", 1)]).known == 1
    assert shop.items("u") == ["i3", "i4", "i5"]


def test_a_clock_that_runs_backwards_loses_no_write(shop):
    shop.writer(clock=lambda: NOW).append([event("u", 1)])
    shop.writer(clock=lambda: NOW - timedelta(days=300)).append(
        [UserEvent("u", event("u", 2).record._replace(event_time=5))]
    )
    shop.writer(clock=lambda: NOW).append([event("u", 3)])
    assert shop.items("u") == ["i2", "i1", "i3"]


def test_the_same_microsecond_twice_loses_no_write(shop):
    writer = shop.writer()
    for number in range(20):
        writer.append([event("u", number)])
    assert shop.items("u") == [f"i{number}" for number in range(20)]


def test_writers_of_several_threads_and_stores_lose_nothing(shop):
    """FACTS: two plain writers with 20 appends each left 22 of 41."""
    faults = []

    def work(writer: HistoryWriter, first: int) -> None:
        try:
            for number in range(first, first + 20):
                writer.append([event("u", number), event(f"other{first}", number)])
        except Exception as error:
            faults.append(error)

    shared = shop.writer()
    threads = [threading.Thread(target=work, args=(shared if n < 2 else shop.writer(), 20 * n)) for n in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert faults == []
    assert shop.items("u") == [f"i{number}" for number in range(100)]
    assert len(shop.items("other40")) == 20


def _append_in_a_process(shop: Shop, first: int) -> None:
    writer = shop.writer()
    for number in range(first, first + 25):
        writer.append([event("u", number)])


def test_writers_of_several_processes_lose_nothing(shop):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_in_a_process, args=(shop, 25 * n)) for n in range(3)]
    [worker.start() for worker in workers]
    [worker.join(60) for worker in workers]
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert shop.items("u") == [f"i{number}" for number in range(75)]


def test_the_batch_and_the_log_tell_of_one_event_once_and_the_batch_is_believed(shop):
    writer = shop.writer()
    writer.append([event("u", 1), event("u", 2), event("u", 4)])
    batch = [event("u", n).record._replace(values={"price": 99.0}, position=n + 7) for n in (1, 2, 3)]
    writer.merge([("u", batch)], NOW - timedelta(minutes=59))
    writer.append([event("u", 2)])
    found = shop.read("u")
    assert [(record.item_id, record.values["price"], record.streamed) for record in found] == [
        ("i1", 99.0, False), ("i2", 99.0, False), ("i3", 99.0, False), ("i4", 2.0, True),
    ]  # fmt: skip


def test_a_batch_takes_back_what_it_told_but_nothing_newer_and_nothing_of_the_log(shop):
    writer = shop.writer()
    newer = [event("u", n).record for n in (1, 2, 30)]
    writer.merge([("u", newer)], NOW)
    writer.append([event("u", 3)])
    writer.merge([("u", [event("u", 1).record])], datetime.fromtimestamp(seconds(10) / 1e6, UTC))
    assert shop.items("u") == ["i1", "i3", "i30"]


def test_values_that_the_card_came_to_declare_later_are_missing_in_old_events(shop):
    writer = shop.writer()
    writer.append([UserEvent("u", event("u", 1).record._replace(values={"colour": "red"}))])
    writer.append([event("u", 2)])
    assert [dict(record.values) for record in shop.read("u")] == [{"price": None}, {"price": 1.0}]


def test_one_bad_event_does_not_hold_up_the_others(shop):
    record = event("u", 1).record
    bad = [
        UserEvent("caf\udce9", record),
        UserEvent("u", record._replace(item_id="")),
        UserEvent("u", record._replace(event_time=seconds(9000))),
        UserEvent("u", record._replace(values={"price": "cheap"})),
        UserEvent("u", record._replace(event_time=1.5)),
    ]
    written = shop.writer().append([*bad, event("u", 2)])
    assert [refused.event for refused in written.refused] == bad
    reasons = [refused.reason.split(":")[0] for refused in written.refused]
    assert reasons == ["user_id", "item_id", "event_time", "price", "event_time"]
    assert shop.items("u") == ["i2"]


def test_deleted_users_are_gone_and_a_replay_does_not_bring_them_back(shop, tmp_path):
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    writer = shop.writer(forgotten=forgotten)
    events = [event(user, number) for user in ("u", "v") for number in range(3)]
    writer.append(events)
    writer.forget(["u"])
    assert shop.items("u") == []
    assert list(writer._backend.stored()) == [_key("v")]
    for path in (tmp_path / "feast").glob("online.db*"):
        assert b"u-2" not in path.read_bytes(), path
    assert shop.writer(forgotten=Forgotten(forgotten.path)).append(events).forgotten == 3
    writer.merge([("u", [each.record for each in events[:3]])], NOW)
    assert (shop.items("u"), len(shop.items("v"))) == ([], 3)
    assert "u" not in forgotten.path.read_text().split()
    later = shop.writer(forgotten=forgotten, clock=lambda: NOW + timedelta(days=1))
    later.append([event("u", 9, at=7200)])
    assert shop.items("u") == ["i9"], "who comes back after that is a new acquaintance"


def test_what_is_told_while_the_user_is_deleted_does_not_come_back(shop, tmp_path, monkeypatch):
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    writer = shop.writer(forgotten=forgotten)
    hold = writer._backend.hold

    def hold_behind_a_deletion(partition):
        forgotten.add(["u"], NOW)  # and deletes, before this writer has its turn
        return hold(partition)

    monkeypatch.setattr(writer._backend, "hold", hold_behind_a_deletion)
    writer.append([event("u", 1)])
    assert shop.items("u") == [] and not list(writer._backend.stored())


def test_retention_drops_old_events_and_users_who_have_no_others(shop):
    day = 86_400
    shop.writer().append([event("u", 1, at=-9 * day), event("u", 2), event("old", 1, at=-9 * day)])
    writer = shop.writer(retention=timedelta(days=7))
    assert writer.expire() == 2
    assert (shop.items("u"), shop.items("old")) == (["i2"], [])
    assert writer.append([event("u", 1, at=-8 * day)]).known == 1
    assert shop.items("u") == ["i2"]
    assert writer.expire() == 0


def test_the_history_of_a_project_whose_name_ends_alike_is_left_alone(on_redis, tmp_path):
    from feature_repo.store import connect, open_store

    writers = {}
    for name in ("tiny", "notiny"):
        root = tmp_path / name
        open_store(CARD.model_copy(update={"name": name}), root, root)
        retention = timedelta(days=1) if name == "tiny" else None
        writers[name] = HistoryWriter(connect(name, root), clock=lambda: NOW, retention=retention)
    writers["notiny"].append([event("u", 1, at=-9 * 86_400)])
    assert writers["tiny"].expire() == 0
    assert len(list(writers["notiny"]._backend.stored())) == 1


@pytest.fixture(scope="module")
def sqlite_shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.apply()
    return shop


FRESH = count()
STEP = st.tuples(st.integers(0, 11), st.integers(0, 3))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(STEP, max_size=5), max_size=8), st.integers(1, 6))
def test_any_delivery_gives_the_same_history(sqlite_shop, deliveries, latest):
    """Against the brute-force reference: the distinct events in their total order, cut to the latest."""
    user = f"u{next(FRESH)}"
    events = {n: event(user, n, at=at) for delivery in deliveries for n, at in delivery}
    writer = sqlite_shop.writer(latest=latest)
    for delivery in deliveries:
        writer.append([events[n] for n, _ in delivery])
    told = {n for delivery in deliveries for n, _ in delivery}
    expected = sorted((events[n].record for n in told), key=lambda record: record.order)[-latest:]
    assert [each.event_id for each in sqlite_shop.read(user)] == [each.event_id for each in expected]


def test_every_process_finds_a_user_in_the_same_partition():
    assert [partition_of(user) for user in ("u1", "Ünal", "")] == [6, 5, 0]
    users = [f"u{n}" for n in random.Random(0).sample(range(10**6), 2_000)]
    assert {partition_of(user) for user in users} == set(range(16))
