"""Before a canary, what a new archive would earn by the log of what serves: a worse one warns, and none is blocked."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.infra_validate import before_canary
from components.report import step as report
from events.logged import explored, rewarded
from events.schema import TABLES
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.off_policy import FEWEST, Interval
from experiments.rules import Rules
from experiments.rules_table import RulesTable
from experiments.table import RolloutTable
from runtime import workspace
from runtime.decision import Decision, Reason
from runtime.task import Task
from serving.gateway.after.compiled import Compiled, Explorable, compiled
from serving.gateway.after.showing import Items, ShowingLimits, show
from serving.gateway.after.stock import Stock
from serving.gateway.archive import read_contents
from serving.off_policy import Earned, SlotEvidence, evidence
from serving.replay import load
from serving.torchserve import archive
from tests.serving.tiny_archive import ITEMS, write_content

Answers = dict[str, list[dict[str, Any]]]
REQUESTS, K = 400, 3
LIKED, ELSE = 0.8, 0.1
"""How likely a shopper clicks what the archive that knows the truth ranks among its best, and any other item."""
EXPLORING = Rules.of({"exploration": {"share": 0.5, "slots": [2, 3], "most_events": 9}})


@pytest.fixture(scope="module")
def mars(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("new")
    archive.build(
        write_content(folder / "content", version="2.0", seed=1), folder / "new.mar", name="shop", version="2.0"
    )
    return {"champion": mar, "new": folder / "new.mar"}


@pytest.fixture(scope="module")
def answers(mars: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Of each archive, to each request."""
    requests, folder = [_request(number) for number in range(REQUESTS)], tmp_path_factory.mktemp("scorers")
    return {name: load(mar, archive.digest(mar), folder / name, name).score(requests) for name, mar in mars.items()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HETERREC_EVENT_LOG", "HETERREC_ROLLOUT_URL", "HETERREC_ARCHIVES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    return tmp_path


def served(mars: dict[str, Path], answers: Answers, *, knows: str, rules: Rules = EXPLORING) -> SlotEvidence:
    """The log of a champion whose shoppers like what the archive `knows` ranks best, as the gate reads it."""
    champion, rng = archive.digest(mars["champion"]), np.random.default_rng(0)
    arm = ModelVersion(
        version="1", archive=str(mars["champion"]), archive_digest=champion, recipe_digest="r", registered=_now()
    )
    exposures, clicks = [], []
    with RolloutTable(workspace.rollout_url()) as table:
        table.propose(DocumentChange(Rollout(model="shop", champion=arm), "push", "the first"), 0)
        version = RulesTable(table.database, "shop").propose(rules, who="anna", why="new items", expected=0)
        made = compiled(version, read_contents(mars["champion"], champion).catalogue, _now())
        for number in range(REQUESTS):
            row = _exposure(number, made, answers["champion"][number]["items"])
            liked = {item["item_id"] for item in answers[knows][number]["items"][:K]}
            taken = [item for item in row["items"] if rng.random() < (LIKED if item in liked else ELSE)]
            exposures.append(row)
            clicks += [_outcome(row["request_id"], item) for item in taken]
        _write("exposures", exposures)
        _write("outcomes", clicks)
        return evidence("shop", table, last=10 * REQUESTS, reward="click")


def _exposure(number: int, rules: Compiled, ranked: Items) -> dict[str, Any]:
    """What the gateway shows of a ranking, and logs."""
    request = _request(number)
    asked = ShowingLimits(
        k=K, request_id=f"r{number}", hidden=frozenset(event["item_id"] for event in request["history"])
    )
    shown = show(rules, Explorable(rules), Stock(), asked, ranked, counts=False)
    return {
        "request_id": asked.request_id, "user_id": request["user_id"], "time": _now(), "rules": rules.version.number,
        "n_items": K, "items": [item["item_id"] for item in shown.items], "origins": shown.origins,
        "propensities": shown.propensities, "draws": shown.draws, "explorable": shown.explorable,
        "request": json.dumps(request), "placement": "for_you", "override": False, "holdout": False,
    }  # fmt: skip


def _outcome(request_id: str, item: str, event_type: str = "click") -> dict[str, Any]:
    return {"request_id": request_id, "event_type": event_type, "item_id": item, "time": _now()}


def _request(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    history = [
        {"item_id": ITEMS[rng.integers(len(ITEMS))], "event_time": f"2026-01-{day:02d}T10:00:00+00:00",
         "features": {"price": 3.25, "shelf": "top"}}
        for day in range(1, 4)
    ]  # fmt: skip
    return {"user_id": f"u{number}", "k": len(ITEMS), "history": history}


def _write(table: str, rows: list[dict[str, Any]]) -> None:
    folder = workspace.event_log("shop") / table / "day=2026-01-05"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, TABLES[table]), folder / f"{len(list(folder.iterdir()))}.parquet")


def _now() -> datetime:
    return datetime.now(UTC)


def judged(mars: dict[str, Path], known: SlotEvidence) -> Reason:
    return before_canary.reason(mars["new"], archive.digest(mars["new"]), known, reward="click")


@pytest.mark.parametrize(("knows", "held"), [("champion", False), ("new", True)])
def test_a_worse_archive_warns_before_its_canary_and_a_better_one_does_not(
    mars: dict[str, Path], answers: Answers, home: Path, knows: str, held: bool
) -> None:
    found = judged(mars, served(mars, answers, knows=knows))
    assert (found.held, found.level) == (held, "warn"), found.message
    assert (found.found > 0) == held and f"surely {'better' if held else 'worse'}" in found.message
    names = [each["estimate"] for each in found.evidence]
    assert names == ["served", "inverse propensity", "doubly robust", "difference"]
    assert Decision(gate="infra_validate", reasons=[found]).passed, "it warns, and the canary decides"


@pytest.mark.parametrize("shown", [True, False])
def test_without_exploration_one_line_says_why_there_is_no_estimate(
    mars: dict[str, Path], answers: Answers, home: Path, shown: bool
) -> None:
    with RolloutTable(workspace.rollout_url()) as table:
        known = evidence("shop", table, last=10, reward="click")
    if shown:
        known = served(mars, answers, knows="champion", rules=Rules())
        assert len(list((workspace.event_log("shop") / "exposures").rglob("*.parquet"))) == 1
    found = judged(mars, known)
    assert (found.held, found.level, found.found) == (True, "info", None)
    assert "`exploration` in the shop's rules" in found.message and "\n" not in found.message


@pytest.mark.parametrize(("shoppers", "held", "level"), [(FEWEST - 1, True, "info"), (FEWEST, False, "warn")])
def test_few_shoppers_warn_of_nothing(shoppers: int, held: bool, level: str) -> None:
    difference = Interval(-0.3, -0.4, -0.2, shoppers)
    found = before_canary.as_reason(Earned(80, Counter(gone=2), {"difference": difference}), "click")
    assert (found.held, found.level) == (held, level) and "2 slots left out: gone" in found.message
    assert ("too little to tell" in found.message) == held


def test_only_what_explored_is_read_each_once_and_no_one_who_tests_or_is_held_out(home: Path) -> None:
    def row(name: str, draws: list[float | None] | None, **more: Any) -> dict[str, Any]:
        return {"request_id": name, "time": _now(), "draws": draws, "override": False, **more}

    rows = [
        row("a", [None, 0.3]), row("b", [None, None]), row("c", None), row("d", []), row("e", [0.5, 0.1]),
        row("tests", [0.1], override=True), row("held out", [0.1], holdout=True),
    ]  # fmt: skip
    _write("exposures", rows)
    _write("exposures", rows[:1])
    _write("outcomes", [_outcome(each, "i1", kind) for each in "abe" for kind in ("click", "view")])
    log = workspace.event_log("shop")
    assert sorted(each["request_id"] for each in explored(log, 9)) == ["a", "e"]
    assert [each["draws"] for each in explored(log, 1)] == [[None, 0.3]]
    assert rewarded(log, "click", ["a", "e"]) == {("a", "i1"), ("e", "i1")}


def test_the_page_of_a_run_tells_it_beside_the_serving_check(home: Path) -> None:
    loads = Reason(check="loads", held=True, found=1, allowed=1, message="", remedy="x")
    told: dict[str, Any] = {"check": before_canary.CHECK, "found": -0.2, "allowed": "any", "level": "warn"}
    told |= {
        "message": "clicks for each",
        "remedy": "let it tell",
        "evidence": [{"estimate": "served", "value": "+.3"}],
    }
    run_id = "shop-20260101T000000"
    for held, shade in ((False, "warn"), (True, "good")):
        decision = Decision(gate="infra_validate", reasons=[loads, Reason(held=held, **told)])

        def make(out: Path, scratch: Path, decision: Decision = decision) -> dict[str, Any]:
            decision.write(out)
            return decision.summary()

        task = Task("infra_validate", run_id=run_id, module="components.shared.ending")
        task.make_always(home / "out", kind="infra_validate", make=make)
        page = report.page(run_id=run_id, state="", beside=None)
        section = page.partition("Before its canary")[2].partition("</section>")[0]
        assert f'badge {shade}">' in section.partition("</h2>")[0] and "clicks for each" in section
        assert "<td>served</td>" in section and ("let it tell" in section) == (not held)
        assert "passed" in page.partition("Serving check")[2].partition("</section>")[0]
