"""A Kubeflow Pipelines server on the loopback: it keeps state, and holds every request and every answer of its own
against the published description of the API (published/kfp_v2beta1.swagger.json)."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import yaml

from tests.loopback_api import served

DESCRIPTION = json.loads((Path(__file__).parent / "published" / "kfp_v2beta1.swagger.json").read_text())
TYPES = {"string": str, "integer": int, "boolean": lambda text: {"true": True, "false": False}[text]}


def strict(schema: Any) -> Any:
    """The schema with every property refused that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


DEFINITIONS = strict(DESCRIPTION["definitions"])


def check(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft4Validator({**strict(schema), "definitions": DEFINITIONS}).validate(value)


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubeflowServer:
    """State and what was asked: `requests` (method, path), `faults` (what contradicted the description)."""

    def __init__(self, *, token: str | None = None, multi_user: bool = False, page: int = 2) -> None:
        self.token, self.multi_user, self.page = token, multi_user, page
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.resumed: list[str] = []
        self.packages: dict[str, list[Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.failing: dict[tuple[str, str], int] = {}
        """(method, end of the path) to the status to answer with."""
        self._made = 0
        self.host = ""

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method != "GET"]

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(url)
        self.requests.append((method, parts.path))
        try:
            operation, place = self._operation(method, parts.path)
            if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
                raise Refused(401, "Unauthenticated: request header error: there is no user identity header.")
            for (failing, end), status in self.failing.items():
                if failing == method and parts.path.endswith(end):
                    raise Refused(status, f"told to fail {method} {end}")
            query = self._query(operation, parts.query)
            sent = self._body(operation, headers, body)
            found = getattr(self, f"_{operation['operationId']}")(query=query, sent=sent, **place)
            check(found, operation["responses"]["200"]["schema"])
            return 200, found
        except Refused as error:
            told = {"code": error.status, "message": str(error), "details": []}
            check(told, DESCRIPTION["definitions"]["googleRpcStatus"])
            return error.status, told
        except Exception as error:
            self.faults.append(f"{method} {url}: {type(error).__name__}: {str(error)[:600]}")
            return 400, {"code": 3, "message": f"contradicts the description: {error}"[:300], "details": []}

    def _operation(self, method: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        for template, operations in sorted(DESCRIPTION["paths"].items(), key=lambda item: item[0].count("{")):
            names = re.findall(r"{([^}]+)}", template)
            pattern = re.sub(r"\\{[^}]+\\}", "([^/:]+)", re.escape(template))
            if (match := re.fullmatch(pattern, path)) and method.lower() in operations:
                return operations[method.lower()], dict(zip(names, match.groups(), strict=True))
        raise AssertionError("no such path in the description")

    def _query(self, operation: dict[str, Any], text: str) -> dict[str, Any]:
        known = {each["name"]: each for each in operation.get("parameters", []) if each["in"] == "query"}
        found = {}
        for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
            assert name in known, f"query parameter {name} is not in the description"
            found[name] = TYPES[known[name]["type"]](value)
        if found.get("filter"):
            found["filter"] = json.loads(found["filter"])
            camel = {"stringValue": "string_value"}
            for predicate in found["filter"]["predicates"]:
                for name in camel.keys() & predicate.keys():
                    predicate[camel[name]] = predicate.pop(name)
            check(found["filter"], DESCRIPTION["definitions"]["v2beta1Filter"])
        return found

    def _body(self, operation: dict[str, Any], headers: Any, body: bytes) -> Any:
        (schema,) = [each["schema"] for each in operation.get("parameters", []) if each["in"] == "body"] or [None]
        files = [each["name"] for each in operation.get("parameters", []) if each["in"] == "formData"]
        if files:
            assert headers["content-type"].startswith("multipart/form-data"), headers["content-type"]
            message = BytesParser(policy=HTTP).parsebytes(
                b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
            )
            sent = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
            assert sorted(sent) == sorted(files), sorted(sent)
            return {name: part.get_content() for name, part in sent.items()}
        if schema is None:
            assert not body, f"a body where none is described: {body[:100]!r}"
            return None
        assert headers["content-type"] == "application/json"
        sent = json.loads(body)
        check(sent, schema)
        return sent

    # What each operation does; only those that are asked for exist.

    def _HealthzService_GetHealthz(self, **_: Any) -> dict[str, Any]:
        return {"multi_user": self.multi_user}

    def _PipelineService_ListPipelines(self, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._page("pipelines", self.pipelines, query, namespace=query.get("namespace", ""))

    def _PipelineService_CreatePipeline(self, sent: dict[str, Any], **_: Any) -> dict[str, Any]:
        where = sent.get("namespace", "")
        if any(each["name"] == sent["name"] and each["namespace"] == where for each in self.pipelines.values()):
            raise Refused(409, f"The pipeline name {sent['name']} already exists.")
        return self._keep(self.pipelines, "pipeline_id", {**sent, "namespace": where})

    def _PipelineService_ListPipelineVersions(
        self, query: dict[str, Any], pipeline_id: str, **_: Any
    ) -> dict[str, Any]:
        return self._page("pipeline_versions", self.versions, query, pipeline_id=pipeline_id)

    def _UploadPipelineVersion(self, query: dict[str, Any], sent: dict[str, Any], **_: Any) -> dict[str, Any]:
        if query["pipelineid"] not in self.pipelines:
            raise Refused(404, f"Pipeline {query['pipelineid']} not found.")
        text = sent["uploadfile"]
        documents = list(yaml.safe_load_all(text if isinstance(text, str) else text.decode()))
        assert "pipelineInfo" in documents[0], "is no pipeline"
        found = {key: query[key] for key in ("name", "description") if key in query}
        version = {**found, "pipeline_id": query["pipelineid"], "display_name": query["name"]}
        if any(
            (each["name"], each["pipeline_id"]) == (version["name"], version["pipeline_id"])
            for each in self.versions.values()
        ):
            raise Refused(409, f"The pipeline version name {version['name']} already exists.")
        made = self._keep(self.versions, "pipeline_version_id", version)
        self.packages[made["pipeline_version_id"]] = documents
        return made

    def _ExperimentService_ListExperiments(self, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._page("experiments", self.experiments, query, namespace=query.get("namespace", ""))

    def _ExperimentService_CreateExperiment(self, sent: dict[str, Any], **_: Any) -> dict[str, Any]:
        made = {**sent, "namespace": sent.get("namespace", ""), "storage_state": "AVAILABLE"}
        return self._keep(self.experiments, "experiment_id", made)

    def _RecurringRunService_ListRecurringRuns(self, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._page("recurringRuns", self.recurring, query, experiment_id=query.get("experiment_id", ""))

    def _RecurringRunService_CreateRecurringRun(self, sent: dict[str, Any], **_: Any) -> dict[str, Any]:
        version = self.versions[sent["pipeline_version_reference"]["pipeline_version_id"]]
        self._fits(version, sent["runtime_config"]["parameters"])
        assert sent["experiment_id"] in self.experiments
        assert len(sent["trigger"]["cron_schedule"]["cron"].split()) == 6, "Kubeflow's cron has six fields"
        status = "ENABLED" if sent["mode"] == "ENABLE" else "DISABLED"
        return self._keep(self.recurring, "recurring_run_id", {**sent, "status": status})

    def _RecurringRunService_DeleteRecurringRun(self, recurring_run_id: str, **_: Any) -> dict[str, Any]:
        if self.recurring.pop(recurring_run_id, None) is None:
            raise Refused(404, "no such recurring run")
        return {}

    def _RunService_CreateRun(self, sent: dict[str, Any], **_: Any) -> dict[str, Any]:
        version = self.versions[sent["pipeline_version_reference"]["pipeline_version_id"]]
        self._fits(version, sent["runtime_config"]["parameters"])
        return self._keep(self.runs, "run_id", sent)

    def _RunService_RetryRun(self, run_id: str, **_: Any) -> dict[str, Any]:
        if run_id not in self.runs:
            raise Refused(404, f"Run {run_id} not found.")
        self.resumed.append(run_id)
        return {}

    def _fits(self, version: dict[str, Any], parameters: dict[str, Any]) -> None:
        """A run must give the pipeline what it needs, and nothing that it does not know."""
        spec = self.packages[version["pipeline_version_id"]][0]
        known = spec["root"]["inputDefinitions"]["parameters"]
        needed = {name for name, each in known.items() if not each.get("isOptional") and "defaultValue" not in each}
        assert needed <= parameters.keys() <= known.keys(), (needed, sorted(parameters))

    def _keep(self, shelf: dict[str, dict[str, Any]], key: str, value: dict[str, Any]) -> dict[str, Any]:
        self._made += 1
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._made)
        made = {**value, key: f"{key[:-3]}-{self._made}", "created_at": moment.isoformat().replace("+00:00", "Z")}
        shelf[made[key]] = made
        return made

    def _page(self, name: str, shelf: dict[str, Any], query: dict[str, Any], **only: str) -> dict[str, Any]:
        """Never more than `page` at once, whatever was asked for: a client must go on."""
        found = [each for each in shelf.values() if all(each.get(key, "") == value for key, value in only.items())]
        for predicate in (query.get("filter") or {"predicates": []})["predicates"]:
            assert predicate["operation"] == "EQUALS"
            found = [each for each in found if each[predicate["key"]] == predicate["string_value"]]
        if query.get("sort_by", "").endswith("desc"):
            found.reverse()
        begin = int(query.get("page_token") or 0)
        rest = begin + self.page < len(found)
        page = {name: found[begin : begin + self.page], "total_size": len(found)}
        return {**page, "next_page_token": str(begin + self.page)} if rest else page


@contextmanager
def kubeflow_server(**settings: Any) -> Iterator[KubeflowServer]:
    """A server on a free port; stopped at the end, when no request may have contradicted the description."""
    kept = KubeflowServer(**settings)

    with served(kept.answer) as kept.host:
        yield kept
    assert kept.faults == []
