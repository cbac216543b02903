"""The release store, and whether an archive was released before."""

import os
import shutil
from pathlib import Path

from components.errors import InputError
from serving.rollout.table import RolloutTable
from serving.torchserve import archive as archives


def released(rollout_url: str, name: str, digest: str) -> str | None:
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


def store_release(mar: Path, model: Path, target: Path, *, digest: str) -> Path:
    """Copy the archive, and the model it was made of as `model/`, into `target`; returns the stored archive.

    The folder appears whole or not at all. Raises `InputError` where it holds another archive already, or the
    archive is not the one of `digest`.
    """
    stored = target / mar.name
    if target.exists():
        if not stored.is_file() or archives.digest(stored) != digest:
            raise InputError(f"{target}: holds another archive than {mar}; package under another version")
        return stored
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(mar, partial / mar.name)
    if (found := archives.digest(partial / mar.name)) != digest:
        raise InputError(f"{mar}: digest {found[:12]}, its report promises {digest[:12]}; run the package step again")
    shutil.copytree(model, partial / "model")
    os.replace(partial, target)
    return stored
