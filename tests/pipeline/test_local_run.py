"""The whole loop on this machine, as a newcomer starts it: one small marketplace, real parts all the way."""

import json
import re
from pathlib import Path

import pytest

from components.refit.step import weights
from events.schema import to_line
from events.segments import SegmentSink
from pipelines.__main__ import main
from pipelines.lock import run_lock
from runtime.decision import Decision
from runtime.task import read_records
from tests.pages import assert_offline, pages
from tests.pipeline.command import SMALL, command, newest_run

TASKS = [
    "ingest", "resolve", "champion", "reference", "validate", "features", "materialise", "train", "train-baseline",
    "tables", "evaluate", "refit", "package", "infra_validate", "push",
]  # fmt: skip


def assert_told(output: str, ending: str, reason: str) -> None:
    """Its last lines name the check with its numbers, what would change it, and pages that are there."""
    last = output[output.index(ending) :]
    line = next(line for line in last.splitlines() if reason in line)
    assert re.search(r"\d", line) and "to change it: " in last, last
    for page in re.findall(r"(?:page|pictures): (.*)", last):
        assert Path(page).is_file()
    assert last.count("pictures: ") == last.count("\n  page: ") == 1, last


@pytest.fixture(scope="module")
def home(pushed_home: Path) -> Path:
    return pushed_home


@pytest.fixture(autouse=True)
def same_workspace(home, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(home))


def test_first_run_does_every_task_and_makes_a_page_that_needs_no_network(home):
    run_id = min(path.name for path in (home / "runs").iterdir())
    records = read_records(run_id)
    assert sorted(records) == sorted(TASKS)
    assert {record.status for record in records.values()} == {"done"}
    against = json.loads((Path(records["evaluate"].artifact) / "report.json").read_text())["differences"]
    assert against["popularity"]["low"] > 0
    assert against["item ID only"]["low"] > 0, "features must pay where they matter by construction"
    page = (home / "runs" / run_id / "page.html").read_text()
    assert "(champion)" in page
    sections = re.findall(r"<h2>([\w ]*\w)", page)
    assert (sections[0], sections[-1]) == ("Comparison", "Tasks"), "the result first, how it was made last"
    assert re.search(r"<p><b>HeterRec: NDCG@10 0\.\d{4}, \+.* against popularity</b></p>", page)
    refit = records["refit"].report
    assert refit["refitted"], refit["sentence"]
    assert refit["judged"] != refit["serves"] and refit["sentence"] in page
    assert refit["sentence"] in command(home, "status").stdout.replace("\n", " ")
    assert records["infra_validate"].report["found"]["off_policy"] is None
    assert "no estimate of what it would earn" in page, "nothing has served yet"
    release = next((home / "releases" / "marketplace").iterdir())
    folders = {name: weights(release / name) for name in ("model", "served")}
    assert folders == {"model": refit["judged"], "served": refit["serves"]}
    assert "<svg" in page
    for step in ("validation", "data_docs/index.html", "evaluation", "train.html", "train-baseline.html"):
        assert re.search(f'href="[^"]*{step}', page), step
    decision = Decision.read(Path(records["validate"].artifact))
    gate = Path(records["validate"].artifact) / "page.html"
    assert decision.count in page and decision.count in gate.read_text(), "the two pages count the same checks"
    for each in pages(home / "runs" / run_id) + pages(home / "artifacts"):
        assert_offline(each)


def test_same_run_again_reuses_everything_and_releases_nothing(home):
    result = command(home, "run", *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "already released as version" in result.stdout
    records = read_records(newest_run(home))
    reused = {name for name, record in records.items() if record.status == "reused"}
    assert reused >= {"ingest", "validate", "features", "train", "train-baseline", "refit", "package"}
    assert "infra_validate" not in records


def test_ask_answers_a_shopper_with_titles_from_torchserve(home):
    result = command(home, "ask", *["--dataset", "marketplace", "-k", "3"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "in TorchServe recommends" in result.stdout
    lines = [line for line in result.stdout.splitlines() if re.match(r"\s+\d\. ", line)]
    assert len(lines) == 3
    unknown = command(home, "ask", "--user", "nobody")
    assert unknown.returncode == 2
    assert "user 'nobody': not in the online store" in unknown.stderr


def test_lineage_walks_from_the_release_to_the_source(home, capsys):
    assert main(["lineage", "marketplace"]) == 0
    told = capsys.readouterr().out
    for name in ("ingest", "features", "train", "package"):
        assert re.search(rf"^\s+{name} ", told, re.MULTILINE), told
    assert main(["lineage", "marketplace", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["made_of"]
    assert found["aliases"] == ["champion"] and len(found["partitions"]) == 40
    tasks = found["tasks"]
    assert tasks["train"]["parents"]["sequences"] == tasks["features"]["digest"], "each names what it was made of"
    assert tasks["features"]["digest"][:12] in told
    assert main(["lineage", "marketplace", "99"]) == 2


def test_lineage_walks_from_a_served_request_to_the_days_of_its_data(home, capsys):
    request, released = "0123456789abcdef" * 2, next((home / "releases" / "marketplace").iterdir()).name
    shown = {
        "request_id": request, "user_id": "u1", "variant": "champion", "model_version": released, "status": "ok",
        "time": "2026-01-05T10:00:00+00:00", "n_items": 3, "items": ["a", "b", "c"], "request": "{}",
    }  # fmt: skip
    sink = SegmentSink(home / "log" / "marketplace")
    sink.open()
    sink.write([to_line("exposures", shown)])
    sink.close()
    assert main(["lineage", request, "--partitions"]) == 0
    told = capsys.readouterr().out
    assert "of u1, 2026-01-05 10:00:00 UTC" in told
    assert f"marketplace {released} champion" in told and re.search(r"^\s+commit  \w+", told, re.M)
    assert "40 day partitions: 2025-01-06 " in told.replace("\n", " ")
    assert main(["lineage", request, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["request"]["user_id"], found["made_of"]["version"]) == ("u1", released)
    assert main(["lineage", "f" * 32]) == 2
    assert "in none of the event logs of marketplace" in capsys.readouterr().err


def test_model_trained_on_shuffled_targets_is_blocked_and_the_run_ends_green(home):
    result = command(home, "run", *SMALL, "--shuffle-targets")
    assert result.returncode == 0, result.stdout + result.stderr
    assert_told(
        result.stdout, "not pushed: blocked by evaluate", "evaluate: better than popularity: NDCG@10 is not above"
    )
    records = read_records(newest_run(home))
    assert "package" not in records
    assert len(list((home / "releases" / "marketplace").iterdir())) == 1
    assert "not pushed" in (home / "runs" / newest_run(home) / "page.html").read_text()


def test_data_beyond_the_cards_limits_is_blocked_before_training(home):
    result = command(home, "run", *SMALL, "--option", "dirty_rate=0.2", "--blocked-fails")
    assert result.returncode == 3, "blocked is an exit status of its own where that is asked for"
    assert_told(result.stdout, "not pushed: blocked by validate", "validate: rejected_rate: Few of the source's rows")
    assert "change limits.max_rejected_rate in the card" in result.stdout
    assert list(read_records(newest_run(home))) == ["ingest", "resolve", "champion", "reference", "validate"]


def test_second_run_in_a_workspace_is_refused_while_the_first_runs(home):
    with run_lock("nightly"):
        result = command(home, "run", *SMALL)
    assert result.returncode == 2
    assert "run nightly (process" in result.stderr
