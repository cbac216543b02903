"""What was served is trained on: the event log's interactions are further parts of a card's source."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest import step
from feature_repo.card import DatasetCard, load_card
from runtime.errors import InputError
from tests.component.ingest_cards import make_card, rows
from tests.component.test_increment import DAY, shop_of_two_days

TRAINS = {"event_log": {"trains": True}}
TIME = pa.timestamp("us", "UTC")


def serve(log: Path, name: str, *events: tuple[str, str, datetime]) -> None:
    """Interactions (user, item, time) of one day as the consumer writes them."""
    users, items, times = zip(*events, strict=True)
    folder = log / "interactions" / f"day={times[0]:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "user_id": users, "item_id": items, "time": pa.array(times, TIME), "received": pa.array(times, TIME),
        "event_type": ["purchase"] * len(users), "position": list(range(len(users))),
        "features": [json.dumps({"price": 7.5})] * len(users),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / f"{name}.parquet")


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[list[str] | None]:
    """The days that ingest asks the log for from now on; None is all of them."""
    asked: list[list[str] | None] = []
    load = step.WithEventLog.load
    monkeypatch.setattr(
        step.WithEventLog, "load", lambda self, card, db, only: asked.append(only) or load(self, card, db, only)
    )
    return asked


def test_only_new_and_changed_days_of_the_log_are_read(tmp_path, monkeypatch):
    shop, log = shop_of_two_days(tmp_path / "shop", **TRAINS), tmp_path / "log"
    serve(log, "a", ("u", "x", DAY + timedelta(days=3)))
    serve(log, "b", ("u", "y", DAY + timedelta(days=4)))
    first, _ = shop.ingest(log=log)
    asked = asked_of(monkeypatch)
    serve(log, "c", ("v", "x", DAY + timedelta(days=4, hours=1)))
    events, report = shop.ingest(log=log)
    assert asked == [["served 2025-03-05"]]
    found = rows(events, "interactions")
    assert [(row["user_id"], row["item_id"]) for row in found[-3:]] == [("u", "x"), ("u", "y"), ("v", "x")]
    assert found[-1]["origin"] == "served 2025-03-05"
    unchanged = "interactions/day=2025-03-04/part-0.parquet"
    assert (events / unchanged).stat().st_ino == (first / unchanged).stat().st_ino
    assert report["accepted"] == len(found)


def test_a_card_that_does_not_train_on_the_log_has_none_of_it(tmp_path):
    shop, log = shop_of_two_days(tmp_path / "shop"), tmp_path / "log"
    serve(log, "a", ("u", "x", DAY + timedelta(days=3)))
    events, _ = shop.ingest(log=log)
    assert "served" not in str(rows(events, "interactions"))


KINDS = {
    "text": ["2025-03-01 10:00:00", "2025-03-01 11:00:00"],
    "naive": pa.array([datetime(2025, 3, 1, 10), datetime(2025, 3, 1, 11)], pa.timestamp("us")),
    "zoned": pa.array([datetime(2025, 3, 1, 9, tzinfo=UTC), datetime(2025, 3, 1, 10, tzinfo=UTC)], TIME),
    "epoch": [1740819600, 1740823200],
    "fraction": [1740819600.0, 1740823200.0],
}


@pytest.mark.parametrize("times", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("users", [["1", "2"], [1, 2], [1.0, 2.0]], ids=["text", "whole", "real"])
def test_moments_and_ids_are_the_same_whatever_types_the_source_has(tmp_path, times, users):
    paid = {"name": "price", "kind": "numeric", "table": "interactions", "varies_in_time": True}
    interactions = {
        "user_id": users, "item_id": ["x", "y"], "event_time": times, "price": [1.0, 2.0], "pieces": [1, 1],
    }  # fmt: skip
    card = make_card(
        tmp_path, pa.table(interactions), suffix=".parquet", items=pa.table({"item_id": ["x", "y"]}), features=[paid],
        columns={"event_time": "event_time", "quantity": "pieces"}, source={"timezone": "Europe/Berlin"}, **TRAINS,
    )  # fmt: skip
    moment = datetime(2025, 3, 2, 10, 0, 0, 123456, tzinfo=UTC)
    serve(tmp_path / "log", "a", ("1", "x", moment))
    (events := tmp_path / "events").mkdir()
    report = step.run(card=card, events=events, log=tmp_path / "log")
    assert report["rejected"] == 0
    *_, last = rows(events, "interactions")
    assert (last["user_id"], last["item_id"], last["event_time"], last["price"]) == ("1", "x", moment, 7.5)
    assert [row["user_id"] for row in rows(events, "interactions")] == ["1", "2", "1"]


def test_ingest_and_the_consumer_give_one_event_one_id(tmp_path):
    from events.consumer.attribution import event_id

    shop, log = shop_of_two_days(tmp_path / "shop", **TRAINS), tmp_path / "log"
    moment = DAY + timedelta(days=3, microseconds=1)
    serve(log, "a", ("ü:1", "x", moment))
    events, _ = shop.ingest(log=log)
    assert rows(events, "interactions")[-1]["event_id"] == event_id("ü:1", "x", moment)


def test_a_source_that_cannot_be_joined_with_the_log_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"trains needs columns\.event_time"):
        make_card(tmp_path, columns={"position": "n"}, split={"by": "order"}, **TRAINS)
    retail = load_card("online_retail")
    trains = DatasetCard.model_validate({**retail.model_dump(), **TRAINS})
    with pytest.raises(InputError, match="trains needs a source with a table of items"):
        step.WithEventLog(_Bare(), tmp_path).load(trains, None, None)


class _Bare:
    """A source without a table of items, whatever it holds."""

    def load(self, card, connection, only):
        from components.ingest.source import Raw

        return Raw(interactions=None, items=None)

    def content(self, card):
        return {"": ""}


def test_a_merged_day_of_the_log_is_neither_read_again_nor_doubled(tmp_path, monkeypatch):
    from events.compaction import drop_superseded, merge

    shop, log = shop_of_two_days(tmp_path / "shop", **TRAINS), tmp_path / "log"
    for number in range(4):
        serve(log, f"{number}", ("u", "x", DAY + timedelta(days=3, hours=number)))
    serve(log, "b", ("u", "y", DAY + timedelta(days=4)))
    _, told = shop.ingest(log=log)
    before = step.fingerprint(shop.card, log)
    day = log / "interactions" / "day=2025-03-04"
    assert merge(day) and len(list(day.glob("*.parquet"))) == 5
    assert step.fingerprint(shop.card, log) == before
    drop_superseded(day, older_than=0)
    assert step.fingerprint(shop.card, log) == before and len(list(day.glob("*.parquet"))) == 1
    asked = asked_of(monkeypatch)
    serve(log, "c", ("v", "x", DAY + timedelta(days=4, hours=1)))
    events, report = shop.ingest(log=log)
    assert asked == [["served 2025-03-05"]] and report["accepted"] == told["accepted"] + 1
    anew, _ = shop.ingest(log=log, anew=True)
    assert [row["event_id"] for row in rows(anew, "interactions")] == [
        row["event_id"] for row in rows(events, "interactions")
    ]


def test_files_that_a_merged_one_stands_for_are_read_once(tmp_path):
    from events.compaction import merge

    shop, log = shop_of_two_days(tmp_path / "shop", **TRAINS), tmp_path / "log"
    for number in range(4):
        serve(log, f"{number}", ("u", "x", DAY + timedelta(days=3, hours=number)))
    assert merge(log / "interactions" / "day=2025-03-04")
    _, report = shop.ingest(log=log)
    assert report["rejected"] == 0 and not report["reasons"]


def test_a_day_of_the_log_that_expired_is_no_loss(tmp_path):
    from events.consumer.retention import Upkeep

    shop, log = shop_of_two_days(tmp_path / "shop", **TRAINS), tmp_path / "log"
    serve(log, "a", ("u", "x", DAY + timedelta(days=3)))
    serve(log, "b", ("u", "y", DAY + timedelta(days=40)))
    first, told = shop.ingest(log=log)
    (log / "exposures" / "day=2025-04-10").mkdir(parents=True)
    now = DAY + timedelta(days=50)
    Upkeep(log, log / "served", retention=timedelta(days=30), clock=lambda: now).step()
    events, report = shop.ingest(log=log)
    assert report["accepted"] == told["accepted"] - 1
    unchanged = "interactions/day=2025-04-10/part-0.parquet"
    assert (events / unchanged).stat().st_ino == (first / unchanged).stat().st_ino, "it was no ingest from scratch"
