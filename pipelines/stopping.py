"""A command that is stopped ends in order: what it started ends with it, and it says what to do next."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 10.0
"""Between asking a task's process to end and ending it; a training writes its checkpoint on the way, not at the end."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; like `KeyboardInterrupt` no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.status = 128 + number


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the processes that were started, and raise `Stopped`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    import psutil

    # Whoever waits for a child in a `with` waits on while the exception passes: the child must end first.
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    for child in alive:
        child.kill()
    raise Stopped(number)
