"""What programs log: one line an event on standard error, with its UTC time; nothing that nobody can act on.

What a person or a script asked for is printed, on standard output. What a task of a pipeline says while it runs is an
event of `runtime.log`; its process is one of Kubeflow Pipelines, which has set up its own logging by then.
"""

import logging
import sys
import time
from typing import TextIO

LINE = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S"
ROOMS = ("components", "console", "events", "experiments", "feature_repo", "pipelines", "runtime", "serving")
"""Log what they do (INFO); libraries say what may be wrong (WARNING)."""
LEAST = {
    # Each table that a new database gets is a line of its own.
    "mlflow": {"mlflow.store.db.utils": logging.WARNING, "alembic": logging.WARNING},
    # What cannot be evaluated is in the results. As an error it logs, with a trace, that its Data Docs leave out how
    # many distinct values were not expected: their renderer asks the result for a field that it does not have.
    "great_expectations": {"great_expectations": logging.CRITICAL},
    # Kubeflow's client tries again by itself; what came of it in the end is the caller's error.
    "kfp": {"urllib3.connectionpool": logging.ERROR},
    # Which of its parts are experimental, at every use.
    "feast": {"feast": logging.ERROR},
}
"""By library: from which level its loggers are heard, and why."""


class _StandardError(logging.StreamHandler[TextIO]):
    """Where standard error goes at the moment: a run sends it to its own log meanwhile."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure() -> None:
    """Set the process's logging up; the first thing a program does. Where somebody has done so before, such as a test's
    runner, it stays as it is."""
    if logging.getLogger().handlers:
        return
    formatter = logging.Formatter(LINE, TIME)
    formatter.converter = time.gmtime
    handler = _StandardError()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)


def quieten(library: str) -> None:
    """Hear of `library` from the levels of `LEAST` on. Called once it is imported: some set their loggers up then."""
    for name, level in LEAST[library].items():
        logging.getLogger(name).setLevel(level)
