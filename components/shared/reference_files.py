"""What the `reference` artifact holds: the profile of the last accepted run, and exposures (docs/contracts.md)."""

import json
from pathlib import Path
from typing import Any

from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.manifest import digest_json

Profile = dict[str, Any]

PROFILE = "profile.json"
EXPOSURES = "exposures.parquet"
SCHEMA = 2


def source_digest(card: DatasetCard) -> str:
    """Identity of what a card reads; runs on another source are no reference."""
    return digest_json(card.source.identity())


def read_profile(path: Path) -> Profile:
    """A profile.json, or the one in a folder. Raises `InputError` where it cannot be used."""
    path = path / PROFILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such reference profile; pass the folder of an accepted run's validation.")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}). Run without a reference once.") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, expected {SCHEMA}. Run without a reference once.")
    parts = ("as_of", "source", "days", "events", "features", "samples", "vocabularies")
    if lacking := [part for part in parts if part not in found]:
        raise InputError(f"{path}: lacks {', '.join(lacking)}. Run without a reference once.")
    return dict(found)
