"""From a released version back to its run, its code and the data it was made of."""

import os
from dataclasses import dataclass

from components import workspace
from components.errors import InputError
from components.task import Record, read_records


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What MLflow and the run's records know of one version."""

    model: str
    version: str
    aliases: list[str]
    tags: dict[str, str]
    records: dict[str, Record]
    """Tasks of the run; empty where its folder was removed (the digests are among the tags all the same)."""


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
