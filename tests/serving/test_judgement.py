"""A canary from its release to its end, on logs as a gateway writes them; days pass by an injected clock."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.rollout.step import decide, run
from experiments import transitions
from experiments.decision import (
    Verdict,
    judge,
    look,
    planned_exposures,
)
from experiments.document import (
    STAGES,
    DocumentChange,
    ModelVersion,
    Rollout,
    release,
)
from experiments.guardrails import SHARES
from experiments.log import ExposureLog, LogFault
from experiments.policy import Policy
from experiments.sequential_test import RateDifference
from experiments.table import InterimAnalysis, RolloutTable
from experiments.transitions import WrongMove
from runtime.errors import InputError
from tests.serving.canary_shop import CanaryShop

NOW = datetime(2026, 1, 5, tzinfo=UTC)
POLICY = Policy(stage_exposures=20, planned_exposures=2000, stage_hours=24, novelty_hours=6)
NEW_SALT = "next"


def version(name: str, recipe: str) -> ModelVersion:
    return ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=recipe, registered=NOW)


class Life:
    """One model name with a champion "a" and a challenger "b", a shop that serves them, and a clock."""

    def __init__(
        self, root: Path, policy: Policy = POLICY, champion: ModelVersion | None = None, **challenger: float
    ) -> None:
        self.now, self.policy, self.root = NOW, policy, root
        self.table = RolloutTable(f"sqlite:///{root}/rollout.db", clock=lambda: self.now)
        self.shop = CanaryShop(root / "log", **challenger)
        self.looks: list[InterimAnalysis] = []
        for model in (champion or version("a", "r1"), version("b", "r2")):
            self.release(model)

    @property
    def row(self) -> Rollout:
        return self.table.read("shop")

    def release(self, model: ModelVersion) -> str:
        made = release(self.row, model, now=self.now, salt=lambda: "salt")
        self.table.propose(DocumentChange(made.rollout, "push", made.why), self.row.version)
        return made.status

    def look(self) -> InterimAnalysis:
        _, made = decide(self.table, "shop", self.policy, self.root / "log", now=self.now, salt=lambda: NEW_SALT)
        self.looks.append(made)
        return made

    def until(self, *actions: str, days: int = 30, hours: float = 24.0) -> InterimAnalysis:
        """Serve and look until one of the actions is decided."""
        for _ in range(int(days * 24 / hours)):
            self.shop.serve(self.row, self.now, hours)
            self.now += timedelta(hours=hours)
            if (made := self.look()).action in actions:
                return made
        raise AssertionError(f"no {actions} in {days} days; at last {made.action}: {made.why}")

    def days(self, number: float, hours: float = 24.0) -> InterimAnalysis:
        """Serve and look for some days, whatever is decided."""
        for _ in range(int(number * 24 / hours)):
            self.shop.serve(self.row, self.now, hours)
            self.now += timedelta(hours=hours)
            made = self.look()
        return made


def test_a_better_challenger_climbs_every_stage_is_promoted_and_its_watch_ends(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.3)
    promoted = life.until("promote")
    assert 2 * len(promoted.evidence["guardrails"]) == SHARES, "all of them share one error budget"
    assert promoted.evidence["outcome"]["low"] > 0
    assert (life.row.champion, life.row.former) == (version("b", "r2"), version("a", "r1"))
    assert [entry.rollout.weight for entry in life.table.history("shop")] == [0, *STAGES, 0]
    assert life.release(version("c", "r3")) == "queued"
    ended = life.until("end watch", "roll back")
    assert ended.action == "end watch"
    assert life.row.former is None and life.row.challenger == version("c", "r3") and life.row.salt == NEW_SALT
    assert [made.action for made in life.table.decisions("shop", "salt")] == [made.action for made in life.looks]


def test_an_equal_challenger_is_held_at_one_half_and_goes_back_when_patience_ends(tmp_path: Path) -> None:
    life = Life(tmp_path, replace(POLICY, patience_hours=24 * 8.0))
    back = life.until("roll back", "promote")
    assert back.action == "roll back" and back.why.startswith("undecided, and no fresher, after 8 days")
    assert life.looks[-2].why.startswith("not decided yet")
    assert max(entry.rollout.weight for entry in life.table.history("shop")) == 0.5
    assert life.row.serving == (version("a", "r1"),)


@pytest.fixture
def undecided(tmp_path: Path) -> Callable[..., Verdict]:
    """Judge an experiment at one half, all else sound, by what is found of the outcome."""
    life = Life(tmp_path)
    life.shop.serve(life.row, NOW, 1.0)
    seen = look(tmp_path / "log", life.row, POLICY, opened=NOW, now=NOW + timedelta(hours=1))

    def verdict(
        low: float, estimate: float, *, rate: float = 0.2, fresher: float = 0.0, days: float = 28.0, **policy: float
    ) -> Verdict:
        at = NOW + timedelta(days=days)
        traffic = replace(seen.traffic, latest=at, stage_exposures=10**6, exposures=10**6, misdrawn=0)
        outcome = RateDifference(estimate, low, 2 * estimate - low, 5000.0)
        evidence = replace(seen, at=at, traffic=traffic, outcome=outcome, champion_rate=rate, guardrails=(), ratio=0.0)
        until = NOW - timedelta(days=fresher)
        row = replace(life.row, stage=3, weight=0.5, champion=replace(life.row.champion, data_until=until))
        row = replace(row, challenger=replace(row.challenger, data_until=NOW))
        return judge(row, evidence, replace(POLICY, **policy), opened=NOW, salt=lambda: "s")

    return verdict


@pytest.mark.parametrize(
    ("fresher", "low", "estimate", "action", "why"),
    [
        (1.0, -0.009, 0.0, "raise", "no worse than 5% below, and fresher, after 28 days"),  # an equal model's way
        (0.0, -0.009, 0.0, "roll back", "undecided, and no fresher, after 28 days"),
        (13.9, -0.03, -0.009, "roll back", "undecided, and 14 days fresher, after 28 days"),
        (14.0, -0.03, -0.009, "raise", "undecided, likelier no worse, and 14 days fresher, after 28 days"),
        (14.0, -0.03, -0.011, "roll back", "undecided, and 14 days fresher, after 28 days"),
        (99.0, -0.03, -0.02, "roll back", "worse: "),
    ],
)
def test_at_the_end_of_patience_fresher_data_serves_where_it_is_no_worse(
    undecided: Callable[..., Verdict], fresher: float, low: float, estimate: float, action: str, why: str
) -> None:
    if why == "worse: ":
        low = -0.039  # and the other end is below 0
    made = undecided(low, estimate, fresher=fresher)
    assert made.action == action and why in made.why, made.why
    if action == "raise":
        assert made.rollout.weight == 1
    if why != "worse: ":
        assert undecided(low, estimate, fresher=fresher, days=27.9).action == "hold"


@pytest.mark.parametrize(("rate", "action"), [(0.2, "raise"), (0.02, "hold")])
def test_a_loss_is_a_share_of_the_champions_rate(undecided: Callable[..., Verdict], rate: float, action: str) -> None:
    """.05 of a rate of .2 is one point, of a rate of .02 a tenth of that."""
    assert undecided(-0.004, 0.0, rate=rate, days=9, allowed_loss=0.05).action == action
    late = undecided(-0.004, 0.0, rate=rate, fresher=1.0).action
    assert late == ("raise" if action == "raise" else "roll back")


@pytest.mark.parametrize(("successes", "planned"), [(500.0, 5000.0), (9500.0, 10_000.0), (2.0, 2.5e6), (0.0, 5e6)])
def test_the_interval_is_planned_for_as_many_successes_however_rare(successes: float, planned: float) -> None:
    exposures, outcome = np.full(2, 5000.0), np.array([successes, 0.0])
    policy = Policy(planned_exposures=5000.0, planned_successes=250.0 if successes == 500 else 500.0)
    assert planned_exposures(exposures, outcome, policy) == pytest.approx(planned)


def test_a_worse_challenger_goes_back_and_the_next_candidate_opens_its_own_experiment(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.1)
    assert life.release(version("c", "r3")) == "queued"
    back = life.until("roll back", "promote")
    assert back.action == "roll back" and back.why.startswith("worse: click-through -")
    assert (life.row.challenger, life.row.weight, life.row.salt) == (version("c", "r3"), STAGES[0], NEW_SALT)


@pytest.mark.parametrize(
    ("behaviour", "named"),
    [
        ({"errors": 0.2}, "errors and fallbacks"),
        ({"empties": 0.2}, "answers without an item"),
        ({"slow": 2.0}, "p50"),
        ({"items": 6}, "coverage"),
    ],
)
def test_a_faulty_challenger_goes_back_although_its_clicks_are_better(
    tmp_path: Path, behaviour: dict[str, float], named: str
) -> None:
    life = Life(tmp_path, rate=0.3, **behaviour)
    back = life.until("roll back", "promote")
    assert back.action == "roll back" and back.why.startswith("guardrail") and named in back.why
    assert max(entry.rollout.weight for entry in life.table.history("shop")) < 0.5


def test_a_network_is_not_held_to_the_pace_of_tables_and_is_to_everything_else(tmp_path: Path) -> None:
    tables = replace(version("a", "r1"), network=False)
    life = Life(tmp_path / "slow", champion=tables, rate=0.3, slow=3.0)
    promoted = life.until("roll back", "promote")
    assert promoted.action == "promote", promoted.why
    assert not {each["name"] for each in promoted.evidence["guardrails"]} & {"slow_p50", "slow_p99"}
    life = Life(tmp_path / "faulty", champion=tables, rate=0.3, errors=0.2)
    assert "errors and fallbacks" in life.until("roll back", "promote").why


def test_a_fault_after_promotion_brings_the_former_champion_back_in_one_step(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.3)
    life.until("promote")
    before = life.row.version
    life.shop.behaviour["challenger"]["errors"] = 0.1
    assert life.until("roll back", "end watch").action == "roll back"
    assert life.row.serving == (version("a", "r1"),) and life.row.version == before + 1


def test_a_mismatch_withholds_the_decision_and_a_guardrail_still_acts(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.3, lost=0.4)
    held = life.days(10)
    assert held.action == "hold" and "sample-ratio mismatch" in held.why
    assert life.row.weight < 1
    life.shop.behaviour["challenger"]["errors"] = 0.4
    assert life.until("roll back").why.startswith("guardrail")


def test_a_log_that_disagrees_with_its_salt_withholds_the_decision(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.days(1)
    for file in (tmp_path / "log" / "exposures").glob("*/*.parquet"):
        table = pq.read_table(file)
        swapped = pa.array(["challenger"] * len(table))
        pq.write_table(table.set_column(table.column_names.index("variant"), "variant", swapped), file)
    assert "in another arm than their salt draws" in life.look().why


def test_a_paused_experiment_stays_where_it_is_but_for_its_guardrails(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.3)
    life.days(3)
    paused = life.table.propose(DocumentChange(transitions.pause(life.row, True), "anna", "sale"), life.row.version)
    assert life.days(3).why.startswith("paused by a person")
    assert life.row.weight == paused.weight
    life.shop.behaviour["challenger"]["errors"] = 0.4
    assert life.until("roll back").why.startswith("guardrail")


def test_a_silent_log_raises_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.look().why == "no exposure of this experiment was logged yet"
    life.days(2)
    weight = life.row.weight
    life.now += timedelta(days=2)
    assert life.look().why.startswith("the log is silent since 2026-01-0") and life.row.weight == weight


def test_a_refresh_of_an_arm_changes_neither_stage_nor_salt_and_is_no_candidate(tmp_path: Path) -> None:
    life = Life(tmp_path, rate=0.3)
    life.days(3)
    before = life.row
    assert [life.release(version(*model)) for model in (("b2", "r2"), ("a2", "r1"))] == ["refreshed"] * 2
    assert life.row == replace(
        before, challenger=version("b2", "r2"), champion=version("a2", "r1"), version=before.version + 2
    )
    life.until("promote")
    assert life.release(version("a3", "r1")) == "refreshed" and life.row.former == version("a3", "r1")


def test_a_person_who_is_faster_than_a_look_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.days(1)
    propose, waiting = RolloutTable.propose, ["anna"]

    def raced(table: RolloutTable, change: DocumentChange, *rest: object) -> Rollout:
        if waiting:
            mine = DocumentChange(
                transitions.roll_back(table.read("shop"), now=NOW, salt=lambda: "x"), waiting.pop(), "no"
            )
            propose(table, mine, table.read("shop").version)
        return propose(table, change, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RolloutTable, "propose", raced)
    life.days(1)
    assert life.looks[-1].why == "no experiment runs" and life.row.serving == (version("a", "r1"),)


def test_the_page_and_the_decision_are_written_for_every_ending(tmp_path: Path) -> None:
    life = Life(tmp_path, errors=0.3)
    life.until("roll back")
    life.table.__exit__()
    out = tmp_path / "out"
    out.mkdir()
    url = f"sqlite:///{tmp_path}/rollout.db"
    report = run(model="shop", policy=POLICY.to_json(), log=tmp_path / "log", rollout_url=url, decision=out)
    assert report["action"] == "hold" and report["why"] == "no experiment runs"
    page = (out / "page.html").read_text()
    assert (
        "rolled back</span>" in page
        and "errors and fallbacks: BREACHED" in page
        and "http" not in page.split("<svg")[0]
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("[]", "policy: found list"),
        ("{", "policy: not JSON"),
        ('{"stagehours": 1}', "'stagehours' is unknown; known are"),
        ('{"stages": [0.5, 0.1, 1]}', "expected shares that rise to 1"),
        ('{"alpha": 2}', "alpha=2; expected a share"),
        ('{"stage_hours": "day"}', "stage_hours='day' is of the wrong type"),
    ],
)
def test_a_bad_policy_is_told_in_one_message(tmp_path: Path, policy: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        run(model="shop", policy=policy, log=tmp_path, rollout_url="sqlite://", decision=tmp_path)


def test_a_log_that_breaks_the_contract_is_named_and_changes_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.days(0.5, hours=12)
    file = next((tmp_path / "log" / "exposures").glob("*/*.parquet"))
    pq.write_table(pq.read_table(file).drop_columns(["latency_ms"]), file)
    before = life.row
    with pytest.raises(LogFault, match=r"exposures: no column latency_ms; expected request_id"):
        life.look()
    file.write_bytes(b"half a file")
    with pytest.raises(LogFault, match="Parquet"):
        life.look()
    assert life.row == before


def test_a_log_is_read_once_however_often_an_exposure_was_written_and_only_until_now(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.days(1, hours=12)
    for file in list((tmp_path / "log").glob("*/*/*.parquet")):
        file.with_name(f"again-{file.name}").write_bytes(file.read_bytes())
    assert life.look().evidence["traffic"]["exposures"] == life.looks[-2].evidence["traffic"]["exposures"]
    arguments = {"salt": "salt", "opened": NOW, "policy": POLICY}
    with ExposureLog(tmp_path / "log", now=NOW + timedelta(hours=12), **arguments) as log:  # type: ignore[arg-type]
        half = log.traffic(0)
    assert half.exposures == life.looks[0].evidence["traffic"]["exposures"]
    assert half.latest is not None and half.latest < NOW + timedelta(hours=12)


def test_moves_that_are_not_open_are_refused_with_the_reason() -> None:
    alone = Rollout(model="shop", champion=version("a", "r1"))
    opened = release(alone, version("b", "r2"), now=NOW, salt=lambda: "s").rollout
    for move in (
        lambda: transitions.promote(alone, now=NOW),
        lambda: transitions.roll_back(alone, now=NOW, salt=lambda: ""),
        lambda: transitions.end_watch(opened, now=NOW, salt=lambda: ""),
        lambda: transitions.raise_weight(opened, 0.001, now=NOW),
        lambda: transitions.pause(alone, True),
        lambda: transitions.pause(opened, False),
    ):
        with pytest.raises(WrongMove, match="shop: "):
            move()
