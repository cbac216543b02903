"""The event log as the judge counts it, against counting by hand: small logs with all that a log can hold."""

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.assignment import HOLDOUT, place
from experiments.decision import look
from experiments.document import STAGES, ModelVersion, Rollout
from experiments.log import (
    LATER,
    ExposureLog,
    LogFault,
    Sums,
)
from experiments.policy import Policy
from experiments.sequential_test import UNKNOWN
from runtime.clocks import TOLERANCE
from tests.serving.canary_shop import EXPOSURE, OUTCOME

OPENED = datetime(2026, 1, 5, 10, tzinfo=UTC)
NOW = OPENED + timedelta(days=2, hours=3)
POLICY = Policy(novelty_hours=5, attribution_hours=2, p50_factor=1.1, p99_factor=1.05)
SCHEMA = EXPOSURE.append(pa.field("cause", pa.string())).append(pa.field("placement", pa.string()))
WORLDS = ("concurrent", "full, without a holdout", "full, with one", "watch")
Row = dict[str, Any]


def logged(seed: int, world: str, *, rows: int = 150, users: int = 9) -> tuple[list[Row], list[Row]]:
    """Exposures and outcomes: of other salts, told twice, later than now, in the wrong arm; late and foreign ones."""
    rng = np.random.default_rng(seed)
    exposures, outcomes = [], []
    for number in range(rows):
        user, stage = f"u{rng.integers(users)}", int(rng.integers(0, 4 if world == "concurrent" else 5))
        weight = STAGES[stage]
        held = world in ("full, with one", "watch")
        if stage == 4 and held:
            weight = 1 - HOLDOUT
        treated = (place("s", user) < weight) != (rng.random() < 0.1)
        row: Row = {
            "request_id": f"r{number}", "user_id": user, "variant": "challenger" if treated else "champion",
            "model_version": "v", "stage": stage, "weight": weight, "salt": "s" if rng.random() < 0.95 else "other",
            "time": OPENED + timedelta(seconds=float(rng.uniform(0, 2.2 * 86400))),
            "latency_ms": float(rng.integers(1, 12)),
            "status": str(rng.choice(["ok", "ok", "ok", "fallback", "error"])),
            "n_items": 0, "items": [], "cause": rng.choice([None, None, "model", "history"]),
            "placement": rng.choice([None, "for_you", "similar"]),
        }  # fmt: skip
        if stage == 4 and world == "watch" and rng.random() < 0.7:
            row |= {"stage": None, "weight": 0.0, "variant": str(rng.choice(["champion", "former"]))}
        if row["status"] != "error" and rng.random() < 0.9:
            row["items"] = [f"i{item}" for item in rng.choice(8, int(rng.integers(1, 4)), replace=False)]
            row["n_items"] = len(row["items"])
        exposures.append(row)
        if rng.random() < 0.15:
            exposures.append({**row, "time": row["time"] + timedelta(hours=1), "status": "error"})
        for _ in range(int(rng.integers(0, 3))):
            after = timedelta(hours=float(rng.choice([-1.5, -1.0, -0.5, 0.5, 2.0, 2.5])))
            kind = str(rng.choice(["click", "click", "view"]))
            outcomes.append({"request_id": row["request_id"], "event_type": kind, "time": row["time"] + after})
    return exposures, outcomes


def write(root: Path, table: str, rows: list[Row], schema: pa.Schema, day: str = "2026-01-05") -> None:
    (root / table / f"day={day}").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / table / f"day={day}" / "a.parquet")


def read(root: Path, exposures: list[Row], outcomes: list[Row], schema: pa.Schema = SCHEMA) -> ExposureLog:
    write(root, "exposures", exposures, schema)
    write(root, "outcomes", outcomes, OUTCOME)
    return ExposureLog(root, salt="s", opened=OPENED, now=NOW, policy=POLICY)


def drawn(exposures: list[Row], outcomes: list[Row]) -> list[Row]:
    """The experiment's exposures, each as it was first told, with whether it succeeded."""
    first: dict[str, Row] = {}
    for row in sorted(exposures, key=lambda row: row["time"]):
        if row["salt"] == "s" and row["time"] <= NOW:
            first.setdefault(row["request_id"], row)
    names = {user: number for number, user in enumerate(sorted({row["user_id"] for row in first.values()}))}
    won = {
        click["request_id"]
        for click in outcomes
        if click["event_type"] == "click"
        and click["request_id"] in first
        and click["time"] <= NOW
        and -TOLERANCE <= click["time"] - first[click["request_id"]]["time"] <= POLICY.hours("attribution")
    }
    began: dict[Any, datetime] = {}
    for row in first.values():
        began[row["stage"]] = min(row["time"], began.get(row["stage"], row["time"]))
    return [
        {**row, "user": names[row["user_id"]], "success": row["request_id"] in won, "began": began[row["stage"]],
         "place": (row["stage"] if row["stage"] is not None else 99, row["time"].date(), row["placement"] or "for_you")}
        for row in first.values()
    ]  # fmt: skip


def ranked(rows: list[Row]) -> list[Row]:
    ranks = {place: rank for rank, place in enumerate(sorted({row["place"] for row in rows}))}
    return [{**row, "stratum": ranks[row["place"]]} for row in rows]


def concurrent(rows: list[Row]) -> list[Row]:
    both = [row for row in rows if row["stage"] is not None and row["weight"] < 1]
    return [{**row, "treated": int(row["variant"] == "challenger")} for row in ranked(both)]


def against_all(rows: list[Row], world: str) -> list[Row]:
    """What is compared once all shoppers meet the new model: with the holdout, or with the last stage of both."""
    if any(row["variant"] == "former" or row["weight"] == 1 - HOLDOUT for row in rows):
        kept = ranked([row for row in rows if row["stage"] is None or row["weight"] < 1])
        new = {None: lambda row: row["variant"] != "former"}
        return [
            {**row, "treated": int(new.get(row["stage"], lambda row: row["variant"] == "challenger")(row))}
            for row in kept
        ]
    last = max(row["stage"] for row in rows if row["weight"] < 1)
    all_ = {row["request_id"] for row in rows if row["weight"] == 1}
    before = {row["request_id"] for row in rows if row["stage"] == last and row["variant"] == "champion"}
    kept = [row for row in rows if row["request_id"] in all_ | before]
    return [{**row, "stratum": 0, "treated": int(row["request_id"] in all_)} for row in kept]


def successes(rows: list[Row]) -> dict[tuple[int, ...], list[float]]:
    found: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0, 0])
    for row in concurrent(rows):
        ripe = row["time"] <= NOW - POLICY.hours("attribution")
        if ripe and row["time"] >= row["began"] + POLICY.hours("novelty"):
            sums = found[row["user"], row["stratum"], row["treated"]]
            sums[0], sums[1] = sums[0] + 1, sums[1] + row["success"]
    return dict(found)


def technical(compared: list[Row]) -> dict[tuple[int, ...], list[float]]:
    rows = [row for row in compared if row["cause"] in (None, "model")]
    pace, arms, answers = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in rows:
        key = row["user"], row["stratum"], row["treated"]
        arms[key].append(row)
        if row["treated"] == 0:
            pace[row["stratum"]].append(row["latency_ms"])
        if row["n_items"]:
            answers[row["stratum"], row["treated"]].append((row["user"], row["items"]))
    found = {}
    for (user, stratum, treated), mine in arms.items():
        slow = [0, 0]
        for place_, (quantile, factor) in enumerate([(0.5, POLICY.p50_factor), (0.99, POLICY.p99_factor)]):
            if pace[stratum]:
                bound = np.quantile(pace[stratum], quantile) * (factor if treated else 1)
                slow[place_] = sum(row["latency_ms"] > bound for row in mine)
        errors = sum(row["status"] != "ok" for row in mine)
        empties = sum(row["n_items"] == 0 and row["status"] != "error" for row in mine)
        others = [items for other, items in answers[stratum, treated] if other != user]
        own = [items for other, items in answers[stratum, treated] if other == user]
        shown = Counter(item for items in others for item in items)
        overlap = sum(sum(shown[item] for item in items) / len(items) for items in own) / max(len(others), 1)
        found[user, stratum, treated] = [len(mine), errors, empties, *slow, overlap]
    return found


def draws(rows: list[Row]) -> dict[float, tuple[int, int]]:
    """By the chance of the draw: how many were drawn with it, and how many of them into the challenger."""
    met: dict[int, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["stage"] is not None and row["weight"] < 1:
            met[row["user"]][row["stage"]].append(row)
    found: dict[tuple[float, float], list[int]] = defaultdict(lambda: [0, 0])
    for stages in met.values():
        before, stays = 0.0, False
        for stage in sorted(stages):
            weight = max(row["weight"] for row in stages[stage])
            challenger = any(row["variant"] == "challenger" for row in stages[stage])
            if not stays:
                counts = found[before, weight]
                counts[0], counts[1] = counts[0] + 1, counts[1] + challenger
            before, stays = max(before, weight), stays or challenger
    return {(weight - before) / (1 - before): tuple(counts) for (before, weight), counts in found.items()}  # type: ignore[misc]


def as_found(sums: Sums, names: tuple[str, ...]) -> dict[tuple[int, ...], list[float]]:
    keys = zip(sums.user.tolist(), sums.stratum.tolist(), sums.treated.astype(int).tolist(), strict=True)
    columns = zip(sums.exposures, *(sums.outcomes[name] for name in names), strict=True)
    return {key: [float(value) for value in values] for key, values in zip(keys, columns, strict=True)}


def same(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values), key


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_that_is_counted(tmp_path: Path, seed: int, world: str) -> None:
    exposures, outcomes = logged(seed, world)
    rows = drawn(exposures, outcomes)
    watched = ("errors", "empties", "slow_p50", "slow_p99", "overlap")
    with read(tmp_path, exposures, outcomes) as log:
        same(as_found(log.successes(), ("success",)), successes(rows))
        same(as_found(log.technical(full=False), watched), technical(concurrent(rows)))
        if world != "concurrent":
            same(as_found(log.technical(full=True), watched), technical(against_all(rows, world)))
        same({draw.chance: draw[1:] for draw in log.draws()}, draws(rows))
        for stage in (1, 3, None):
            traffic = log.traffic(stage)
            here = [row for row in rows if row["variant"] == "challenger" and row["stage"] == stage is not None]
            wrong = [
                row for row in rows if row["stage"] is not None
                and (row["variant"] == "challenger") != (place("s", row["user_id"]) < row["weight"])
            ]  # fmt: skip
            assert (traffic.exposures, traffic.misdrawn) == (len(rows), len(wrong))
            assert traffic.stage_exposures == (len(here) if stage is not None else 0)
            assert traffic.latest == max(row["time"] for row in rows)
            counts = Counter(row["user"] for row in concurrent(rows))
            assert traffic.busiest == pytest.approx(max(counts.values()) / counts.total())


def plain(number: int, **about: Any) -> Row:
    """An exposure of a user of its own in the champion's arm, half a day after the experiment began."""
    row = {
        "request_id": f"r{number}", "user_id": f"u{number}", "variant": "champion", "model_version": "v", "stage": 3,
        "weight": 0.5, "salt": "s", "time": OPENED + timedelta(hours=12, seconds=number), "latency_ms": 1.0,
        "status": "ok", "n_items": 1, "items": ["i"],
    }  # fmt: skip
    return {**row, **about}


def test_nobody_is_more_than_a_shopper(tmp_path: Path) -> None:
    """Of a user's exposures of a day the first fifty count, and their share of all is taken of those."""
    rows = [plain(0, time=OPENED)] + [plain(number, user_id="bot") for number in range(1, 61)]
    late = [f"r{number}" for number in range(46, 61)]
    clicks = [{"request_id": request, "event_type": "click", "time": OPENED + timedelta(hours=13)} for request in late]
    with read(tmp_path, rows, clicks) as log:
        sums = log.successes()
        assert sums.exposures.tolist() == [50] and sums.outcomes["success"].tolist() == [5]
        assert sorted(log.technical(full=False).exposures) == [1, 50]
        assert log.traffic(3).busiest == pytest.approx(50 / 51)


def test_the_hours_of_novelty_and_of_attribution_are_whole(tmp_path: Path) -> None:
    ripe, known = OPENED + POLICY.hours("novelty"), NOW - POLICY.hours("attribution")
    moment = timedelta(microseconds=1)
    times = [OPENED, ripe - moment, ripe, known, known + moment]
    rows = [plain(number, time=time) for number, time in enumerate(times)]
    at = {"r2": ripe + POLICY.hours("attribution"), "r3": known - TOLERANCE}
    clicks = [{"request_id": request, "event_type": "click", "time": time} for request, time in at.items()]
    with read(tmp_path, rows, clicks) as log:
        assert as_found(log.successes(), ("success",)) == {(2, 0, 0): [1.0, 1.0], (3, 1, 0): [1.0, 1.0]}
    outside = [
        {**click, "time": click["time"] + (moment if click["request_id"] == "r2" else -moment)} for click in clicks
    ]
    with read(tmp_path, rows, outside) as log:
        assert log.successes().outcomes["success"].tolist() == [0.0, 0.0]


def test_only_what_was_by_now_counts(tmp_path: Path) -> None:
    after = NOW + timedelta(microseconds=1)
    with read(tmp_path, [plain(0, time=NOW), plain(1, time=after)], []) as log:
        assert (log.traffic(3).exposures, log.traffic(3).latest) == (1, NOW)


def test_files_of_before_the_experiment_are_left_unread_but_for_the_day_before(tmp_path: Path) -> None:
    write(tmp_path, "exposures", [plain(0)], SCHEMA, "2026-01-04")
    write(tmp_path, "exposures", [plain(1)], SCHEMA, "2026-01-06")
    write(tmp_path, "exposures", [plain(2)], SCHEMA, "2026-01-03")
    with ExposureLog(tmp_path, salt="s", opened=OPENED, now=NOW, policy=POLICY) as log:
        assert log.traffic(3).exposures == 2 and log.successes().outcomes["success"].sum() == 0


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    with ExposureLog(tmp_path, salt="s", opened=OPENED, now=NOW, policy=POLICY) as log:
        assert log.traffic(3) == log.traffic(None) and log.traffic(3).latest is None and log.traffic(3).busiest == 0
        assert log.draws() == [] and not len(log.successes().user) and not len(log.technical(full=True).user)


def test_columns_that_older_gateways_did_not_write_are_null_and_no_others(tmp_path: Path) -> None:
    with read(tmp_path, [plain(0), plain(1)], [], EXPOSURE) as log:
        assert len(log.technical(full=False).user) == 2
    for column in set(EXPOSURE.names) - set(LATER):
        shorter = pa.schema([field for field in SCHEMA if field.name != column])
        with pytest.raises(LogFault, match=rf"exposures: no column {column}; expected request_id"):
            read(tmp_path, [plain(0)], [], shorter)


def test_a_look_compares_from_the_fewest_users_on_and_knows_whom_all_meet(tmp_path: Path) -> None:
    a, b = (
        ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=name, registered=OPENED)
        for name in "ab"
    )
    half = Rollout(model="shop", champion=a, challenger=b, stage=3, weight=0.5, salt="s", since=OPENED)
    rows = [plain(number, variant="challenger" if number < 5 else "champion") for number in range(12)]
    clicks = [{"request_id": f"r{number}", "event_type": "click", "time": rows[number]["time"]} for number in (1, 7)]
    read(tmp_path, [*rows, plain(99, time=OPENED)], clicks)
    for least in (4, 5, 6):
        found = look(tmp_path, half, replace(POLICY, decision_users=least), opened=OPENED, now=NOW)
        assert found.users == 5 and (found.outcome != UNKNOWN) == (least <= 5)
        assert (found.champion_rate, found.challenger_rate) == pytest.approx((1 / 7, 1 / 5))
    watched = Rollout(model="shop", champion=b, former=a, salt="s", since=OPENED)
    for row, full in ((half, False), (replace(half, stage=4, weight=1.0), True), (watched, True)):
        assert look(tmp_path, row, POLICY, opened=OPENED, now=NOW).full == full
