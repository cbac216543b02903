"""The archive artifact, as its readers find it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import InputError


class Packaged(NamedTuple):
    """A `.mar` and the report that its packaging wrote."""

    mar: Path
    report: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 that the archive had when it was packaged."""
        return str(self.report["archive_digest"])


def find(archive: Path) -> Packaged:
    """Read report.json of an archive artifact; `InputError` where it or the `.mar` it names is missing."""
    path = archive / "report.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an archive artifact; run the package step first")
    report = json.loads(path.read_text())
    mar = archive / f"{report['model']}.mar"
    if not mar.is_file():
        raise InputError(f"{mar}: no such file, though report.json names it; run the package step again")
    return Packaged(mar, report)
