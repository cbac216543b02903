"""The materialise step: the online store answers what the training data says, as of the run's moment."""

import random
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from components.features import step as features
from components.materialise import step
from components.materialise.histories import histories
from components.materialise.parity import ParityError, check_items, check_users
from events.consumer.histories import HistoryWriter, UserEvent
from feature_repo.forgotten import microseconds
from feature_repo.history import HistoryRecord
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


def materialise(tmp_path, interactions, items, varying, as_of):
    events = write_events(tmp_path / "events", CARD, interactions, items, varying)
    inputs = {
        "card": CARD,
        "events": events,
        "facts": write_facts(tmp_path / "facts", as_of),
        "sequences": tmp_path / "sequences",
        "feast_root": tmp_path / "feast",
    }
    features.run(**inputs)
    return step.run(**inputs, materialised=tmp_path / "materialised")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    rng = random.Random(0)
    items = [item(f"i{n}", weight=None if n % 3 else 0.5, brand=None if n % 5 else "acme") for n in range(12)]
    varying = [change(f"i{n}", at(day), day + n / 100, None) for n in range(9) for day in range(12)]
    # The price of day 8 once more, written down later: offline and online must take the same one.
    varying += [{**change("i0", at(8), 80.0, "sale"), "created_time": at(8.1)}]
    interactions = [event(f"u{n % 7}", f"i{rng.randrange(12)}", at(n / 40)) for n in range(400)]
    report = materialise(
        tmp_path, interactions, [*items, item("i0", brand="later", event_time=at(9))], varying, at(8.5)
    )
    return tmp_path, report


def test_online_answers_equal_the_offline_values_at_as_of(shop):
    from feature_repo.online import online, user_history
    from feature_repo.store import connect

    root, report = shop
    assert (report["users"], report["items"], report["checked_items"], report["checked_users"]) == (7, 12, 12, 7)
    store = connect("tiny", root / "feast")
    answer = online(store, ["item_static:brand", "item_varying:price"], [{"item_id": "i0"}, {"item_id": "nobody"}])
    assert answer["brand"] == ["acme", None], "a value of day 9 is not known on day 8.5"
    assert answer["price"] == [80.0, None]
    history = user_history(store, "u0")
    assert [record.event_time for record in history] == sorted(record.event_time for record in history)
    assert history[-1].event_time <= at(8.5).timestamp() * 1_000_000 and len(history) == 49
    assert history[-1].values.keys() == {"price", "label"}
    assert user_history(store, "stranger") == []


def test_histories_keep_the_latest_events_of_each_user(shop):
    whole = dict(histories(CARD, shop[0] / "sequences"))
    assert dict(histories(CARD, shop[0] / "sequences", latest=3)) == {user: rows[-3:] for user, rows in whole.items()}
    assert dict(histories(CARD, shop[0] / "sequences", ["u1", "u5"])) == {user: whole[user] for user in ("u1", "u5")}


def test_a_history_that_nothing_is_told_of_any_more_expires(tmp_path):
    from feature_repo.online import user_history
    from feature_repo.store import connect

    now = datetime.now(UTC)
    old, new = event("gone", "a", now - timedelta(days=9)), event("here", "a", now - timedelta(days=1))
    for told, limits in (([old, new], {}), ([new], {"retention_days": 5.0})):
        card = make_card(limits=limits)
        folder = tmp_path / str(len(told))
        changes = [change("a", now - timedelta(days=20), 1.0)]
        inputs = {
            "card": card,
            "events": write_events(
                folder / "events", card, told, [item("a", event_time=now - timedelta(days=20))], changes
            ),
            "facts": write_facts(folder / "facts", now - timedelta(hours=len(told))),
            "sequences": folder / "sequences",
            "feast_root": tmp_path / "feast",
        }
        features.run(**inputs)
        step.run(**inputs, materialised=folder / "materialised")
        if len(told) == 2:  # as an event of the log, which no batch takes back
            store = connect("tiny", tmp_path / "feast")
            HistoryWriter(store).append(
                [UserEvent("shopper", HistoryRecord("e", "a", microseconds(now - timedelta(days=8)), {}, 0))]
            )
    store = connect("tiny", tmp_path / "feast")
    assert user_history(store, "shopper") == [] and user_history(store, "here")


def test_parity_check_notices_a_store_that_was_changed(shop):
    from feature_repo.store import connect

    root, _ = shop
    for view, check in (("item_varying", check_items), ("user_history", check_users)):
        store = connect("tiny", root / "feast")
        check(CARD, store, root / "sequences")
        with sqlite3.connect(root / "feast" / "online.db") as db:
            db.execute(f"UPDATE tiny_{view} SET value = (SELECT value FROM tiny_{view} LIMIT 1)")
        with pytest.raises(ParityError, match="online store: "):
            check(CARD, connect("tiny", root / "feast"), root / "sequences")


def test_a_view_that_the_card_dropped_leaves_the_store(tmp_path):
    from feature_repo.store import open_store

    events = write_events(tmp_path / "events", CARD, [event("u", "a", at(1))], [item("a")], [change("a", at(0), 1.0)])
    assert len(open_store(CARD, events, tmp_path / "feast").list_feature_views()) == 3
    fewer = make_card(features=[feature.model_dump() for feature in CARD.static])
    names = {view.name for view in open_store(fewer, events, tmp_path / "feast").list_feature_views()}
    assert names == {"item_static", "user_history"}


def test_redis_answers_all_views_of_the_items_in_one_trip_as_feast_does_in_several(tmp_path, redis_server, monkeypatch):
    from feature_repo import batched_read
    from feature_repo.definitions import references
    from feature_repo.online import (
        EntityKeyProto,
        ValueProto,
        get_provider,
        online,
    )
    from feature_repo.store import connect

    monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
    monkeypatch.setenv("REDIS_ADDRESS", redis_server.address)
    items = [item("a", brand=None), item("b", tags=[], image=None), item("c")]
    materialise(tmp_path, [event("u", "a", at(1))], items, [change("a", at(0), 2.5, None)], at(2))
    store = connect("tiny", tmp_path / "feast")
    asked = [EntityKeyProto(join_keys=["item_id"], entity_values=[ValueProto(string_val=key)]) for key in "abcx"]
    provider = get_provider(store.config)
    views = {view.name: view for view in store.list_feature_views() if view.name.startswith("item_")}
    features = {name: [field.name for field in view.features] for name, view in views.items()}
    wanted = {n: (v, features[n]) for n, v in views.items()}
    found = batched_read.read(provider.online_store, store.config, wanted, asked)
    assert len(views) == 2
    for name, view in views.items():
        own = provider.online_read(store.config, view, asked, list(features[name]))
        assert found[name] == [values for _, values in own]

    trips = []
    monkeypatch.setattr(
        "feast.infra.online_stores.redis.RedisOnlineStore._read_hash_fields",
        lambda self, config, commands: trips.append(len(commands)) or [[None] * len(f) for _, f in commands],
    )
    online(store, references(CARD.features), [{"item_id": key} for key in "abcx"])
    assert trips == [4]


def test_data_that_lags_behind_the_clock_is_served_no_longer_than_its_retention(tmp_path):
    from feature_repo.online import user_history
    from feature_repo.store import connect

    end = datetime.now(UTC) - timedelta(days=3)
    card = make_card(limits={"retention_days": 5.0})
    changes, items = [change("a", end - timedelta(days=20), 1.0)], [item("a", event_time=end - timedelta(days=20))]
    told = [event(f"u{n % 2}", "a", end - timedelta(days=n)) for n in range(5)]
    inputs = {
        "card": card,
        "events": write_events(tmp_path / "events", card, told, items, changes),
        "facts": write_facts(tmp_path / "facts", end),
        "sequences": tmp_path / "sequences",
        "feast_root": tmp_path / "feast",
    }
    features.run(**inputs)
    assert step.run(**inputs, materialised=tmp_path / "materialised")["checked_users"] == 2
    store = connect("tiny", tmp_path / "feast")
    assert [len(user_history(store, user)) for user in ("u0", "u1")] == [1, 1]
