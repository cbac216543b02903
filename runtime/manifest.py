"""The contract of an artifact: a directory of content with `manifest.json` written last.

A reader opens an artifact through `Manifest.verify`, so half-written and altered directories are
refused with the reason instead of being read.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import digest_file, replace_text

NAME = "manifest.json"
SCHEMA = 1


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact holds and where it came from.

    `content` maps each file's path inside the artifact to its SHA-256; `parents` maps an input's name to
    the digest of its manifest; `facts` are counts and settings, JSON values only.
    """

    kind: str
    content: dict[str, str]
    parents: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """Identity of the artifact: what it contains, not when or from what it was made."""
        return digest_json({"kind": self.kind, "content": self.content})

    @classmethod
    def seal(
        cls, root: Path, *, kind: str, parents: dict[str, str] | None = None, facts: dict[str, Any] | None = None
    ) -> "Manifest":
        """Hash every file below `root` and write the manifest last, atomically."""
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.relative_to(root).as_posix() != NAME)
        content = {path.relative_to(root).as_posix(): digest_file(path) for path in files}
        manifest = cls(kind=kind, content=content, parents=parents or {}, facts=facts or {})
        replace_text(root / NAME, json.dumps(asdict(manifest), indent=1, sort_keys=True))
        return manifest

    @classmethod
    def read(cls, root: Path, *, kind: str | None = None) -> "Manifest":
        """Read the manifest of `root`; `InputError` where it is missing, unreadable or of another kind."""
        path = root / NAME
        if not path.is_file():
            raise InputError(f"{root}: not a complete artifact, {NAME} is missing. Run the step that makes it again.")
        try:
            manifest = cls(**json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}). Delete the folder and run its step again.") from error
        if manifest.schema != SCHEMA:
            raise InputError(f"{path}: schema {manifest.schema}, expected {SCHEMA}. Run its step again.")
        if kind is not None and manifest.kind != kind:
            raise InputError(f"{path}: is a {manifest.kind!r} artifact, expected {kind!r}. Pass the right folder.")
        return manifest

    @classmethod
    def verify(cls, root: Path, *, kind: str | None = None) -> "Manifest":
        """`read`, then compare every file with its digest; `InputError` names the first that differs."""
        manifest = cls.read(root, kind=kind)
        for name, expected in manifest.content.items():
            path = root / name
            found = digest_file(path) if path.is_file() else "no file"
            if found != expected:
                raise InputError(
                    f"{path}: content differs from its manifest (found {found[:12]}, expected {expected[:12]}). "
                    "Delete the folder and run its step again."
                )
        return manifest
