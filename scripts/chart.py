"""Writes a Helm chart from a kustomize overlay: `python -m scripts.chart FOLDER [OVERLAY]` (default: production).

The overlay is the one source of the resources. What differs between installations becomes a value, with what the
overlay has as its default, so that the chart with no values of one's own is the overlay.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
MONITORING = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
SETTINGS = {"dataset": "HETERREC_DATASET", "server": "HETERREC_SERVER"}
"""Values that are settings of every process."""
Resource = dict[str, Any]
OPEN, CLOSE = "HELM__", "__MLEH"
ABOUT = """\
# Every value, with what the overlay `{overlay}` has. Written by scripts/chart.py: not the place for changes of yours.
# Secrets are made beforehand, and where database and object store are must be said: docs/operations.md, "By Helm".
"""


class Values:
    """The values of a chart as they are found: `take` puts a placeholder where one was."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def take(self, path: str, value: Any) -> str:
        """The placeholder of `path`; what it replaces becomes its default. ValueError for two defaults of one."""
        *folders, name = path.split(".")
        place = self.found
        for folder in folders:
            place = place.setdefault(folder, {})
        if place.setdefault(name, value) != value:
            raise ValueError(f"{path}: found {value!r} and {place[name]!r}, expected one value everywhere")
        return f"{OPEN}.Values.{path}{' | quote' if isinstance(value, str) else ''}{CLOSE}"


def chart(resources: list[Resource], overlay: str) -> dict[str, str]:
    """The chart's files by their names, of the resources of an overlay."""
    values = Values()
    (settings,) = [each["data"] for each in resources if each["metadata"]["name"].startswith("settings-")]
    values.found = {
        **{value: settings[name] for value, name in SETTINGS.items()},
        "monitoring": {"enabled": True},
        "featureServer": {"enabled": True},
    }
    templates: dict[str, list[str]] = {}
    for resource in resources:
        text = _template(_parametrised(resource, values))
        if switch := _switch(resource):
            text = f"{{{{- if .Values.{switch}.enabled }}}}\n{text}{{{{- end }}}}\n"
        templates.setdefault(resource["kind"].lower(), []).append(text)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = {
        "apiVersion": "v2",
        "name": "heterrec",
        "description": "HeterRec's servers: gateway, TorchServe, consumer, Redis, MLflow",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.31.0-0",
    }
    return {
        "Chart.yaml": yaml.safe_dump(about, sort_keys=False),
        "values.yaml": ABOUT.format(overlay=overlay) + yaml.safe_dump(values.found, sort_keys=False),
        "values.schema.json": json.dumps(_schema(values.found), indent=1),
        **{f"templates/{kind}.yaml": "---\n".join(texts) for kind, texts in templates.items()},
    }


def _parametrised(resource: Resource, values: Values) -> Resource:
    where = resource["metadata"].get("namespace")
    name = resource["metadata"]["name"]
    made: Resource = _replaced(
        resource,
        lambda key, value: (
            f"{OPEN}.Release.Namespace | quote{CLOSE}" if (key, value) == ("namespace", where) else value
        ),
    )
    made = _replaced(made, lambda key, value: _image(values, value) if key == "image" else value)
    spec = made.get("spec", {})
    _restarting(spec.get("template", {}), values)
    match resource["kind"]:
        case "ConfigMap" if name.startswith("settings-"):
            for value, setting in SETTINGS.items():
                made["data"][setting] = values.take(value, made["data"][setting])
        case "HorizontalPodAutoscaler":
            for field in ("minReplicas", "maxReplicas"):
                spec[field] = values.take(f"gateway.{field}", spec[field])
        case "PersistentVolumeClaim":
            _storage(spec, values, _camel(name))
            # An uninstallation leaves the data; StatefulSets' own claims stay by themselves.
            made["metadata"].setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
        case "StatefulSet":
            for claim in spec.get("volumeClaimTemplates", []):
                _storage(claim["spec"], values, _camel(name))
        case "NetworkPolicy" if name in ("database-from-users", "object-store-from-users"):
            (rule,) = spec["egress"]
            block = rule["to"][0]["ipBlock"]
            block["cidr"] = values.take(f"{_camel(name.removesuffix('-from-users'))}.cidr", block["cidr"])
    return made


def _restarting(template: Resource, values: Values) -> None:
    """Pods that read the settings start anew when one changes: the ConfigMap's name is a digest of the defaults."""
    pods = template.get("spec", {}).get("containers", [])
    if any("configMapRef" in source for each in pods for source in each.get("envFrom", [])):
        annotations = template["metadata"].setdefault("annotations", {})
        for value in SETTINGS:
            annotations[f"heterrec.io/{value}"] = values.take(value, values.found[value])


def _storage(spec: Resource, values: Values, name: str) -> None:
    asked = spec["resources"]["requests"]
    asked["storage"] = values.take(f"storage.{name}", asked["storage"])


def _image(values: Values, image: Any) -> Any:
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0].removeprefix("heterrec-")
    return values.take(f"images.{name}", image)


def _switch(resource: Resource) -> str:
    """The value that leaves a resource out, if there is one."""
    name, labels = resource["metadata"]["name"], resource["metadata"].get("labels", {})
    if resource["kind"] in MONITORING or "grafana_dashboard" in labels:
        return "monitoring"
    return "featureServer" if "feature-server" in name else ""


def _replaced(tree: Any, replace: Callable[[str, Any], Any], key: str = "") -> Any:
    if isinstance(tree, dict):
        return {name: _replaced(value, replace, name) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_replaced(each, replace, key) for each in tree]
    return replace(key, tree) if isinstance(tree, str) else tree


def _template(resource: Resource) -> str:
    """As text: what looks like Helm's own in it (alerts, legends) is kept as it is, then placeholders become values."""
    text = yaml.safe_dump(resource, sort_keys=False, width=10**6, allow_unicode=True)
    return text.replace("{{", "{{ `{{` }}").replace(OPEN, "{{ ").replace(CLOSE, " }}")


def _schema(values: Any) -> dict[str, Any]:
    """Of the values: a misspelt one is refused, and each is of its default's kind."""
    if not isinstance(values, dict):
        return {"type": {bool: "boolean", int: "integer", str: "string"}[type(values)]}
    properties = {name: _schema(value) for name, value in values.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _camel(name: str) -> str:
    first, *rest = name.removeprefix("heterrec-").split("-")
    return first + "".join(each.capitalize() for each in rest)


def write(folder: Path, resources: list[Resource], overlay: str) -> None:
    """Write the chart into `folder`, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in chart(resources, overlay).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(folder: str, overlay: str = "production") -> None:
    """Render the overlay by kubectl and write its chart."""
    kubectl = shutil.which("kubectl") or str(ROOT / ".venv" / "bin" / "kubectl")
    command = [kubectl, "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    write(Path(folder), list(yaml.safe_load_all(rendered)), overlay)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
