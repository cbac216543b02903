"""Fetches what tonight's model is held against: fixed models and nights, and not "whatever serves now"."""

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.shared.release_store import JUDGED
from experiments.document import ModelVersion
from experiments.table import RolloutTable
from runtime.errors import InputError
from runtime.object_store import fetch_release, present

POOL_DAYS = 31
"""Nights as long ago as this are handed on; evaluate takes as many of them as its rule says."""


def run(*, name: str, rollout_url: str, champion: Path, as_of: str = "", runs: Path | None = None) -> dict[str, Any]:
    """Write `champion.json`, `model/`, `reference/` and `nights/` (docs/contracts.md) into the artifact `champion`.

    `as_of` and `runs` (the records of all runs) say which nights count: those of the days before, in which a model was
    held against the very reference of now. Raises `InputError` where the rollout table names a champion or a reference
    whose files are gone.
    """
    with RolloutTable(rollout_url) as table:
        row = table.read(name)
    serving, reference = row.champion, row.held_against
    report: dict[str, Any] = {"version": serving.version if serving else None}
    if serving and reference:
        report |= {
            "recipe_digest": serving.recipe_digest,
            "data_until": serving.data_until.isoformat() if serving.data_until else None,
            "reference": reference.version,
            "nights": [],
        }
        _copy(name, serving, champion / "model")
        _copy(name, reference, champion / "reference")
        if _same(champion / "model", champion / "reference"):
            shutil.rmtree(champion / "reference")  # it is the champion, or that over another day's catalogue
        for number, (night, path) in enumerate(_nights(name, reference.version, as_of, runs)):
            (champion / "nights").mkdir(exist_ok=True)
            shutil.copyfile(path, champion / "nights" / f"{number:03}.parquet")
            report["nights"].append({**night, "file": f"nights/{number:03}.parquet"})
    (champion / "champion.json").write_text(json.dumps(report))
    return report


def _copy(name: str, version: ModelVersion, target: Path) -> None:
    # As it was judged: what serves has trained on the very days by which tonight's model is judged.
    model = fetch_release(version.archive) / JUDGED
    if not model.is_dir():
        raise InputError(
            f"{model}: version {version.version} of {name!r}, which tonight's model is held against, has no model "
            "there. Restore the release folder, or `make clean` to begin anew."
        )
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("manifest.json"))


def _same(one: Path, other: Path) -> bool:
    """By their numbers: the weights, of tables alone the memory."""
    files = [[name for name in ("weights.pt", "memory.npz") if (folder / name).is_file()] for folder in (one, other)]
    same = files[0] == files[1] and bool(files[0])
    return same and all((one / name).read_bytes() == (other / name).read_bytes() for name in files[0])


def _nights(name: str, reference: str, as_of: str, runs: Path | None) -> Iterator[tuple[dict[str, Any], Path]]:
    """What other nights say of models held against `reference`, the earliest first; a night that was run again once."""
    if runs is None or not as_of:
        return
    now = datetime.fromisoformat(as_of)
    found: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
    records = (json.loads(path.read_text()) for path in runs.glob("*/evaluate.json"))
    for record in sorted(records, key=lambda record: record["started"]):
        for night in _judged(record):
            age = now - datetime.fromisoformat(night["as_of"])
            ours = (night["dataset"], night["reference"]) == (name, reference)
            if ours and timedelta(0) < age <= timedelta(days=POOL_DAYS):
                found[night["as_of"], night["recipe"]] = night, record["artifact"]
    for _, (night, artifact) in sorted(found.items()):
        path = present(Path(artifact)) / night["file"]
        if path.is_file():  # artifacts may be removed; a night less is less evidence, no fault
            assert pq.read_schema(path).names == ["user_id", "ours", "theirs"], path
            yield night, path


def _judged(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The nights of each model that evaluate held against a reference."""
    report = record["report"]
    if record["status"] not in ("done", "reused"):
        return []
    if before := report.get("night"):  # of runs whose tables could not be released
        return [{**before, "file": "night.parquet"}]
    nights: list[dict[str, Any]] = report.get("nights", [])
    return nights
