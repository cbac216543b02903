"""The keys of a TorchServe that asks for them: read, renewed before they expire, and handed to the gateway."""

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["inference", "management", "API"]
INFERENCE_KEY = "inference.key"
"""File in TorchServe's folder, readable by its user only: the key that a gateway sends as `Authorization: Bearer`."""
_KEY_FILE = "key_file.json"


class Key(NamedTuple):
    """One key; `expires` is None for the API key, which only renews the others."""

    key: str
    expires: datetime | None


class Keys:
    """What TorchServe writes into `key_file.json` in its folder, at each start and each renewal."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._clock = folder, clock
        self._lives: dict[str, timedelta] = {}

    def read(self) -> dict[Kind, Key]:
        """The keys as they are now. Raises `ConnectionError` where there are none, as between two of its starts."""
        path = self._folder / _KEY_FILE
        try:
            raw = json.loads(path.read_text())
            return {
                kind: Key(_key(raw[kind]["key"]), _time(raw[kind]["expiration time"]) if kind != "API" else None)
                for kind in ("inference", "management", "API")
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # it is not written in one piece
            raise ConnectionError(
                f"{path}: holds no keys at the moment ({type(error).__name__}); TorchServe writes it when it starts"
            ) from error

    def worn(self) -> list[Kind]:
        """The kinds of which less than half of the life is left."""
        found: list[Kind] = []
        for kind, (key, expires) in self.read().items():
            if expires is not None:
                left = expires - self._clock()
                if left < self._lives.setdefault(key, left) / 2 or left <= timedelta(0):
                    found.append(kind)
        return found

    def publish(self) -> bool:
        """Write the inference key where the gateway reads it, in one piece; whether it was another one before."""
        path, key = self._folder / INFERENCE_KEY, self.read()["inference"].key
        if path.is_file() and path.read_bytes() == key.encode():
            return False
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
        os.replace(partial, path)
        return True


def _key(text: str) -> str:
    """What can stand in a header: a damaged key must not end in a fault of the HTTP client."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a key has signs that no key has")
    return text


def _time(text: str) -> datetime:
    # Java writes nanoseconds where the clock has them; Python reads six digits.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6]:0<6}+00:00")
