"""A reconciler really started on damaged files: test_reconciler.py and test_plain_reconciled.py run this beside the
server that each of them has started already."""

import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from runtime.checksum import Damaged, of_file
from serving.torchserve import archive
from serving.torchserve.reconciler import STATUS, Reconciler
from serving.torchserve.server import TorchServe
from tests.serving.forgotten_shop import within
from tests.serving.test_command import free_ports
from tests.serving.test_damaged_starts import HANGS, damage, environment, started  # noqa: F401  (a fixture)
from tests.serving.test_scorer import GOOD

CHALLENGERS = "damaged since", "released cut", "of another version", "of the champion's version", "gone"
COPY = "rollout.json"


def challenger(how: str, arms: dict[str, ModelVersion], folder: Path, draw: random.Random) -> ModelVersion:
    """Version 2.0 whose archive is none that can serve, and what its refusal says."""
    mar = folder / "challenger.mar"
    shutil.copyfile(
        arms[{"of another version": "3.0", "of the champion's version": "1.0"}.get(how, "2.0")].archive, mar
    )
    digest = archive.digest(mar)
    match how:
        case "damaged since":
            damage(mar, draw)
        case "released cut":
            mar.write_bytes(mar.read_bytes()[: -draw.randrange(1, 1000)])
            digest = archive.digest(mar)
        case "of the champion's version":  # with other content, as a release that took the wrong number
            with zipfile.ZipFile(mar, "a") as content:
                content.writestr("more", b"")
            digest = archive.digest(mar)
        case "gone":
            mar.unlink()
    return replace(arms["2.0"], archive=str(mar), archive_digest=digest)


REFUSED = {
    "damaged since": "refused, an archive is code",
    "released cut": "is no TorchServe archive",
    "of another version": "holds shop 3.0, but the rollout row names it shop 2.0",
    "of the champion's version": "holds shop 1.0, but the rollout row names it shop 2.0",
    "gone": "challenger.mar",
}


@pytest.fixture
def as_it_was(guarded: TorchServe, arms: dict[str, ModelVersion]) -> Iterator[None]:
    """The shared server with the champion alone, before and after."""
    row = Rollout(model="shop", champion=arms["1.0"], version=1)
    assert Reconciler(guarded, read=lambda: row, linger=0).look().ready
    keys = guarded.folder / "key_file.json"
    kept = keys.read_bytes() if keys.is_file() else None
    yield
    if kept is not None:
        keys.write_bytes(kept)
    assert Reconciler(guarded, read=lambda: row, linger=0).look().ready


def test_an_emptied_table_beside_a_damaged_copy_takes_nothing_out(
    guarded: TorchServe, arms: dict[str, ModelVersion], as_it_was: None
) -> None:
    (guarded.folder / COPY).write_bytes(b"{")
    status = Reconciler(guarded, read=lambda: Rollout(model="shop"), linger=0).look()
    assert not status.ready and str(guarded.folder / COPY) in status.why["copy"]
    assert guarded.versions("shop") == {"1.0": True} and guarded.predict("shop", "1.0", GOOD).status == 200


@pytest.mark.parametrize("seed", range(len(CHALLENGERS)))
def test_a_reconciler_starts_on_damaged_files_and_what_serves_goes_on(
    seed: int,
    guarded: TorchServe,
    arms: dict[str, ModelVersion],
    as_it_was: None,
    tmp_path: Path,
    environment: Callable[..., None],  # noqa: F811
) -> None:
    draw, how, folder = random.Random(seed), CHALLENGERS[seed], guarded.folder
    row = Rollout(
        model="shop", champion=arms["1.0"], challenger=challenger(how, arms, tmp_path, draw), stage=0, weight=0.5
    )
    with RolloutTable(f"sqlite:///{tmp_path}/rollout.db") as table:
        table.propose(DocumentChange(row, "push", "a release"), 0)
    # Either the loaded archive's copy or the word that it was proven: without both it has to be loaded anew.
    proof = folder / STATUS if seed % 2 else guarded.copy_of("shop", "1.0")
    for path in (folder / COPY, proof, folder / "inference.key"):
        if path.is_file():
            damage(path, draw)
    environment(HETERREC_HOME=tmp_path)
    (port,) = free_ports(1)
    where = ("--torchserve", guarded.address, "--management", guarded._addresses["management"], "--folder", str(folder))
    tokens = "--tokens" if guarded.has_keys else "--no-tokens"
    began = datetime.now(UTC)
    with started(tmp_path / "out", "reconciler", *where, tokens, "--dataset", "shop", "--status-port", port) as process:

        def says(holds: Callable[[dict[str, Any]], bool]) -> Callable[[], bool]:
            def asked() -> bool:
                assert process.lives, process.told
                found = status(folder, began)
                return found is not None and holds(found)

            return asked

        within(HANGS, says(lambda found: found["versions"] == {"1.0": "ready", "2.0": "refused"}))
        found = status(folder, began)
        assert found is not None and found["ready"] and REFUSED[how] in found["why"]["2.0"]
        assert all(f"{path.name}: is " in process.told for path in (folder / COPY, *([proof] if seed % 2 else [])))
        assert archive.digest(guarded.copy_of("shop", "1.0")) == arms["1.0"].archive_digest, "put back from the release"
        assert "loading shop 1.0" not in process.told, "what serves is not loaded anew for its damaged copy"
        if guarded.keys is not None:
            assert (folder / "inference.key").read_text() == guarded.keys.read()["inference"].key
            keys = folder / "key_file.json"
            kept = keys.read_bytes()
            keys.write_bytes(kept[: draw.randrange(len(kept))])
            within(HANGS, says(lambda found: str(keys) in found["why"].get("torchserve", "")))
            keys.write_bytes(kept)
            within(HANGS, says(lambda found: found["ready"]))
        (tmp_path / "rollout.db").write_bytes(b"damaged" * 1000)
        within(HANGS, says(lambda found: "cannot be read, the last row holds" in found["why"].get("rollout", "")))
        assert guarded.versions("shop") == {"1.0": True} and guarded.predict("shop", "1.0", GOOD).status == 200
    # With table and copy both damaged nothing is known, which is told, and nothing that serves is taken out.
    damage(folder / COPY, draw)
    began = datetime.now(UTC)
    with started(
        tmp_path / "again", "reconciler", *where, tokens, "--dataset", "shop", "--status-port", port
    ) as process:
        within(HANGS, says(lambda found: not found["ready"] and "copy" in found["why"] and "rollout" in found["why"]))
        assert guarded.versions("shop") == {"1.0": True} and guarded.predict("shop", "1.0", GOOD).status == 200
    assert str(folder / COPY) in process.told


def status(folder: Path, since: datetime) -> dict[str, Any] | None:
    """What the reconciler that was started at `since` wrote last."""
    try:
        found = of_file(folder / STATUS)
    except Damaged:
        return None
    return found if found is not None and datetime.fromisoformat(str(found.get("at"))) > since else None
