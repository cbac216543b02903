"""Checksums of what a process reads back: a damaged record or file is known as such, wherever a bit of it flipped."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

_SEAL = re.compile(rb"([0-9a-f]{8})([0-9a-f]{8}) ")
"""Before a record: CRC-32 of its length and content, and its length in bytes."""
CHECKSUM = "checksum"
"""Key of a JSON file that holds the CRC-32 of all others."""


class Damaged(ValueError):
    """A record or file is not what was written; the message says which and how that shows."""


def seal(content: bytes) -> bytes:
    """`content` with its seal before it."""
    length = b"%08x" % len(content)
    return b"%08x%b %b" % (crc32(length + content), length, content)


def unseal(record: bytes) -> bytes:
    """What was sealed. Raises `Damaged`."""
    if (found := _SEAL.match(record)) is None:
        raise Damaged("damaged: it does not begin with a checksum")
    if (content := _whole(record, found)) is None or found.end() + len(content) != len(record):
        raise Damaged("damaged: its checksum does not hold")
    return content


def whole_in(damaged: bytes) -> Iterator[bytes]:
    """Sealed records that are still whole in `damaged`: where a line break was lost two of them lie in one line."""
    start = 0
    while (found := _SEAL.search(damaged, start)) is not None:
        content = _whole(damaged, found)
        start = found.start() + 1 if content is None else found.end() + len(content)
        if content is not None:
            yield found[0] + content


def _whole(record: bytes, found: "re.Match[bytes]") -> bytes | None:
    content = record[found.end() : found.end() + int(found[2], 16)]
    return content if crc32(found[2] + content) == int(found[1], 16) else None


def to_file(plain: Mapping[str, Any]) -> bytes:
    """A JSON file that `of_file` can check."""
    return json.dumps({**plain, CHECKSUM: _of(plain)}).encode()


def of_file(path: Path) -> dict[str, Any] | None:
    """What `to_file` made; None where there is no file.

    A file of before checksums is taken as it is. Raises `Damaged`, which names the file.
    """
    try:
        plain = json.loads(path.read_bytes())
        given = plain.pop(CHECKSUM, None)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: is damaged ({type(error).__name__}: {error})") from error
    if given is not None and given != _of(plain):
        raise Damaged(f"{path}: is damaged, its checksum does not hold")
    return dict(plain)


def _of(plain: Mapping[str, Any]) -> int:
    return crc32(json.dumps(plain, sort_keys=True).encode())
