"""What a Kubeflow server should have of us, held against what it has: the difference, and how it is made even.

Everything is found by its name and told apart by its content, so that to ask twice is to ask once.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp_server_api

from pipelines.kubeflow import KubeflowClient
from pipelines.packages import Package

PAGE = 100
MADE_BY = "Made by python -m pipelines schedule"


@dataclass(frozen=True, kw_only=True)
class Recurring:
    """A recurring run: no two at a time, and what was missed is not caught up (the next one sees all of it)."""

    name: str
    cron: str
    """Kubeflow's six fields, in UTC: second, minute, hour, day of the month, month, day of the week."""
    parameters: dict[str, Any] = field(default_factory=dict)
    service_account: str = ""


class Server:
    """One server and namespace; `changes` collects what differs, which is done only with `apply`."""

    def __init__(self, client: KubeflowClient, *, namespace: str, apply: bool) -> None:
        self._client, self._namespace, self._apply = client, namespace or None, apply
        self.changes: list[str] = []

    def version(self, package: Package) -> tuple[str, str] | None:
        """IDs of the pipeline and of the version with this content, made where missing; None in a dry run."""
        found = self.pipeline(package.name)
        if found is None:
            # The client's own upload would add a version under the pipeline's name, which says nothing of its content.
            create = self._client._pipelines_api.pipeline_service_create_pipeline
            found = self._change(
                f"create pipeline {package.name}",
                lambda: create(
                    pipeline=kfp_server_api.V2beta1Pipeline(
                        name=package.name,
                        display_name=package.name,
                        description=package.description,
                        namespace=self._namespace,
                    )
                ),
            )
        pipeline = found.pipeline_id if found is not None else None
        version = self._version(pipeline, package.version) if pipeline else None
        if version is None:
            version = self._change(
                f"create version {package.version} of {package.name}", lambda: self._upload(package, str(pipeline))
            )
        return (pipeline, version.pipeline_version_id) if pipeline and version is not None else None

    def experiment(self, name: str) -> str | None:
        """ID of the experiment, made where missing; None in a dry run."""
        found = self._experiment(name)
        if found is None:
            # The client's own method looks for it first, by a filter that the published API does not describe.
            create = self._client._experiment_api.experiment_service_create_experiment
            found = self._change(
                f"create experiment {name}",
                lambda: create(
                    experiment=kfp_server_api.V2beta1Experiment(
                        display_name=name, description=MADE_BY, namespace=self._namespace
                    )
                ),
            )
        return found.experiment_id if found is not None else None

    def recurring(self, wanted: Recurring, experiment: str | None, version: tuple[str, str] | None) -> None:
        """Let exactly one run recur as `wanted`: Kubeflow cannot change one, so that a new one takes its place."""
        found = [each for each in self._recurring(experiment) if each.display_name == wanted.name]
        differences = [(each, _differences(wanted, each, version)) for each in found]
        fitting = next((each for each, difference in differences if not difference), None)
        if fitting is None:
            news = "; ".join(differences[-1][1]) if differences else wanted.cron
            # The new one before the old ones go: a kill between leaves two, which the next time becomes one again.
            self._change(
                f"{'move' if found else 'create'} recurring run {wanted.name}: {news}",
                lambda: self._create(wanted, str(experiment), version),
            )
        for each in found:
            if each is not fitting:
                self._remove(each, quiet=fitting is None)

    def unschedule(self, name: str, experiment: str) -> None:
        """Remove the recurring runs `name` of the experiment; its pipelines, versions and past runs stay."""
        found = self._experiment(experiment)
        for each in self._recurring(found.experiment_id if found is not None else None):
            if each.display_name == name:
                self._remove(each)

    def start(
        self, name: str, experiment: str, version: tuple[str, str], parameters: dict[str, Any], service_account: str
    ) -> str:
        """Start one run now, with the server's own account for ""; returns its ID."""
        with contextlib.redirect_stdout(io.StringIO()):
            run = self._client.run_pipeline(
                experiment,
                name,
                params=parameters,
                pipeline_id=version[0],
                version_id=version[1],
                service_account=service_account or None,
            )
        return str(run.run_id)

    def resume(self, run: str) -> None:
        """Let a run that failed or was ended go on: Kubeflow does anew what did not succeed, under the same ID."""
        self._change(f"resume run {run}", lambda: self._client._run_api.run_service_retry_run(run))

    def pipeline(self, name: str) -> Any:
        """The pipeline of this name, or None."""
        found = self._all("pipelines", self._client.list_pipelines, name, namespace=self._namespace)
        return next((each for each in found if name in (each.name, each.display_name)), None)

    def versions(self, pipeline: str) -> list[Any]:
        """All versions of a pipeline, the newest first."""
        return list(
            self._all(
                "pipeline_versions",
                self._client.list_pipeline_versions,
                None,
                pipeline_id=pipeline,
                sort_by="created_at desc",
            )
        )

    def scheduled(self, experiment: str) -> list[Any]:
        """The recurring runs of an experiment."""
        found = self._experiment(experiment)
        return self._recurring(found.experiment_id if found is not None else None)

    def _version(self, pipeline: str, name: str) -> Any:
        found = self._all("pipeline_versions", self._client.list_pipeline_versions, name, pipeline_id=pipeline)
        return next((each for each in found if name in (each.name, each.display_name)), None)

    def _experiment(self, name: str) -> Any:
        found = self._all("experiments", self._client.list_experiments, name, namespace=self._namespace)
        return next((each for each in found if each.display_name == name), None)

    def _recurring(self, experiment: str | None) -> list[Any]:
        if experiment is None:
            return []
        return list(self._all("recurring_runs", self._client.list_recurring_runs, None, experiment_id=experiment))

    def _create(self, wanted: Recurring, experiment: str, version: tuple[str, str] | None) -> Any:
        assert version is not None
        return self._client.create_recurring_run(
            experiment_id=experiment,
            job_name=wanted.name,
            description=MADE_BY,
            cron_expression=wanted.cron,
            # Its published type is a string (int64 in JSON), whatever the client's annotation says.
            max_concurrency="1",
            no_catchup=True,
            params=wanted.parameters,
            pipeline_id=version[0],
            version_id=version[1],
            service_account=wanted.service_account or None,
        )

    def _remove(self, recurring: Any, *, quiet: bool = False) -> None:
        remove = self._client.delete_recurring_run
        text = f"remove recurring run {recurring.display_name} ({recurring.recurring_run_id})"
        if quiet:
            if self._apply:
                remove(recurring.recurring_run_id)
            return
        self._change(text, lambda: remove(recurring.recurring_run_id))

    def _upload(self, package: Package, pipeline: str) -> Any:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder) / f"{package.name}.yaml"
            path.write_text(package.text)
            return self._client.upload_pipeline_version(
                str(path), package.version, pipeline_id=pipeline, description=package.description
            )

    def _change(self, what: str, do: Callable[[], Any]) -> Any:
        """Note a change, and make it where that was asked for: noted after it was made, so that the list is true."""
        made = do() if self._apply else None
        self.changes.append(what)
        return made

    def _all(self, what: str, page: Callable[..., Any], name: str | None, **named: Any) -> Iterator[Any]:
        """Every element of a paged list, of this name where one is given."""
        if name is not None:
            predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
            named["filter"] = json.dumps({"predicates": [predicate]})
        token = ""
        while True:
            got = page(page_token=token, page_size=PAGE, **named)
            yield from getattr(got, what) or ()
            token = got.next_page_token or ""
            if not token:
                return


def _differences(wanted: Recurring, found: Any, version: tuple[str, str] | None) -> list[str]:
    """What of `found` is not as `wanted`, in words; empty where all is."""
    cron = found.trigger.cron_schedule.cron if found.trigger and found.trigger.cron_schedule else "no clock"
    runs = found.pipeline_version_reference
    here = {
        "cron": cron,
        "pipeline version": (runs.pipeline_id, runs.pipeline_version_id) if runs else None,
        "parameters": dict(found.runtime_config.parameters or {}) if found.runtime_config else {},
        "at a time": str(found.max_concurrency),
        "no catch-up": bool(found.no_catchup),
        "service account": (found.service_account or "") if wanted.service_account else "",
        "status": found.status,
    }
    there = {
        "cron": wanted.cron,
        "pipeline version": version,
        "parameters": wanted.parameters,
        "at a time": "1",
        "no catch-up": True,
        "service account": wanted.service_account,
        "status": "ENABLED",
    }
    return [_difference(name, here[name], there[name]) for name in there if here[name] != there[name]]


def _difference(name: str, here: Any, there: Any) -> str:
    if name == "pipeline version":
        return "to the new version of the pipeline"
    if name == "parameters":
        changed = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
        return f"other parameters ({', '.join(changed)})"
    return f"{name} {here or 'none'} -> {there or 'none'}"
