"""What takes seconds, done while the first page is looked at: imports, and the archives that serve are opened."""

import contextlib
import threading

from console.archives import chosen
from console.site import Console
from experiments.database import TableAway
from runtime.errors import InputError


def begin(console: Console) -> None:
    """In a thread that no end waits for."""
    threading.Thread(target=prepare, args=(console,), name="ahead", daemon=True).start()


def prepare(console: Console) -> None:
    """Of the model that pages show unasked."""
    import serving.gateway.tables
    import serving.scoring.scorer  # noqa: F401

    with contextlib.suppress(InputError, TableAway):  # the pages say what they cannot open
        _, row = chosen("")
        if row is not None:
            for arm in row.roles.values():
                console.archives.of(row.model, arm).open_all()
