"""Push over a real MLflow database, a real rollout table and a real release store."""

import json
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from components.push import step
from components.refresh import release as refresh
from components.report import ledger
from components.shared import model_registry
from components.shared.model_registry import Registry, TrialRecord
from components.shared.release_store import released_version
from experiments.document import DocumentChange
from experiments.table import RolloutTable
from experiments.transitions import roll_back
from heterrec.recipes import TrainConfig
from runtime import object_store, workspace
from runtime.decision import Decision, Reason
from runtime.errors import InputError
from runtime.manifest import digest_json
from runtime.task import TaskRecord
from serving.releases import Releases
from serving.torchserve import archive as archives
from tests.s3_server import s3_bucket

ROOT = workspace.ROOT
FOLDERS = ("archive", "model", "served", "evaluation", "infra_validation", "release")
NOW = datetime(2026, 1, 5, tzinfo=UTC)
LINEAGE = {
    "run_id": "run-1",
    "commit": "abc123",
    "tasks": {"features": {"digest": "d-features", "parents": {}, "artifact": "x"}},
}


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: to create it takes MLflow seconds. Every test has a model name of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


class Shop:
    """A place to push to, and what to push."""

    def __init__(self, root: Path, mlflow_url: str, name: str) -> None:
        self.root, self.name, self.mlflow_url = root, name, mlflow_url
        self.rollout_url = f"sqlite:///{root}/rollout.db"
        self.store = root / "releases"

    def push(
        self,
        version: str,
        recipe: str = "r1",
        passed: bool = True,
        release: dict[str, str] | None = None,
        **changed: Any,
    ) -> dict[str, Any]:
        folders = {kind: self.root / version / kind for kind in FOLDERS}
        if not folders["archive"].exists():
            self.write(version, recipe, passed)
        places = {"mlflow_url": self.mlflow_url, "rollout_url": self.rollout_url, "store": self.store}
        if release is not None:
            (folders["evaluation"] / "report.json").write_text(json.dumps({"release": release}))
        return step.run(**folders, **places, **{"lineage": LINEAGE, "clock": lambda: NOW, **changed})

    def write(
        self, version: str, recipe: str = "r1", passed: bool = True, content: str | None = None, **said: Any
    ) -> None:
        """What a run hands to push; `said` goes into the archive's report."""
        folders = {kind: self.root / version / kind for kind in FOLDERS}
        for folder in folders.values():
            folder.mkdir(parents=True)
        (self.root / version / "content").mkdir()
        (self.root / version / "content/goldens.jsonl").write_text(content or version)
        mar = folders["archive"] / f"{self.name}.mar"
        digest = archives.build(self.root / version / "content", mar, name=self.name, version=version)
        report = {"model": self.name, "version": version, "archive_digest": digest, "recipe_digest": recipe, **said}
        (folders["archive"] / "report.json").write_text(json.dumps(report))
        for kind in ("model", "served"):
            (folders[kind] / "config.json").write_text(json.dumps({"model": {"width": 8}, "seed": 1}))
            (folders[kind] / "weights.pt").write_text(kind)
        reason = Reason(check="better", held=passed, found=1, allowed=0, message="", remedy="none")
        Decision(gate="evaluate", reasons=[reason]).write(folders["evaluation"])
        self.prove(folders["infra_validation"], digest)
        numbers = {"heterrec": {"ndcg@10": 0.25, "slices": {"rare": float("nan")}}, "names": ["a"], "blessed": True}
        (folders["evaluation"] / "report.json").write_text(json.dumps(numbers))

    def prove(self, folder: Path, digest: str, *, gate: str = "infra_validate", passed: bool = True) -> None:
        """Write the decision of infra_validate about the archive of this digest."""
        about = Reason(check="archive", held=True, found=digest, allowed="any", message="", level="info")
        right = Reason(
            check="golden_answers_wrong", held=passed, found=3, allowed=0, message="3 goldens differ", remedy="none"
        )
        Decision(gate=gate, reasons=[about, right]).write(folder)

    @property
    def table(self) -> RolloutTable:
        return RolloutTable(self.rollout_url)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.mlflow_url, self.mlflow_url)

    def versions(self) -> list[Any]:
        found = self.client.search_model_versions(f"name='{self.name}'")
        return sorted(found, key=lambda version: int(version.version))

    def runs(self) -> list[Any]:
        return self.client.search_runs([self.client.get_experiment_by_name(self.name).experiment_id])

    def aliases(self) -> dict[str, str]:
        """Alias to our version."""
        tags = {str(version.version): version.tags["version"] for version in self.versions()}
        return {alias: tags[str(n)] for alias, n in self.client.get_registered_model(self.name).aliases.items()}


@pytest.fixture
def shop(tmp_path: Path, mlflow_url: str, request: pytest.FixtureRequest) -> Shop:
    return Shop(tmp_path, mlflow_url, f"shop-{digest_json(request.node.name)[:8]}")


def test_a_recipe_that_was_sent_back_rests_and_nothing_of_its_model_is_kept(shop: Shop) -> None:
    shop.push("v1")
    assert shop.push("v2", "r2")["status"] == "challenger"
    with shop.table as table:
        row = table.read(shop.name)
        table.propose(DocumentChange(roll_back(row, now=NOW, salt=lambda: "s"), "judge", "worse"), row.version)
    made = shop.push("v3", "r2")
    assert made["status"] == "resting" and "rests until" in made["why"]
    assert not (shop.store / shop.name / "v3").exists() and [v.tags["version"] for v in shop.versions()] == ["v1", "v2"]
    assert shop.aliases() == {"champion": "v1"}
    assert shop.push("v4", "r3")["status"] == "challenger", "another recipe is tried at once"
    later = {"clock": lambda: NOW + timedelta(days=7)}
    assert shop.push("v5", "r2", **later)["status"] == "queued"


def test_first_then_refresh_then_challenger_then_queue(shop: Shop) -> None:
    pushed = [shop.push(*pair) for pair in [("v1", "r1"), ("v2", "r1"), ("v3", "r2"), ("v4", "r3")]]
    assert [report["status"] for report in pushed] == ["champion", "refreshed", "challenger", "queued"]
    with shop.table as table:
        row = table.read(shop.name)
        assert [entry.who for entry in table.history(shop.name)] == ["push"] * 4
    assert [model.version for model in (*row.serving, *row.queue)] == ["v2", "v3", "v4"]
    assert row.version == pushed[-1]["rollout_version"] == 4 and row.salt
    assert shop.aliases() == {"champion": "v2", "challenger": "v3"}
    assert json.loads((shop.root / "v4/release/report.json").read_text()) == pushed[-1]


def test_a_release_holds_the_very_archive_and_its_models_judged_and_served(shop: Shop) -> None:
    shop.push("v1")
    with shop.table as table:
        champion = table.read(shop.name).champion
    assert champion is not None and champion.registered == NOW
    stored = Path(champion.archive)
    assert stored == shop.store / shop.name / "v1" / f"{shop.name}.mar"
    assert archives.digest(stored) == champion.archive_digest
    for judged_or_served in ("model", "served"):
        assert (stored.parent / judged_or_served / "weights.pt").read_text() == judged_or_served
    assert [path.name for path in (shop.store / shop.name).iterdir()] == ["v1"]


def test_with_a_bucket_the_row_and_mlflow_name_the_release_by_its_address(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_bucket("models") as environment:
        for name, value in {**environment, "HETERREC_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        shop.push("v1")
        with shop.table as table:
            champion = table.read(shop.name).champion
        assert champion is not None
        folder = f"s3://models/workspace/releases/{shop.name}/v1"
        assert champion.archive == f"{folder}/{shop.name}.mar"
        assert [version.source for version in shop.versions()] == [folder]
        # Another machine, with neither the folder nor the setting: the row says it all.
        monkeypatch.delenv("HETERREC_STORE")
        monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "another"))
        mar = Releases(shop.name, workspace.archives()).fetched(champion)
        assert archives.digest(mar) == champion.archive_digest and mar.is_relative_to(tmp_path / "another")
        there = object_store.fetch_release(champion.archive)
        assert there == tmp_path / "another" / "releases" / shop.name / "v1"
        assert json.loads((there / "model" / "config.json").read_text())["seed"] == 1
        with pytest.raises(InputError, match=r"expected STORE/releases/MODEL/VERSION/MODEL.mar"):
            object_store.fetch_release("s3://models/shop.mar")


def test_mlflow_keeps_settings_metrics_and_lineage(shop: Shop) -> None:
    report = shop.push("v1")
    (version,) = shop.versions()
    assert version.tags == {
        "version": "v1",
        "archive_digest": report["archive_digest"],
        "recipe_digest": "r1",
        "run_id": "run-1",
        "git_commit": "abc123",
        "data_digest": "d-features",
        "parent.features": "d-features",
    }
    run = shop.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"heterrec.ndcg_at_10": 0.25}
    assert run.data.params == {"model.width": "8", "seed": "1"}


def test_the_same_archive_is_released_once_also_after_it_was_replaced(shop: Shop) -> None:
    first = shop.push("v1")
    assert shop.push("v1")["status"] == "already released"
    shop.push("v2")  # a refresh: v1 is gone from the row, and known from its history
    again = shop.push("v1")
    assert (again["status"], again["version"]) == ("already released", "v1")
    assert len(shop.versions()) == len(shop.runs()) == 2
    assert released_version(shop.rollout_url, shop.name, first["archive_digest"]) == "v1"
    assert released_version(shop.rollout_url, shop.name, "other") is None
    assert shop.aliases() == {"champion": "v2"}


def test_files_of_a_release_that_changed_take_the_place_of_the_servers_copies(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is given the whole release; here MLflow's client writes the copies itself."""
    monkeypatch.setattr(model_registry, "has_copies", lambda url: True)
    shop.client.create_experiment(shop.name, artifact_location=f"{shop.root}/uploads")
    digest = shop.push("v1")["archive_digest"]
    (uploads,) = (shop.root / "uploads").glob("*/artifacts/release")
    folder = shop.store / shop.name / "v1"

    def contents(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert contents(uploads) == contents(folder)
    changed = [folder / "model" / "weights.pt", folder / "manifest.json"]
    for path in changed:
        path.write_text("changed")
    book = Registry(shop.mlflow_url, shop.name)
    book.replace(digest, folder, changed)
    assert contents(uploads) == contents(folder) and len(contents(folder)) > len(changed)
    book.replace("of an archive that it never had", folder, [folder / "nothing"])


@pytest.mark.parametrize(
    ("network", "data_until"), [(True, "2026-01-04T00:00:00+00:00"), (False, "2026-01-05T06:00:00+00:00")]
)
def test_a_refreshed_network_is_as_old_as_its_training_and_tables_are_of_today(
    network: bool, data_until: str, shop: Shop
) -> None:
    """Tables are counted anew over all events at each refresh; an equal model may take the place of what is older."""
    for version, until in (("v1", "2026-01-04T00:00:00+00:00"), ("v1.1", "2026-01-05T06:00:00+00:00")):
        shop.write(version, network=network, data_until=until, refreshes="v1")
    shop.push("v1")
    folders = {name: shop.root / "v1.1" / name for name in signature(refresh.run).parameters if name in FOLDERS}
    places = {"mlflow_url": shop.mlflow_url, "rollout_url": shop.rollout_url, "store": shop.store}
    assert refresh.run(**folders, **places, lineage=LINEAGE)["status"] == "refreshed"
    with shop.table as table:
        champion = table.read(shop.name).champion
    assert champion is not None and champion.version == "v1.1" and champion.network == network
    assert champion.data_until == datetime.fromisoformat(data_until)


@pytest.mark.parametrize(
    "killed_in",
    [
        "mlflow.MlflowClient.log_metric",
        "mlflow.MlflowClient.create_model_version",
        "experiments.table.RolloutTable.propose",
        "mlflow.MlflowClient.set_registered_model_alias",
    ],
)
def test_a_push_that_was_killed_is_completed_by_the_next_without_doubles(
    shop: Shop, killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(killed_in, kill)
        shop.push("v1")
    status = shop.push("v1")["status"]
    assert status == ("already released" if killed_in.endswith("alias") else "champion")
    assert len(shop.versions()) == len(shop.runs()) == 1
    assert shop.runs()[0].data.metrics == {"heterrec.ndcg_at_10": 0.25}
    assert shop.aliases() == {"champion": "v1"}
    with shop.table as table:
        assert len(table.history(shop.name)) == 1


def test_a_row_that_moves_while_a_model_is_pushed_is_read_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.push("v1")
    propose, waiting = RolloutTable.propose, ["somebody"]

    def raced(table: RolloutTable, change: DocumentChange, expected_version: int) -> Any:
        if waiting:
            propose(table, DocumentChange(table.read(shop.name), waiting.pop(), "was faster"), expected_version)
        return propose(table, change, expected_version)

    monkeypatch.setattr(RolloutTable, "propose", raced)
    assert shop.push("v2", "r2")["status"] == "challenger"
    with shop.table as table:
        assert [entry.who for entry in table.history(shop.name)] == ["push", "somebody", "push"]


def test_a_blocked_model_and_a_missing_archive_are_refused(shop: Shop) -> None:
    with pytest.raises(InputError, match="only a blessed model is pushed"):
        shop.push("v1", passed=False)
    with pytest.raises(InputError, match=r"report\.json: no such file"):
        step.run(
            archive=shop.root, model=shop.root, served=shop.root, evaluation=shop.root,
            infra_validation=shop.root, lineage={},
            mlflow_url=shop.mlflow_url, rollout_url=shop.rollout_url, store=shop.store,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"passed": False}, "infra_validate blocked this archive; it is not released. 3 goldens differ"),
        ({"digest": "of another archive"}, "expected one of infra_validate about"),
        ({"gate": "evaluate"}, "a decision of evaluate"),
    ],
)
@pytest.mark.parametrize("who", [step, refresh], ids=lambda who: who.__name__)
def test_whoever_changes_what_serves_reads_the_decision_about_this_archive(
    who: Any, said: dict[str, Any], message: str, shop: Shop
) -> None:
    digest = shop.push("v1")["archive_digest"]
    folders = {name: shop.root / "v1" / name for name in signature(who.run).parameters if name in FOLDERS}
    shop.prove(folders["infra_validation"], **{"digest": digest, **said})
    report = json.loads((folders["archive"] / "report.json").read_text())
    (folders["archive"] / "report.json").write_text(json.dumps({**report, "refreshes": "v1"}))
    places = {"mlflow_url": shop.mlflow_url, "rollout_url": shop.rollout_url, "store": shop.store}
    with pytest.raises(InputError, match=message):
        who.run(**folders, **places, lineage=LINEAGE)
    with shop.table as table:
        assert len(table.history(shop.name)) == 1


def test_every_step_that_changes_what_serves_asks_for_the_proof() -> None:
    """Of the steps' own modules: those that write the rollout table with an archive that they were given."""
    writers = [path for path in (ROOT / "components").rglob("*.py") if ".propose(" in path.read_text()]
    assert {str(path.relative_to(ROOT / "components")) for path in writers} == {
        "push/step.py", "refresh/release.py", "rollout/step.py",
    }, "a new writer: it reads the decision itself, as push does, or decides itself, as rollout does"  # fmt: skip
    assert all("require_proven(" in path.read_text() for path in writers if path.parent.name != "rollout")


def test_an_archive_that_is_not_what_its_report_promises_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.push("v1")
    original = archives.build
    monkeypatch.setattr(archives, "build", lambda *a, **k: original(*a, **k)[:-4] + "0000")
    with pytest.raises(InputError, match=r"its report promises .*; run the package step again"):
        shop.push("v2")
    with shop.table as table:
        assert len(table.history(shop.name)) == 1
    assert [path.name for path in (shop.store / shop.name).glob("v*")] == ["v1"]


def test_every_run_that_trained_is_logged_and_a_blocked_one_with_its_reason(
    mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    name = f"shop-{digest_json(request.node.name)[:8]}"
    model, evaluation = tmp_path / "artifacts/model/m", tmp_path / "artifacts/evaluation/e"
    for folder in (model, evaluation):
        folder.mkdir(parents=True)
    (model / "config.json").write_text(TrainConfig(epochs=2, shuffle_targets=True).to_json())
    points = [{"epoch": 1, "loss": 4.0, "validation_ndcg": None}, {"epoch": 2, "loss": 3.0, "validation_ndcg": 0.1}]
    (model / "curve.json").write_text(json.dumps(points))
    numbers = {"models": {"HeterRec": {"ndcg@10": 0.02}, "champion": {"ndcg@10": 0.2}}, "recipe": "abc"}
    (evaluation / "report.json").write_text(json.dumps(numbers))
    reports = {"validate": {"dataset": name, "as_of": "2026-01-05"}, "evaluate": {"blocked": ["below the reference"]}}
    for task, artifact in (("validate", ""), ("features", ""), ("train", model), ("evaluate", evaluation)):
        report = reports.get(task, {})
        TaskRecord(
            task=task, status="done", started=task, artifact=str(artifact), digest=f"d-{task}", report=report
        ).write("r")
    for _ in range(2):  # a report that is repeated makes no second run
        assert ledger.run(run_id="r", mlflow_url=mlflow_url, outcome="not pushed: blocked by evaluate")
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_url, mlflow_url)
    experiment = client.get_experiment_by_name(name)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["shuffle_targets"] == "True" and run.data.params["model.width"] == "64"
    assert run.data.metrics["models.champion.ndcg_at_10"] == 0.2 and run.data.metrics["training.loss"] == 3.0
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "training.loss")] == [
        (1, 4.0), (2, 3.0),
    ]  # fmt: skip
    told = {
        key: run.data.tags[key] for key in ("outcome", "reason", "model", "dataset", "recipe_digest", "data_digest")
    }
    assert told == {
        "outcome": "not pushed: blocked by evaluate", "reason": "below the reference", "dataset": name,
        "model": "HeterRec, all parts of the paper, targets shuffled", "recipe_digest": "abc",
        "data_digest": "d-features",
    }  # fmt: skip


def test_a_run_that_was_released_is_logged_once(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    shop.push("v1")
    trial = TrialRecord(
        run_id="run-1",
        model="HeterRec",
        settings={"seed": 1},
        metrics={"heterrec.ndcg@10": 0.25},
        curve=[],
        tags={"outcome": "x"},
    )
    Registry(shop.mlflow_url, shop.name).log(trial)
    (run,) = shop.runs()
    assert run.data.tags["outcome"] == "x" and run.data.tags["git_commit"] == "abc123"
    assert run.data.metrics == {"heterrec.ndcg_at_10": 0.25}


def test_tables_that_were_released_are_a_run_beside_that_of_the_model_and_the_row_says_why(shop: Shop) -> None:
    release = {"judged": "HeterRec", "released": "neighbour tables", "why": "NDCG@10 is not surely above."}
    assert shop.push("v1", release=release)["status"] == "champion"
    trial = TrialRecord(
        run_id="run-1", model="HeterRec", settings={"seed": 2}, metrics={}, curve=[], tags={"reason": "x"}
    )
    for _ in range(2):
        Registry(shop.mlflow_url, shop.name).log(trial)
    tables, model = sorted(shop.runs(), key=lambda run: run.data.params["seed"])
    assert (tables.data.tags["released"], tables.data.tags["judged"]) == ("neighbour tables", "HeterRec")
    assert tables.data.params["seed"] == "1" and "reason" not in tables.data.tags
    assert (model.data.tags["model"], model.data.tags["reason"]) == ("HeterRec", "x") and len(shop.runs()) == 2
    (version,) = shop.versions()
    assert version.tags["why"] == release["why"]
    with shop.table as table:
        why = table.history(shop.name)[-1].why
    assert why.endswith("(the neighbour tables, not HeterRec: NDCG@10 is not surely above.)"), why


def test_mlflow_that_is_away_hides_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    for task in ("validate", "train"):
        report = {"dataset": "x", "as_of": "y"}
        TaskRecord(task=task, status="done", started=task, artifact=str(tmp_path), report=report).write("r")
    assert not ledger.run(run_id="r", mlflow_url="nosuch://mlflow", outcome="x")
    assert "mlflow_failed" in capsys.readouterr().out
    TaskRecord(task="train", status="failed", started="1").write("r")
    assert not ledger.run(run_id="r", mlflow_url="unused", outcome="x"), "nothing was trained"


def test_an_experiment_that_somebody_deleted_is_there_again(tmp_path: Path, mlflow_url: str) -> None:
    from mlflow import MlflowClient

    shop, client = Shop(tmp_path, mlflow_url, "swept"), MlflowClient(mlflow_url)
    assert shop.push("1.0")["status"]
    experiment = client.get_experiment_by_name("swept")
    client.delete_experiment(experiment.experiment_id)
    assert shop.push("2.0", recipe="r2")["status"]
    assert client.get_experiment_by_name("swept").lifecycle_stage == "active"
    assert len(client.search_runs([experiment.experiment_id])) == 2
