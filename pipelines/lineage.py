"""From a released version back to its run, its code and the data it was made of."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from events import logged
from runtime import workspace
from runtime.errors import InputError
from runtime.task import TaskRecord, read_records


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What MLflow and the run's records know of one version."""

    model: str
    version: str
    aliases: list[str]
    tags: dict[str, str]
    records: dict[str, TaskRecord]
    """Tasks of the run; empty where its folder was removed (the digests are among the tags all the same)."""

    @property
    def partitions(self) -> dict[str, str]:
        """Digest of each day of the data, as the run resolved them; empty where its artifacts were removed."""
        record = self.records.get("resolve")
        path = Path(record.artifact) / "facts.json" if record is not None else None
        if path is None or not path.is_file():
            return {}
        found: dict[str, str] = json.loads(path.read_text())["partitions"]
        return found

    def as_json(self) -> dict[str, Any]:
        """What a script would read; `tasks` are those whose artifacts the version was made of."""
        tasks = {name: digest for name in self.records if (digest := self.tags.get(f"parent.{name}"))}
        return {
            "model": self.model,
            "version": self.version,
            "aliases": self.aliases,
            "archive_digest": self.tags["archive_digest"],
            "run_id": self.tags["run_id"],
            "commit": self.tags["git_commit"],
            "tasks": {
                name: {"digest": digest, "parents": self.records[name].parents} for name, digest in tasks.items()
            },
            "partitions": self.partitions,
        }


class ServedRequest(NamedTuple):
    """A served request, as the event log has it."""

    model: str
    exposure: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """What a script would read."""
        shown = self.exposure
        fields = ("request_id", "user_id", "variant", "status", "model_version", "n_items")
        return {"time": shown["time"].isoformat(), **{name: shown[name] for name in fields}}


def served(request_id: str) -> ServedRequest:
    """Find a request in the event logs of all models. Raises `InputError` where none has it."""
    logs = sorted(workspace.event_log("*").parent.glob("*/"))
    for log in logs:
        if (exposure := logged.exposure(log, request_id)) is not None:
            return ServedRequest(log.name, exposure)
    raise InputError(
        f"request {request_id}: in none of the event logs of {', '.join(log.name for log in logs) or 'any model'} "
        f"({workspace.event_log('*').parent}). With Redis, `python -m serving consumer` has to bring it there first."
    )


def trace(model: str, version: str | None) -> Lineage:
    """The lineage of `version` of `model`, or of its champion. Raises `InputError` for an unknown version."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=workspace.mlflow_url(), registry_uri=workspace.mlflow_url())
    registered = client.search_registered_models(f"name='{model}'")
    aliases = registered[0].aliases if registered else {}
    versions = {entry.tags["version"]: entry for entry in client.search_model_versions(f"name='{model}'")}
    if version is None:
        champion = aliases.get("champion")
        version = next((name for name, entry in versions.items() if str(entry.version) == str(champion)), None)
    if version is None or version not in versions:
        known = ", ".join(sorted(versions)) or "none; `make run` releases one"
        raise InputError(f"model {model!r}, version {version or 'champion'}: not registered. Known versions: {known}.")
    entry = versions[version]
    return Lineage(
        model=model,
        version=version,
        aliases=[alias for alias, number in aliases.items() if str(number) == str(entry.version)],
        tags=dict(entry.tags),
        records=read_records(entry.tags["run_id"]),
    )
