"""Holds a resource of Kubernetes against its published definition, as strictly as a server that validates fields."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

PUBLISHED = Path(__file__).parent / "published"


def validate(resource: dict[str, Any], definition: str) -> None:
    """Raise `jsonschema.ValidationError` unless `definition` (a file of published/) admits the resource."""
    spec = yaml.safe_load((PUBLISHED / definition).read_text())["spec"]
    group, _, version = resource["apiVersion"].partition("/")
    assert (group, resource["kind"]) == (spec["group"], spec["names"]["kind"])
    (found,) = [each for each in spec["versions"] if each["name"] == version]
    schema = _strict(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(schema).validate(resource)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string") is True:
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return made
