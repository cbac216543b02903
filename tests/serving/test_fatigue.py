"""What a shopper was shown often and did nothing with: counted from the log, kept online, demoted or hidden."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.recommend.champion import OnlineHistorySource
from events.consumer.attribution import Identity
from events.consumer.impressions import MOST_ITEMS
from events.consumer.state import Exposure, State
from events.schema import MOST_SHOWN
from experiments.document import ModelVersion, Rollout
from experiments.rules_table import RulesTable
from feature_repo.forgotten import Forgotten, microseconds
from feature_repo.impressions import Impressions, kept
from feature_repo.store import connect
from serving.gateway.after.showing import ShowingLimits
from serving.gateway.online import OnlineStore
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)
from tests.serving.open_gateway import OpenGateway, ask, rows
from tests.serving.test_availability import NOBODY, shown
from tests.serving.test_rules import hold, table  # noqa: F401  (fixture)
from tests.serving.test_showing import IDS, ranking
from tests.serving.test_showing import shown as following

NOW = datetime(2026, 1, 5, tzinfo=UTC)
Told = tuple[str, list[str], int]
"""A request of the shopper, what it showed, and its minute."""


class TakenBack(Exception):
    """The end of an example."""


def noted(state: State, requests: list[Told], took: list[tuple[str, str | None]]) -> Impressions:
    """What is told of the shopper when all of it is in the state, written in this order."""
    for request, items, minute in requests:
        at = NOW + timedelta(minutes=minute)
        state.add_exposures([(request, Exposure("u", tuple(items), at, "1", False, tiring=True))])
    for request, item in took:
        state.impressions.answer(request, item, microseconds(NOW))
    return state.impressions.of("u", 0, lambda user, at: False)


def by_hand(requests: list[Told], took: list[tuple[str, str | None]]) -> dict[str, list[int]]:
    last: dict[str, int] = {}
    for request, items, minute in requests:
        for of, item in took:
            if of == request and (item in items or (item is None and len(items) == 1)):
                last[item or items[0]] = max(last.get(item or items[0], -1), minute)
    found: dict[str, list[int]] = {}
    for _, items, minute in sorted(requests, key=lambda each: each[2]):
        for item in items:
            if minute > last.get(item, -1):
                found.setdefault(item, []).append(int((NOW + timedelta(minutes=minute)).timestamp()))
    return {item: at for item, at in found.items() if len(at) > 1}


ITEM = st.sampled_from(["a", "b", "c"])
MINUTES = st.lists(st.integers(0, 1000), min_size=1, max_size=12, unique=True)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """Of all examples, which take back what they wrote."""
    found = State(tmp_path_factory.mktemp("state") / "s.db")
    yield found
    found.close()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), minutes=MINUTES)
def test_what_was_taken_counts_anew_whatever_order_the_log_tells_it_in(
    state: State, data: st.DataObject, minutes: list[int]
) -> None:
    shown_items = st.lists(ITEM, min_size=1, max_size=3, unique=True)
    requests = [(f"r{minute}", data.draw(shown_items), minute) for minute in minutes]
    names = st.sampled_from([request for request, _, _ in requests])
    took = data.draw(st.lists(st.tuples(names, st.none() | ITEM), max_size=5))
    wanted = by_hand(requests, took)
    with pytest.raises(TakenBack), state.transaction():
        assert noted(state, data.draw(st.permutations(requests)), took) == wanted
        assert noted(state, requests, took) == wanted, "told twice it is the same"
        raise TakenBack


def test_what_is_kept_of_a_shopper_is_bounded(state: State) -> None:
    requests = [(f"r{n}", [f"i{n % 7}-{slot}" for slot in range(50)], n) for n in range(300)]
    with pytest.raises(TakenBack), state.transaction():
        found = noted(state, requests, [])
        raise TakenBack
    assert len(found) == MOST_ITEMS and {len(at) for at in found.values()} == {MOST_SHOWN}
    for item, at in found.items():
        latest = max(minute for _, items, minute in requests if item in items)
        assert at == sorted(at) and at[-1] == int((NOW + timedelta(minutes=latest)).timestamp())


OTHERS: dict[str, Any] = {
    "blocks": [{"items": ["i3"]}],
    "pins": [{"item": "i5", "slot": 2}],
    "boosts": [{"where": {"brand": ["b1"]}, "factor": 9.0}],
    "value": {"by": "price"},
    "diversity": {"caps": {"brand": 3}, "alike": {"relevance": 0.5, "by": ["kind"]}},
    "exploration": {"share": 0.5},
}


@settings(max_examples=150, deadline=None)
@given(
    ranked=st.permutations(IDS),
    tired=st.frozensets(st.sampled_from(IDS), min_size=4),
    beside=st.sets(st.sampled_from(sorted(OTHERS)), max_size=2),
    then=st.sampled_from(["demote", "hide"]),
    seed=st.text("abc", min_size=1),
)
def test_what_tires_comes_after_all_else_or_not_at_all_beside_any_other_rule(
    ranked: list[str], tired: frozenset[str], beside: set[str], then: str, seed: str
) -> None:
    rules = {"fatigue": {"after": 2, "then": then}, **{name: OTHERS[name] for name in beside}}
    asked = ShowingLimits(k=len(IDS), request_id=seed, hidden=frozenset(), tired=tired)
    found = following(rules, asked, ranking(*ranked))
    spared = [item["item_id"] in tired for item, origin in zip(found.items, found.origins, strict=True)
              if origin != "pinned"]  # fmt: skip
    assert spared == sorted(spared), "also of what explores"
    if then == "hide":
        assert not any(spared)
    elif not {"blocks", "diversity"} & beside:
        assert len(found.items) == len(IDS), "nothing is lost"
    everybody = ShowingLimits(k=len(IDS), request_id=seed, hidden=frozenset())
    without = {name: rule for name, rule in rules.items() if name != "fatigue"}
    assert following(rules, everybody, ranking(*ranked)).items == following(without, everybody, ranking(*ranked)).items


@pytest.fixture(params=["sqlite", "redis"])
def transport(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
    if request.param == "redis":
        monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
        monkeypatch.setenv("REDIS_ADDRESS", request.getfixturevalue("durable_redis").address)
    fill(tmp_path)
    return Transport(tmp_path)


def log(transport: Transport, *events: tuple[str, dict[str, Any]]) -> None:
    async def write() -> None:
        with transport.writer() as writer:
            for name, event in events:
                await writer.append(name, event)

    asyncio.run(write())


def test_the_log_tells_the_store_what_tires_and_a_deletion_leaves_nothing(transport: Transport) -> None:
    store = OnlineStore("tiny", transport.home / "feast" / "tiny")
    tiring: dict[str, Any] = {"tired": []}
    log(
        transport,
        ("outcomes", outcome("a1", "i5", "click")),  # of another gateway's segment: before its exposure
        *(("exposures", exposure(f"a{n}", "u1", ["i3", "i4", "i5", "i6"], **tiring)) for n in (1, 2, 3)),
        ("outcomes", outcome("a3", "i4", "click")),
        ("outcomes", outcome("a3", "i6", "dismiss")),
        *(("exposures", exposure(f"b{n}", "u2", ["i3"])) for n in (1, 2)),  # no rule held
        *(("exposures", exposure(f"c{n}", "u3", ["i3"], **tiring, override=True)) for n in (1, 2)),
        *(("exposures", exposure(f"d{n}", "u4", ["i3"], **tiring)) for n in (1, 2)),
    )
    forgotten = Forgotten(transport.home / "forgotten.txt")
    options = {"forgotten": forgotten, "identity": Identity(negative=frozenset(["dismiss"]))}
    with transport.consumer(**options) as consumer:
        transport.settle(consumer)
    found = {user: store.impressions(user) for user in ("u1", "u2", "u3", "u4", "nobody")}
    assert {item: len(at) for item, at in found["u1"].items()} == {"i3": 3, "i5": 2, "i6": 3}
    assert OnlineHistorySource("tiny", transport.home / "feast" / "tiny").impressions([*found]) == [*found.values()]
    assert [*found["u4"]] == ["i3"] and not any(found[user] for user in ("u2", "u3", "nobody"))

    (transport.log / "consumer.db").unlink()  # the state is lost
    kept(connect("tiny", transport.home / "feast" / "tiny")).delete(["u1", "u4"])
    with transport.consumer(**options) as consumer:
        transport.settle(consumer)
        assert {user: store.impressions(user) for user in found} == found
        consumer._online.writer.forget(["u4"])
        assert store.impressions("u4") == {}
        log(transport, ("exposures", exposure("d3", "u4", ["i3"], **tiring)))
        transport.settle(consumer)
        assert store.impressions("u4") == {}, "what is of before the deletion counts no more"
        assert store.impressions("u1") == found["u1"]


@pytest.mark.parametrize(("weight", "options"), [(0.0, {}), (1.0, {}), (0.5, {"torchserve": NOBODY})],
                         ids=["champion", "challenger", "memory"])  # fmt: skip
@pytest.mark.parametrize("then", ["demote", "hide"])
def test_who_ever_answers_spares_the_shopper_what_tires_and_the_log_says_what(
    open_gateway: OpenGateway,
    rollout: Rollout,
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
    weight: float,
    options: dict[str, Any],
    then: str,
) -> None:
    row = replace(rollout, weight=weight) if weight else replace(rollout, challenger=None, stage=None, weight=0.0)
    now = int(datetime.now(UTC).timestamp())
    told: dict[str, list[int]] = {}
    client = open_gateway(row, impressions=lambda user: told if user == "u1" else {}, **options)
    before = shown(client, k=2, exclude_seen=False)
    first = before[0]
    told |= {first: [now - 90_000, now - 60, now - 50], "i9": [now] * 9}
    hold(client, table, {"fatigue": {"after": 3, "days": 1, "then": then}})
    assert shown(client, k=2, exclude_seen=False) == before, "twice within the days"
    hold(client, table, {"fatigue": {"after": 3, "days": 2, "then": then}, "pins": [{"item": "i9", "slot": 2}]})
    answer = ask(client, k=2, exclude_seen=False)
    items = [item["item_id"] for item in answer["items"]]
    assert items[0] not in (first, "i9") and items[1] == "i9", "a pin is the shop's word"
    everything = shown(client, k=10, exclude_seen=False)
    assert (first in everything) == (then == "demote") and everything.index("i9") == 1
    if then == "demote":
        assert everything[-1] == first
    assert first in shown(client, "stranger", k=2, exclude_seen=False)
    logged = {each["request_id"]: each for each in rows(tmp_path / "log", "exposures")}
    assert logged[answer["request_id"]]["tired"] == sorted([first, "i9"])
    hold(client, table, {})
    assert shown(client, k=2, exclude_seen=False) == before
    assert rows(tmp_path / "log", "exposures")[-1]["tired"] is None


def test_a_store_that_is_away_costs_the_rule_and_no_answer(
    open_gateway: OpenGateway,
    rollout: Rollout,
    arms: dict[str, ModelVersion],
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
) -> None:
    def away(user: str) -> Impressions:
        raise OSError("gone")

    client = open_gateway(replace(rollout, challenger=None, stage=None, weight=0.0), impressions=away)
    hold(client, table, {"fatigue": {"after": 2}})
    answer = ask(client, exclude_seen=False)
    assert answer["status"] == "ok" and len(answer["items"]) == 3
    (row,) = rows(tmp_path / "log", "exposures")
    assert row["tired"] is None and json.loads(row["request"])["history"]
    assert client.post("/v1/recommendations", json={"user_id": "u", "personalise": False}).status_code == 200
