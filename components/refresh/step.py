"""Refresh: the model that serves, unchanged, over the catalogue of today; a patch version of what was released."""

import json
import re
from pathlib import Path
from typing import Any

from components.package import step as package
from components.shared.release_store import JUDGED, SERVED, models_of
from experiments.document import ModelVersion
from feature_repo.card import DatasetCard
from runtime import object_store
from runtime.errors import InputError
from serving.torchserve import archive as archives

_NOT_SERVED = ("goldens.jsonl", "encoder.py", "neighbours.py")
"""Files of an archive whose change alone changes no answer: what it is checked by, and code, which goes out with the
next archive that is one."""
_TOLD = ("version", "recipe_digest", "digests", "as_of")
"""What a contract says of itself; all else is how the archive answers."""


def run(*, card: DatasetCard, sequences: Path, serving: ModelVersion, archive: Path) -> dict[str, Any]:
    """Package the weights of `serving`, those that serve and not those that were judged, over the catalogue and the
    events of `sequences`; writes the archive artifact.

    The report is that of package, with `refreshes` (the version it takes the place of), `changed` (False where the
    catalogue gives what is served already) and `new_items`. Raises `InputError` where the release has no model.
    """
    released = object_store.fetch_release(serving.archive)
    before_mar = released / Path(serving.archive).name
    models = models_of(released)
    if JUDGED not in models:
        raise InputError(f"{released / JUDGED}: version {serving.version} has none. Restore the release folder.")
    model = models.get(SERVED, models[JUDGED])
    version = patch(serving.version)
    report = package.run(card=card, sequences=sequences, model=model, archive=archive, name=card.name, version=version)
    before, now = (_contract(path) for path in (before_mar, archive / f"{card.name}.mar"))
    known = set(_items(before_mar))
    # The arm keeps its recipe: the code may have moved on since it was trained, its weights have not.
    report |= {
        "refreshes": serving.version,
        "recipe_digest": serving.recipe_digest,
        "changed": _answers(before) != _answers(now),
        "new_items": sum(item not in known for item in _items(archive / f"{card.name}.mar")),
    }
    (archive / "report.json").write_text(json.dumps(report, indent=1))
    return report


def patch(version: str) -> str:
    """The next patch: 20260105-1f0c9a7e, 20260105-1f0c9a7e.1, .2; and 1.0, 1.0.1, 1.0.2.

    >>> patch("1.0"), patch("20260105-1f0c9a7e.1")
    ('1.0.1', '20260105-1f0c9a7e.2')
    """
    found = re.fullmatch(r"(.*-[0-9a-f]{8}|\d+\.\d+)\.(\d+)", version)
    return f"{found[1]}.{int(found[2]) + 1}" if found else f"{version}.1"


def _answers(contract: dict[str, Any]) -> dict[str, Any]:
    """What an archive with this contract answers by."""
    files = {name: digest for name, digest in contract["digests"].items() if name not in _NOT_SERVED}
    return {"files": files, **{name: value for name, value in contract.items() if name not in _TOLD}}


def _contract(mar: Path) -> dict[str, Any]:
    contract: dict[str, Any] = json.loads(archives.read(mar, "serving.json"))
    return contract


def _items(mar: Path) -> list[str]:
    items: list[str] = json.loads(archives.read(mar, "items.json"))["item_id"]
    return items
