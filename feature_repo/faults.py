"""What the clients of feature stores raise when a store is gone, locked or full, as one error that says so."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


class Unavailable(RuntimeError):
    """The online store cannot be reached, read or written. Nothing of the call counts as done: do it again."""


def client_errors() -> tuple[type[Exception], ...]:
    """Of every client that is installed."""
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
    try:
        from redis.exceptions import RedisError
    except ImportError:
        return errors
    return (*errors, RedisError)


@contextmanager
def telling(project: str, what: str) -> Iterator[None]:
    """Turn what a client raises into `Unavailable`; `what` could not be done, and what to do about it."""
    try:
        yield
    except client_errors() as error:
        raise Unavailable(f"online store of {project!r}: {type(error).__name__}: {error}. {what}") from error
