"""MLflow's record of a release: a run with settings and metrics, a model version with its lineage, two aliases.

Everything is found by the archive's digest before it is made, so that a repeated push completes what a killed one
began. What serves is decided by the rollout table; the aliases are a view of it (FACTS: they have no conditional
write).
"""

import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.release_store import uri
from experiments.document import Rollout
from runtime import workspace
from runtime.service_log import quieten

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARMS = ("champion", "challenger")
_MAX_TAG = 5000
_MAX_PARAM = 6000
_RELEASE = "release"
_KIND, _CLASSIC = "mlflow.experimentKind", "custom_model_development"
"""Without it MLflow's page of an experiment is that of language models, with traces and tokens."""


@dataclass(frozen=True, kw_only=True)
class ReleaseRecord:
    """What is kept of a release. Keys of `settings` and `metrics` are dotted paths."""

    version: str
    archive_digest: str
    folder: Path
    """Of the release, on this machine."""
    source: str
    """URI by which others find it."""
    settings: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What is kept of every run that trained, released or not: losing ideas are compared, too."""

    run_id: str
    model: str
    """Its name. Where the neighbour tables were released in its place, theirs is another run of MLflow's."""
    settings: dict[str, Any]
    metrics: dict[str, float]
    curve: list[dict[str, Any]]
    """A point an epoch, with its `epoch`."""
    tags: dict[str, str]


class Registry:
    """The experiment and the registered model `name` at `url`, made where they are missing."""

    def __init__(self, url: str, name: str) -> None:
        self._client, self._name = _connect(url), name
        self._served = has_copies(url)

    def register(self, record: ReleaseRecord) -> str:
        """Number of the model version of this archive, made together with its run where there is none."""
        if (number := self._number(record.archive_digest)) is not None:
            return number
        run_id = self._run(record)
        self._ensure_model()
        tags = {"version": record.version, "archive_digest": record.archive_digest, **record.tags}
        made = self._client.create_model_version(
            self._name, source=self._source(record, run_id), run_id=run_id, tags=tags
        )
        return str(made.version)

    def replace(self, archive_digest: str, release: Path, files: Sequence[Path]) -> None:
        """Let `files` of the folder `release` take the place of the server's copies, where it has that release."""
        number = self._number(archive_digest)
        run_id = self._client.get_model_version(self._name, number).run_id if number is not None else None
        for path in files if run_id else ():
            below = path.parent.relative_to(release).as_posix()
            self._client.log_artifact(run_id, str(path), _RELEASE if below == "." else f"{_RELEASE}/{below}")

    def log(self, trial: TrialRecord) -> str:
        """The finished MLflow run of the model that this run of ours trained; that which push made, where it was
        released."""
        experiment = self._experiment(None)
        found = [
            run
            for run in self._client.search_runs([experiment], f"tags.run_id = '{trial.run_id}'")
            if run.data.tags.get("released", trial.model) == trial.model
        ]
        made = found[0] if found else self._client.create_run(experiment, run_name=trial.run_id)
        run_id, logged = str(made.info.run_id), made.data.metrics
        for key, value in {"run_id": trial.run_id, "model": trial.model, **trial.tags}.items():
            self._client.set_tag(run_id, key, value[:_MAX_TAG])
        for key, value in trial.settings.items():
            self._client.log_param(run_id, _key(key), str(value)[:_MAX_PARAM])
        for key, number in trial.metrics.items():
            if _key(key) not in logged:
                self._client.log_metric(run_id, _key(key), number)
        for point in trial.curve:
            for key, number in metrics({name: each for name, each in point.items() if name != "epoch"}).items():
                if (name := f"training.{_key(key)}") not in logged:
                    self._client.log_metric(run_id, name, number, step=int(point["epoch"]))
        self._client.set_terminated(run_id)
        return run_id

    def show(self, rollout: Rollout) -> None:
        """Set the aliases `champion` and `challenger` to what the rollout table says."""
        self._ensure_model()
        aliases = self._client.get_registered_model(self._name).aliases
        for arm in ARMS:
            serving = getattr(rollout, arm)
            number = self._number(serving.archive_digest) if serving is not None else None
            if number is not None:
                self._client.set_registered_model_alias(self._name, arm, number)
            elif arm in aliases:
                self._client.delete_registered_model_alias(self._name, arm)

    def _source(self, record: ReleaseRecord, run_id: str) -> str:
        """Where MLflow finds the release. A server takes no path of another machine's: it gets the files."""
        if not self._served:
            return record.source
        self._client.log_artifacts(run_id, str(record.folder), _RELEASE)
        return f"runs:/{run_id}/{_RELEASE}"

    def _number(self, archive_digest: str) -> str | None:
        found = self._client.search_model_versions(f"name='{self._name}' and tags.archive_digest='{archive_digest}'")
        return str(found[0].version) if found else None

    def _run(self, record: ReleaseRecord) -> str:
        """The finished run of this archive; one that a killed push left behind is completed."""
        experiment = self._experiment(record.source)
        found = self._client.search_runs([experiment], f"tags.archive_digest = '{record.archive_digest}'")
        if found:
            run_id = found[0].info.run_id
        else:
            tags = {"archive_digest": record.archive_digest, **record.tags}
            run_id = self._client.create_run(experiment, run_name=record.version, tags=tags).info.run_id
        for key, value in record.settings.items():
            self._client.log_param(run_id, _key(key), str(value)[:_MAX_PARAM])
        logged = found[0].data.metrics if found else {}
        for key, value in record.metrics.items():
            if _key(key) not in logged:
                self._client.log_metric(run_id, _key(key), value)
        self._client.set_terminated(run_id)
        return str(run_id)

    def _experiment(self, source: str | None) -> str:
        found = self._client.get_experiment_by_name(self._name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                # Its name stays taken and nothing can be logged to it: whoever pushes means it to be there.
                self._client.restore_experiment(found.experiment_id)
            if found.tags.get(_KIND) != _CLASSIC:
                self._client.set_experiment_tag(found.experiment_id, _KIND, _CLASSIC)
            return str(found.experiment_id)
        # Named, because MLflow's default is a folder in whatever directory this process happens to be in. A server
        # has its own.
        folder = source.rsplit("/", 1)[0] if source else uri(workspace.releases() / self._name)
        location = None if self._served else folder
        made = self._client.create_experiment(self._name, artifact_location=location, tags={_KIND: _CLASSIC})
        return str(made)

    def _ensure_model(self) -> None:
        if not self._client.search_registered_models(f"name='{self._name}'"):
            self._client.create_registered_model(self._name)


def has_copies(url: str) -> bool:
    """Whether what is at `url` is a server, which keeps releases of its own and knows no path of this machine."""
    return url.startswith(("http://", "https://"))


def tags(lineage: dict[str, Any], *, recipe_digest: str) -> dict[str, str]:
    """Where a model came from, as tags: run, commit, digest of the data, and of each artifact on the way."""
    tasks: dict[str, Any] = lineage.get("tasks", {})
    found = {
        "recipe_digest": recipe_digest,
        "run_id": lineage.get("run_id"),
        "git_commit": lineage.get("commit"),
        "data_digest": tasks.get("features", {}).get("digest"),
        **{f"parent.{name}": task["digest"] for name, task in tasks.items()},
    }
    return {key: str(value)[:_MAX_TAG] for key, value in found.items() if value is not None}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested JSON by dotted path; lists are no leaves and are left out."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}.{name}").items()}
    return {} if isinstance(value, list) else {path.removeprefix("."): value}


def metrics(report: Any) -> dict[str, float]:
    """The finite numbers of a report by dotted path."""
    leaves = flat(report).items()
    numbers = {key: leaf for key, leaf in leaves if isinstance(leaf, int | float) and not isinstance(leaf, bool)}
    return {key: float(number) for key, number in numbers.items() if math.isfinite(number)}


def _key(name: str) -> str:
    """MLflow takes letters, digits and a few signs: ndcg@10 becomes ndcg_at_10."""
    return re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_"))


def _connect(url: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from mlflow import MlflowClient  # seconds, and so not at the top

    quieten("mlflow")
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")  # MLflow's own use of it
    return MlflowClient(tracking_uri=url, registry_uri=url)
