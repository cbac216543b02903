"""The release store and what was released before, over a real rollout table; without MLflow, which takes seconds."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.shared import release_store
from components.shared.archive_artifact import Packaged
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from runtime import object_store
from runtime.decision import Decision, Reason
from runtime.errors import InputError
from runtime.manifest import Manifest
from serving.torchserve import archive as archives

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def archive(root: Path, content: str = "goldens") -> tuple[Path, str]:
    """An archive and its digest."""
    (root / "content").mkdir(parents=True, exist_ok=True)
    (root / "content" / "goldens.jsonl").write_text(content)
    return root / "shop.mar", archives.build(root / "content", root / "shop.mar", name="shop", version="1")


def models(root: Path) -> dict[str, Path]:
    for name in (release_store.JUDGED, release_store.SERVED):
        (root / name).mkdir(parents=True)
        (root / name / "weights.pt").write_text(name)
    return {name: root / name for name in (release_store.JUDGED, release_store.SERVED)}


def test_a_release_is_the_archive_and_its_models_whole_or_not_there(tmp_path: Path) -> None:
    mar, digest = archive(tmp_path / "made")
    target = tmp_path / "releases" / "shop" / "v1"
    (partial := target.with_name(".v1.partial")).mkdir(parents=True)
    (partial / "left by a push that was killed").touch()
    stored = release_store.store_release(mar, models(tmp_path / "made"), target, digest=digest)
    assert stored == target / "shop.mar" and stored.read_bytes() == mar.read_bytes()
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {"shop.mar", "model/weights.pt", "served/weights.pt", "manifest.json"}
    assert Manifest.verify(target, kind="released") and not partial.exists()
    assert {name: (folder / "weights.pt").read_text() for name, folder in release_store.models_of(target).items()} == {
        "model": "model", "served": "served",
    }  # fmt: skip
    shutil.rmtree(target / "served")
    assert list(release_store.models_of(target)) == ["model"], "one of before there were two"


def test_a_version_that_is_there_is_taken_as_it_is_and_never_written_over(tmp_path: Path) -> None:
    mar, digest = archive(tmp_path / "made")
    target = tmp_path / "releases" / "v1"
    stored = release_store.store_release(mar, models(tmp_path / "made"), target, digest=digest)
    (target / "model" / "weights.pt").write_text("as it was found")
    assert release_store.store_release(mar, {}, target, digest=digest) == stored
    assert (target / "model" / "weights.pt").read_text() == "as it was found"
    another, its = archive(tmp_path / "another", "other goldens")
    for wrong in (lambda: None, stored.unlink):  # another archive is there, or none
        wrong()
        with pytest.raises(InputError, match=r"holds another archive than .*; package under another version"):
            release_store.store_release(another, {}, target, digest=its)
    assert not stored.exists()


def test_an_archive_that_is_not_of_its_digest_is_no_release(tmp_path: Path) -> None:
    mar, digest = archive(tmp_path / "made")
    wrong = digest[:-4] + "0000"
    with pytest.raises(InputError, match=rf"digest {digest[:12]}, its report promises {wrong[:12]}"):
        release_store.store_release(mar, {}, tmp_path / "v1", digest=wrong)
    assert not (tmp_path / "v1").exists()


def version(name: str) -> ModelVersion:
    return ModelVersion(version=name, archive="", archive_digest=f"of {name}", recipe_digest="r", registered=NOW)


@pytest.mark.parametrize("role", ["champion", "challenger", "former", "queue"])
@pytest.mark.parametrize("replaced", [False, True])
def test_whatever_a_row_ever_named_was_released(role: str, replaced: bool, tmp_path: Path) -> None:
    """Also what waits, and what a later change took out of the row again."""
    url, empty = f"sqlite:///{tmp_path / 'rollout.db'}", Rollout(model="shop")
    first: dict[str, Any] = {"champion": version("v0"), role: version("v1")}
    if role == "challenger":
        first |= {"stage": 0, "weight": 0.01}
    if role == "queue":
        first["queue"] = (version("v1"),)
    with RolloutTable(url) as table:
        row = table.propose(DocumentChange(replace(empty, **first), "test", ""), table.read("shop").version)
        if replaced:
            alone = replace(empty, champion=version("v2"), version=row.version)
            table.propose(DocumentChange(alone, "test", ""), row.version)
    assert release_store.released_version(url, "shop", "of v1") == "v1"
    assert release_store.released_version(url, "shop", "of v2") == ("v2" if replaced else None)
    assert release_store.released_version(url, "another shop", "of v1") is None


def about(digest: str, *, passed: bool = True, times: int = 1) -> list[Reason]:
    found = [Reason(check="archive", held=True, found=digest, allowed="any", message="", level="info")] * times
    return [*found, Reason(check="goldens", held=passed, found=3, allowed=0, message="3 goldens differ", remedy="x")]


@pytest.mark.parametrize(
    ("gate", "reasons", "told"),
    [
        ("infra_validate", about("d"), None),
        ("evaluate", about("d"), "a decision of evaluate about archive d, expected one of infra_validate about d"),
        ("infra_validate", about("other"), "about archive other, expected one of infra_validate about d"),
        ("infra_validate", about("d", times=0), "about archive none that it names"),
        ("infra_validate", about("d", times=2), "about archive d, d"),
        ("infra_validate", about("d", passed=False), "blocked this archive; it is not released. 3 goldens differ"),
    ],
)
def test_only_the_proof_of_this_very_archive_is_one(
    gate: Any, reasons: list[Reason], told: str | None, tmp_path: Path
) -> None:
    Decision(gate=gate, reasons=reasons).write(tmp_path)
    packaged = Packaged(tmp_path / "shop.mar", {"archive_digest": "d"})
    if told is None:
        return release_store.require_proven(tmp_path, packaged)
    with pytest.raises(InputError, match=told):
        release_store.require_proven(tmp_path, packaged)


def test_places_are_named_as_they_are_found_where_there_is_no_store(tmp_path: Path) -> None:
    assert release_store.located(tmp_path / "shop.mar") == str(tmp_path / "shop.mar")
    assert release_store.uri(tmp_path) == tmp_path.as_uri()
    assert release_store.moment(None) is release_store.moment("") is None
    assert release_store.moment("2026-01-05T00:00:00+00:00") == NOW


@pytest.mark.parametrize("before_manifests", [False, True])
def test_where_machines_share_no_disk_the_whole_release_is_in_the_store_before_a_row_can_name_it(
    before_manifests: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is there already: its upload may have been killed, and of before manifests it was never sealed."""
    home, elsewhere, bucket = tmp_path / "home", tmp_path / "elsewhere", f"memory://{tmp_path.name}/workspace"
    monkeypatch.setenv("HETERREC_HOME", str(home))
    mar, digest = archive(tmp_path / "made")
    target = home / "releases" / "shop" / "v1"
    release_store.store_release(mar, models(tmp_path / "made"), target, digest=digest)
    if before_manifests:
        (target / "manifest.json").unlink()
    monkeypatch.setenv("HETERREC_STORE", bucket)
    stored = release_store.store_release(mar, {}, target, digest=digest)
    assert release_store.located(stored) == f"{bucket}/releases/shop/v1/shop.mar"
    assert release_store.uri(target) == f"{bucket}/releases/shop/v1"
    monkeypatch.setenv("HETERREC_HOME", str(elsewhere))
    fetched = object_store.fetch_release(f"{bucket}/releases/shop/v1/shop.mar")
    assert fetched.is_relative_to(elsewhere)
    assert (fetched / "shop.mar").read_bytes() == mar.read_bytes()
    assert (fetched / "model" / "weights.pt").read_text() == "model"
