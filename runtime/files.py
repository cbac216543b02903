"""Files that are whole wherever they are seen: a reader finds the one of before or the new one, never a part."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in the block, which takes the place of `path` at its end; what fails in the block leaves `path`
    as it was. It has the suffix of `path`, as some writers go by it, and its folder must be there."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Let the file at `path` be `text`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def digest_file(path: Path) -> str:
    """SHA-256 of the file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
