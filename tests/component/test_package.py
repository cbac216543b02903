"""A tiny model, really trained, packaged, and served by the real TorchServe."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.decision import Decision
from components.errors import InputError
from components.infra_validate import step as infra_validate
from components.package import step as package
from feature_repo.card import DatasetCard
from heterrec import recipes
from heterrec.export import save_model
from heterrec.sequences import read_sequences
from heterrec.training import train
from serving.torchserve import archive as archives
from serving.torchserve.scorer import Scorer
from tests.unit.heterrec.shop import KINDS, VARYING, write_shop

ROOT = Path(__file__).parents[2]
MAX_HISTORY = 6
CARD = DatasetCard.model_validate(
    {
        "name": "shop",
        "description": "tiny",
        "source": {"adapter": "files", "interactions": "x", "items": "y"},
        "features": [
            {"name": name, "kind": kind, "varies_in_time": name in VARYING}
            | ({"dimension": 6} if kind == "embedding" else {})
            for name, kind in KINDS.items()
        ],
        "title": "title",
        "split": {"by": "time"},
        "repeats": True,
    }
)


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_shop(tmp_path_factory.mktemp("package") / "sequences")
    about = json.loads((root / "features.json").read_text())
    (root / "features.json").write_text(json.dumps(about | {"title": "title"}))
    return root


@pytest.fixture(scope="session")
def model(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = replace(recipes.heterrec(), epochs=1)
    tiny = replace(tiny, model=replace(tiny.model, width=16, item_layers=1, max_history=MAX_HISTORY))
    root = tmp_path_factory.mktemp("package") / "model"
    save_model(train(read_sequences(sequences), tiny), root)
    return root


def packaged(sequences: Path, model: Path, archive: Path, **changed: Any) -> dict[str, Any]:
    archive.mkdir(parents=True)
    return package.run(card=CARD, sequences=sequences, model=model, archive=archive, name="shop", **changed)


@pytest.fixture(scope="session")
def archive(sequences: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package") / "archive"
    packaged(sequences, model, root)
    return root


def goldens(archive: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archives.read(archive / "shop.mar", "goldens.jsonl").splitlines()]


def test_the_archive_holds_the_contract_and_nothing_of_this_machine(archive: Path) -> None:
    assert {path.name for path in archive.iterdir()} == {"shop.mar", "report.json"}
    contents = zipfile.ZipFile(archive / "shop.mar")
    assert set(contents.namelist()) == {
        "program.pt2", "item_matrix.npy", "items.json", "encoder.json", "encoder.py", "goldens.jsonl", "serving.json",
        "popular.json", "scorer.py", "handler.py", "MAR-INF/MANIFEST.json",
    }  # fmt: skip
    for name in contents.namelist():
        assert str(ROOT).encode() not in contents.read(name), name


def test_the_same_model_gives_the_same_archive_wherever_and_whenever(
    sequences: Path, model: Path, archive: Path, tmp_path: Path
) -> None:
    first = json.loads((archive / "report.json").read_text())
    moved = shutil.copytree(model, tmp_path / "elsewhere", copy_function=shutil.copy)
    assert packaged(sequences, moved, tmp_path / "again") == first
    assert archives.digest(tmp_path / "again/shop.mar") == first["archive_digest"]
    assert first["version"].startswith("20260101-")


def test_a_recipe_is_settings_and_features_but_not_the_seed(sequences: Path, model: Path, tmp_path: Path) -> None:
    catalogue = read_sequences(sequences).catalogue

    def digest(**changed: Any) -> str:
        config = json.loads((model / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        return package.recipe_digest(tmp_path, catalogue)

    assert digest(seed=7) == digest() == package.recipe_digest(model, catalogue)
    assert digest(epochs=99) != digest()
    assert package.recipe_digest(model, replace(catalogue, features=catalogue.features[1:])) != digest()


def test_goldens_are_real_histories_of_all_lengths_and_the_two_strangers(sequences: Path, archive: Path) -> None:
    found = goldens(archive)
    assert len(found) >= 20
    lengths = [len(golden["request"]["history"]) for golden in found]
    assert min(lengths) == 0 and max(lengths) > MAX_HISTORY
    assert {golden["request"].get("exclude_seen") for golden in found} == {True, False, None}
    assert any(None in event["features"].values() for golden in found for event in golden["request"]["history"][:-1])
    assert sorted(golden["answer"]["unknown_items"] for golden in found)[-2:] == [0, 1]
    data = read_sequences(sequences)
    request = found[3]["request"]
    user = data.user_ids.index(request["user_id"])
    bought = data.row[data.offsets[user] : data.offsets[user + 1]]
    expected = [data.catalogue.item_ids[row] for row in bought][: len(request["history"])]
    assert [event["item_id"] for event in request["history"]] == expected


def test_the_scorer_answers_the_goldens_as_the_trained_model_does(archive: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(archive / "shop.mar").extractall(tmp_path)
    found = goldens(archive)
    answers = Scorer.load(tmp_path).score([golden["request"] for golden in found])
    for golden, answer in zip(found, answers, strict=True):
        assert infra_validate.differences(golden, infra_validate.Reply(200, answer)) == []
    assert answers[0]["items"][0]["title"].split()[1] == "thing"
    popular = [item["score"] for item in answers[-1]["items"]]
    assert answers[-1]["fallback"] == "popular" and popular == sorted(popular, reverse=True)


def test_answers_of_another_models_items_are_found_wrong(archive: Path, tmp_path: Path) -> None:
    content = altered(archive, tmp_path / "archive", lambda matrix: np.roll(matrix, 1, axis=0))
    found = goldens(archive)
    answers = Scorer.load(content).score([golden["request"] for golden in found])
    replies = [infra_validate.Reply(200, answer) for answer in answers]
    wrong, _, names = infra_validate.same_answers(found, replies, "shop", "another")
    assert not wrong.held and wrong.found > len(found) / 2
    assert wrong.evidence[0]["differences"][0].startswith("place 1")
    assert not names.held and names.found == len(found)


def test_infra_validation_serves_replays_and_measures(archive: Path, tmp_path: Path) -> None:
    decision = infra_validate.run(archive=archive, validation=tmp_path, max_p99_ms=0.001)
    assert [reason.check for reason in decision.blocking] == ["latency_p99_ms"]  # too strict a limit, all else held
    assert Decision.read(tmp_path) == decision
    found = decision.summary()["found"]
    assert found["golden_answers_wrong"] == found["malformed_requests_not_refused"] == 0
    assert found["largest_score_difference"] < 1e-4
    assert 0 < found["latency_p50_ms"] <= found["latency_p99_ms"]


def test_infra_validation_blocks_an_archive_that_does_not_load(archive: Path, tmp_path: Path) -> None:
    altered(archive, tmp_path / "archive", lambda matrix: matrix[1:])
    decision = infra_validate.run(archive=tmp_path / "archive", validation=tmp_path)
    assert [reason.check for reason in decision.blocking] == ["loads"]
    assert "does not fit items.json" in decision.blocking[0].message
    with pytest.raises(InputError, match=r"report\.json: no such file"):
        infra_validate.run(archive=tmp_path, validation=tmp_path)


def altered(archive: Path, target: Path, change: Any) -> Path:
    """Write the archive with another item matrix, and digests that say it is right; returns its content."""
    content = target.parent / "content"
    zipfile.ZipFile(archive / "shop.mar").extractall(content)
    shutil.rmtree(content / "MAR-INF")
    np.save(content / "item_matrix.npy", change(np.load(content / "item_matrix.npy")))
    contract = json.loads((content / "serving.json").read_text())
    contract["digests"]["item_matrix.npy"] = archives.digest(content / "item_matrix.npy")
    (content / "serving.json").write_text(json.dumps(contract))
    target.mkdir()
    report = json.loads((archive / "report.json").read_text())
    digest = archives.build(content, target / "shop.mar", name="shop", version=report["version"])
    (target / "report.json").write_text(json.dumps(report | {"archive_digest": digest}))
    return content
