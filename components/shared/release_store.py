"""The release store, and whether an archive was released before."""

import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from components.shared.archive_artifact import Packaged
from experiments.table import RolloutTable
from runtime import object_store
from runtime.decision import Decision
from runtime.errors import InputError
from runtime.manifest import NAME, Manifest
from serving.torchserve import archive as archives

JUDGED, SERVED = "model", "served"
"""Folders of a release: the model as it was judged, and as it serves, refitted on the days that judged it."""


def models_of(release: Path) -> dict[str, Path]:
    """The model folders of a release by their names; one of before there were two has the first alone, which serves."""
    return {name: release / name for name in (JUDGED, SERVED) if (release / name).is_dir()}


def released_version(rollout_url: str, name: str, digest: str) -> str | None:
    """The version under which the archive with this SHA-256 entered the rollout of `name`, or None.

    Looks through the whole history: what was rolled back or replaced is not released again by itself.
    """
    with RolloutTable(rollout_url) as table:
        documents = [table.read(name), *(entry.rollout for entry in reversed(table.history(name)))]
    for document in documents:
        for model in document.known:
            if model.archive_digest == digest:
                return model.version
    return None


def require_proven(infra_validation: Path, packaged: Packaged) -> None:
    """Raise `InputError` unless infra_validate let this very archive pass: whoever changes what serves asks for itself.

    A pipeline's condition is not enough: Kubeflow turns one that it cannot evaluate into a branch, and people call
    steps by hand.
    """
    decision = Decision.read(infra_validation)
    proven = [reason.found for reason in decision.reasons if reason.check == "archive"]
    if decision.gate != "infra_validate" or proven != [packaged.digest]:
        about = ", ".join(map(str, proven)) or "none that it names"
        raise InputError(
            f"{infra_validation}: a decision of {decision.gate} about archive {about}, expected one of infra_validate "
            f"about {packaged.digest}; run infra_validate on this archive"
        )
    if not decision.passed:
        reasons = " ".join(reason.message for reason in decision.blocking)
        raise InputError(f"{infra_validation}: infra_validate blocked this archive; it is not released. {reasons}")


def store_release(mar: Path, models: Mapping[str, Path], target: Path, *, digest: str) -> Path:
    """Copy the archive, and the `models` by the name of their folder, into `target`; returns the stored archive.

    The folder appears whole or not at all. Raises `InputError` where it holds another archive already, or the
    archive is not the one of `digest`.
    """
    stored = target / mar.name
    if target.exists():
        if not stored.is_file() or archives.digest(stored) != digest:
            raise InputError(f"{target}: holds another archive than {mar}; package under another version")
        _upload(target)
        return stored
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(mar, partial / mar.name)
    if (found := archives.digest(partial / mar.name)) != digest:
        raise InputError(f"{mar}: digest {found[:12]}, its report promises {digest[:12]}; run the package step again")
    for folder, model in models.items():
        shutil.copytree(model, partial / folder)
    Manifest.seal(partial, kind="released")
    os.replace(partial, target)
    _upload(target)
    return stored


def moment(text: str | None) -> datetime | None:
    """`data_until` of an archive's report; those of before it was kept have none."""
    return datetime.fromisoformat(text) if text else None


def located(path: Path) -> str:
    """What the rollout table calls a part of a release: its address in the object store, where there is one."""
    shared = object_store.shared()
    return shared.address_of(path) if shared else str(path)


def uri(folder: Path) -> str:
    """As `located`, as a URI in any case."""
    found = located(folder)
    return found if object_store.is_address(found) else folder.as_uri()


def _upload(target: Path) -> None:
    """Where machines share an object store and no disk, a release is there before the rollout table names it."""
    if shared := object_store.shared():
        if not (target / NAME).is_file():
            Manifest.seal(target, kind="released")
        shared.keep(target)
