"""Builds a TorchServe model archive: a zip of the content, the code that scores it, and `MAR-INF/MANIFEST.json`.

torch-model-archiver writes the same layout, but stamps it with the time of day; here the same content gives the
same bytes on any machine (entries sorted, stored uncompressed, dated 1980), so that the digest identifies a model.
"""

import json
import os
import re
import zipfile
from pathlib import Path

from runtime.files import digest_file
from serving.torchserve import handler

HANDLER = "handler.py"
_MANIFEST = "MAR-INF/MANIFEST.json"
_SERVING = Path(__file__).parent.parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def build(content: Path, mar: Path, *, name: str, version: str) -> str:
    """Write the archive of the files in `content` (a flat folder) to `mar`, atomically; returns its SHA-256.

    Raises `ValueError` for a name or version that TorchServe cannot address.
    """
    for what, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):
            raise ValueError(f"model {what}: found {value!r}, expected letters, digits, '_', '-' and '.' only")
    entries = {path.name: path.read_bytes() for path in content.iterdir() if path.is_file()} | code()
    model = {"modelName": name, "modelVersion": version, "handler": HANDLER}
    manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    entries[_MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    partial = mar.with_name(f".{mar.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for entry in sorted(entries):
            info = zipfile.ZipInfo(entry, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries[entry])
    os.replace(partial, mar)
    return digest(mar)


def code() -> dict[str, bytes]:
    """What an archive runs, by entry: the handler, and the package `serving.scoring` under its own name."""
    scoring = sorted((_SERVING / "scoring").glob("*.py"))
    modules = {f"serving/scoring/{path.name}": path.read_bytes() for path in scoring}
    # Imported, and not only read, so that a step's code digest sees what it packages.
    return {HANDLER: Path(handler.__file__).read_bytes(), "serving/__init__.py": b"", **modules}


def digest(mar: Path) -> str:
    """SHA-256 of the archive's bytes, as hex."""
    return digest_file(mar)


def check(mar: Path, expected: str, *, called: Path | None = None) -> None:
    """Raises `ValueError` where the SHA-256 of `mar` is another: an archive is code, and of a damaged zip file a reader
    may say anything. The message names `called`, where `mar` is a copy."""
    if (found := digest(mar)) != expected:
        raise ValueError(f"{called or mar}: digest {found[:12]}, expected {expected[:12]}; refused, an archive is code")


def identity(mar: Path) -> tuple[str, str]:
    """Model name and version that the archive's manifest declares; `ValueError` where it is no archive."""
    try:
        with zipfile.ZipFile(mar) as archive:
            model = json.loads(archive.read(_MANIFEST))["model"]
            return model["modelName"], model["modelVersion"]
    except Exception as error:  # of a damaged file zipfile raises whatever its bytes seem to say
        raise ValueError(f"{mar}: is no TorchServe archive ({error!r}); package the model again") from error


def check_identity(mar: Path, model: str, version: str) -> None:
    """Raises `ValueError` where the archive calls itself another model or version: it would be loaded beside, or in
    place of, what serves under that name."""
    if (found := identity(mar)) != (model, version):
        raise ValueError(
            f"{mar}: holds {' '.join(found)}, but the rollout row names it {model} {version}; refused, release it anew"
        )


def read(mar: Path, entry: str) -> bytes:
    """One file of the archive, such as `goldens.jsonl`."""
    with zipfile.ZipFile(mar) as archive:
        return archive.read(entry)
