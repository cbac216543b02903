"""Where runs keep what outlives them: one folder, found through the environment variable HETERREC_HOME."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def home() -> Path:
    """The workspace: `$HETERREC_HOME`, or `var/` in the project's root."""
    return Path(os.environ.get("HETERREC_HOME") or ROOT / "var").resolve()


def artifacts() -> Path:
    """Sealed artifacts, by kind and content key."""
    return home() / "artifacts"


def scratch() -> Path:
    """What a killed step left for its next attempt, by the same keys."""
    return home() / "scratch"


def locks() -> Path:
    """A file for each artifact that is being made, by kind and content key."""
    return home() / "locks"


def runs() -> Path:
    """One folder a run: a record of each task, the page, the log."""
    return home() / "runs"


def run(named: str) -> str:
    """The run's ID: `named`, or on a cluster, where scheduled runs all have the same parameters, `$HETERREC_RUN_ID`."""
    found = named or os.environ.get("HETERREC_RUN_ID", "")
    if not found:
        raise RuntimeError("the run has no name: pass run_id, or set HETERREC_RUN_ID (the compiled pipelines do)")
    return found


def releases() -> Path:
    """Archives that were pushed, by model and version."""
    return home() / "releases"


def archives() -> Path:
    """Archives that were fetched to be served, by model and digest: `$HETERREC_ARCHIVES`, or in the workspace."""
    return Path(os.environ.get("HETERREC_ARCHIVES") or home() / "archives")


def exposures(dataset: str) -> Path:
    """The event log's exposures of a data set: `$HETERREC_EXPOSURES/<dataset>`, or a folder of the workspace."""
    return Path(os.environ.get("HETERREC_EXPOSURES") or home() / "exposures") / dataset


def feature_store(dataset: str) -> Path:
    """Registry and online store of a data set."""
    return home() / "feast" / dataset


def event_log(model: str) -> Path:
    """Exposures and outcomes of what serves `model`: in `$HETERREC_EVENT_LOG`, or in the workspace."""
    return Path(os.environ.get("HETERREC_EVENT_LOG") or home() / "log") / model


def event_log_redis() -> str | None:
    """Address of the Redis through which the events of many gateways go (`$HETERREC_EVENT_LOG_REDIS`), if any."""
    return os.environ.get("HETERREC_EVENT_LOG_REDIS") or None


def latest_events(dataset: str) -> Path:
    """The file that names the events artifact of the latest ingest of a data set, from which the next takes over."""
    return home() / "events" / f"{dataset}.json"


def forgotten(dataset: str) -> Path:
    """The list of deleted users of a data set."""
    return home() / "forgotten" / f"{dataset}.txt"


def rollout_url() -> str:
    """SQLAlchemy address of the rollout table: `$HETERREC_ROLLOUT_URL`, or SQLite in the workspace."""
    return os.environ.get("HETERREC_ROLLOUT_URL") or f"sqlite:///{home() / 'rollout.db'}"


def mlflow_url() -> str:
    """MLflow's tracking address: `$MLFLOW_TRACKING_URI`, or SQLite in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
