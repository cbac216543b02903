"""Files at an address that fsspec knows (s3://bucket/clicks.csv, s3://bucket/clicks/): what they are, and copies."""

from pathlib import Path
from typing import Any

from runtime import object_store
from runtime.errors import InputError
from runtime.manifest import digest_json

_ADVICE = "Try again when the store answers, or correct the address in the card's source."


def listed(address: str) -> dict[str, str]:
    """Each file at or below the address: its path below it ("" for the address itself) to a digest that changes with
    its content, as the store tells it. Raises `InputError` where there is none, `StoreFault` where it is away."""
    files, name = object_store.opened(address)
    with object_store.store_faults(address, _ADVICE):
        found: dict[str, Any] = files.find(name, detail=True)
    # What some consoles leave for a folder is an object of its name.
    found = {path: info for path, info in found.items() if info.get("type") != "directory" and path[-1:] != "/"}
    if not found:
        raise InputError(f"{address}: no such file. Correct the address in the card's source.")
    root = name.rstrip("/")
    return {path.removeprefix(root).strip("/"): digest_json(_facts(info)) for path, info in sorted(found.items())}


def fetched(address: str, folder: Path) -> Path:
    """A copy in `folder` of the file, or of the folder of files, at the address."""
    files, name = object_store.opened(address)
    target = folder / (name.rstrip("/").rsplit("/", 1)[-1] or "files")
    for below in listed(address):
        copy = target / below if below else target
        copy.parent.mkdir(parents=True, exist_ok=True)
        with object_store.store_faults(address, _ADVICE):
            files.get_file(f"{name.rstrip('/')}/{below}" if below else name, str(copy))
    return target


def _facts(info: dict[str, Any]) -> dict[str, str]:
    """What changes with a file's content: of S3 the entity tag, of others size and time."""
    known = {key: str(info[key]) for key in ("ETag", "etag", "md5Hash", "content_md5") if info.get(key)}
    times = {key: str(info[key]) for key in ("LastModified", "last_modified", "mtime", "updated") if info.get(key)}
    return {"size": str(info.get("size")), **(known or times)}
