"""The data side's commands on a small shop with a released model: new items served without training, users deleted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.package import step as package
from components.push import step as push
from components.refresh.step import patch
from components.shared.expected_tasks import of_catalogue
from experiments.table import RolloutTable
from feature_repo.card import DATASETS, load_card
from heterrec import recipes
from heterrec.data.sequences import read_sequences
from heterrec.inference.answers import Answers
from heterrec.training.export import load_model, save_model
from heterrec.training.loop import train
from heterrec.training.refit import refit
from pipelines import catalogue
from pipelines.__main__ import main
from pipelines.catalogue_run import build
from pipelines.data_commands import moment, with_options
from runtime import workspace
from runtime.decision import Decision, Reason
from runtime.task import TaskRecord, read_records
from serving.torchserve import archive as archives
from tests.pipeline.training_frame import training_frame

SMALL = [
    "--option",
    "users=80",
    "--option",
    "items=60",
    "--option",
    "new_items_per_day=2",
    "--option",
    "dirty_rate=0.0",
]
DAYS = 16


def young_shop() -> Path:
    """The marketplace's card for a shop of a few days, where the age of items is another one each day."""
    card = workspace.home() / "marketplace.yaml"
    if not card.exists():
        age = "derive: {by: age}, "
        told = (DATASETS / "marketplace.yaml").read_text()
        assert age in told
        card.write_text(told.replace(age, age + "max_drift: 9, block_drift: 9, "))
    return card


def options(days: int) -> list[str]:
    return ["--dataset", str(young_shop()), *sized(days)]


def sized(days: int) -> list[str]:
    return [*SMALL, "--option", f"days={days}"]


def card_of(days: int):
    return with_options(load_card(str(young_shop())), sized(days)[1::2])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace in which a tiny, really trained model serves."""
    home = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HETERREC_HOME", str(home))
        card = card_of(DAYS)
        sequences = training_frame(card, run_id="first")
        tiny = replace(recipes.heterrec(), epochs=1)
        tiny = replace(tiny, model=replace(tiny.model, width=16, item_layers=1, max_history=10))
        folders = {
            name: home / "made" / name
            for name in ("model", "served", "archive", "evaluation", "infra_validation", "release")
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
        data = read_sequences(sequences)
        judged = train(data, tiny)
        save_model(judged, folders["model"])
        save_model(refit(judged.loaded, tiny, data), folders["served"])
        package.run(card=card, sequences=sequences, model=folders["served"], archive=folders["archive"], name=card.name)
        held = Reason(check="better", held=True, found=1, allowed=0, message="", remedy="none")
        Decision(gate="evaluate", reasons=[held]).write(folders["evaluation"])
        digest = archives.digest(folders["archive"] / f"{card.name}.mar")
        about = Reason(check="archive", held=True, found=digest, allowed="any", message="", level="info")
        Decision(gate="infra_validate", reasons=[about]).write(folders["infra_validation"])
        (folders["evaluation"] / "report.json").write_text("{}")
        urls = {"mlflow_url": workspace.mlflow_url(), "rollout_url": workspace.rollout_url()}
        push.run(**folders, **urls, lineage={}, store=workspace.releases())
    return home


@pytest.fixture(autouse=True)
def same_workspace(home, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(home))


def newest_run(home: Path) -> str:
    return max((home / "runs").glob("marketplace-catalogue-*"), key=lambda path: path.stat().st_mtime).name


def champion():
    with RolloutTable(workspace.rollout_url()) as table:
        return table.read("marketplace").champion


def test_new_items_and_prices_are_served_without_training(capsys, home, tmp_path):
    before = champion()
    assert main(["catalogue", *options(DAYS + 3)]) == 0
    told = capsys.readouterr().out
    after = champion()
    assert after.version == patch(before.version) and f"{before.version} -> {after.version}  refreshed" in told
    assert after.recipe_digest == before.recipe_digest
    old, new = (json.loads(archives.read(Path(each.archive), "items.json"))["item_id"] for each in (before, after))
    assert len(new) == len(old) + 3 * 2 and "6 of them new" in told
    for each in (before, after):
        (tmp_path / each.version).mkdir()
        (tmp_path / each.version / "m.npy").write_bytes(archives.read(Path(each.archive), "item_matrix.npy"))
    matrices = [np.load(tmp_path / each.version / "m.npy") for each in (before, after)]
    assert matrices[1].shape[0] == len(new)
    releases = [Path(each.archive).parent for each in (before, after)]
    for name in ("model", "served"):
        first, second = ((release / name / "weights.pt").read_bytes() for release in releases)
        assert first == second, f"{name}: the next refresh and the next night find what they found before"
    today = read_sequences(Path(read_records(newest_run(home))["features"].artifact))
    of = {name: Answers.to_serve(load_model(releases[1] / name), today).items for name in ("model", "served")}
    np.testing.assert_array_equal(matrices[1], of["served"])
    assert not np.allclose(matrices[1], of["model"]), "the weights that serve, and not those that were judged"
    from feature_repo.online import online
    from feature_repo.store import connect

    store = connect("marketplace", workspace.feature_store("marketplace"))
    asked = ["item_varying:price", "item_derived:sold_7d", "item_derived:days_since_first_seen"]
    newest = online(store, asked, [{"item_id": sorted(set(new) - set(old))[0]}])
    assert newest["price"][0] > 0 and newest["days_since_first_seen"] == [2.0]

    assert main(["catalogue", *options(DAYS + 3)]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert champion().version == after.version
    first, second = sorted(path.name for path in (home / "runs").glob("marketplace-catalogue-*"))
    ran = {run: read_records(run) for run in (first, second)}
    assert {record.status for records in ran.values() for record in records.values()} <= {"done", "reused"}
    assert [set(ran[first]) - set(ran[second])] == [{"proof-champion", "release-champion"}]
    assert "reference" in ran[first], "held against the last accepted run, as on a cluster"
    assert (home / "runs" / first / "page.html").is_file()


def test_a_former_champion_that_is_kept_for_the_way_back_is_not_refreshed():
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read("marketplace")
    watched = replace(row, former=replace(row.champion, version="0.9", archive_digest="0"))
    done = {"validate": TaskRecord(task="validate", status="done", started="", report={"passed": True})}
    tasks = of_catalogue(done, catalogue.serving(watched))
    assert [task for task in tasks if "-" in task] == ["refresh-champion"]
    graph = build().pipeline_spec.components
    assert not [name for name in graph if "former" in name] and "comp-refresh" in graph


def test_a_backfill_gives_each_day_once_and_for_all(capsys):
    asked = ["backfill", "2025-01-18", "2025-01-19", *options(DAYS + 3)]
    assert main(asked) == 0
    first = capsys.readouterr().out
    assert first.count("new") == 2
    assert main(["backfill", "2025-01-18", "2025-01-19", *options(DAYS + 5)]) == 0
    again = capsys.readouterr().out
    assert again.count("as before") == 2, "days that came later change no earlier frame"


def test_a_backfill_that_cannot_be_is_told(capsys):
    assert main(["backfill", "2020-01-01", "2020-01-01", *options(DAYS + 5)]) == 2
    assert "lies before the first event" in capsys.readouterr().err
    assert main(["backfill", "2025-01-19", "2025-01-18", *options(DAYS + 5)]) == 2
    with pytest.raises(SystemExit):
        main(["backfill", "yesterday", "2025-01-18"])


def test_a_deleted_user_is_in_no_file_of_the_workspace(capsys, home):
    assert main(["catalogue", *options(DAYS + 5)]) == 0
    golden = json.loads(archives.read(Path(champion().archive), "goldens.jsonl").splitlines()[0])["request"]["user_id"]
    sequences = training_frame(card_of(DAYS + 5), run_id="before")
    users = pq.read_table(sequences / "events.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    user = next(each for each in users if each != golden)
    assert main(["forget", user, golden, *options(DAYS + 5)]) == 0
    told = capsys.readouterr().out
    assert "deleted 2 users online and offline" in told and "shows one of them, or remembers what one bought" in told
    assert "had no event" not in told
    assert main(["forget", user.upper(), *options(DAYS + 5)]) == 0
    assert f"'{user.upper()}' had no event: is it the id" in capsys.readouterr().out
    sequences = training_frame(card_of(DAYS + 5), run_id="after")
    left = pq.read_table(sequences / "events.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    assert set(users) - set(left) == {user, golden}
    for path in home.rglob("*"):
        if path.is_file() and path.suffix not in (".mar",):
            assert user.encode() not in path.read_bytes(), path
    assert main(["catalogue", *options(DAYS + 5)]) == 0, "what is left serves on"


def test_a_day_means_its_last_moment():
    assert moment("2025-01-18") == "2025-01-18T23:59:59.999999+00:00"
    assert moment("2025-01-18T10:00:00") == "2025-01-18T10:00:00+00:00"
    assert [patch(version) for version in ("1.0", "1.0.1", "20260105-1f0c9a7e", "20260105-1f0c9a7e.9")] == [
        "1.0.1", "1.0.2", "20260105-1f0c9a7e.1", "20260105-1f0c9a7e.10",
    ]  # fmt: skip
