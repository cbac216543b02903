"""A published definition of Kubernetes as strict as a server that validates fields."""

from typing import Any

import jsonschema


def validator(published: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Of a resource of the definition's version, from its `openAPIV3Schema`."""
    schema = _strict(published)
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _strict(schema: Any) -> Any:
    """Unknown fields are refused, and an int-or-string is either, as servers have it."""
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
