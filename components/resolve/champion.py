"""Fetches the current champion, so that evaluate compares with a fixed model and not with "whatever serves now"."""

import json
import shutil
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.store import released
from serving.rollout.table import RolloutTable


def run(*, name: str, rollout_url: str, champion: Path) -> dict[str, Any]:
    """Write `champion.json` and, where one serves, its `model/` into the artifact directory `champion`.

    Raises `InputError` where the rollout table names a champion whose files are gone.
    """
    with RolloutTable(rollout_url) as table:
        version = table.read(name).champion
    report = {"version": version.version if version else None}
    (champion / "champion.json").write_text(json.dumps(report))
    if version:
        model = released(version.archive) / "model"
        if not model.is_dir():
            raise InputError(
                f"{model}: the champion of {name!r} (version {version.version}) has no model there. "
                "Restore the release folder, or `make clean` to begin anew."
            )
        shutil.copytree(model, champion / "model", ignore=shutil.ignore_patterns("manifest.json"))
    return report
