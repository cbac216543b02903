"""Holds a resource of Kubernetes against its published definition, as strictly as a server that validates fields."""

from pathlib import Path
from typing import Any

import yaml

from tests.strict_schema import validator

PUBLISHED = Path(__file__).parent / "published"


def validate(resource: dict[str, Any], definition: str) -> None:
    """Raise `jsonschema.ValidationError` unless `definition` (a file of published/) admits the resource."""
    spec = yaml.safe_load((PUBLISHED / definition).read_text())["spec"]
    group, _, version = resource["apiVersion"].partition("/")
    assert (group, resource["kind"]) == (spec["group"], spec["names"]["kind"])
    (found,) = [each for each in spec["versions"] if each["name"] == version]
    validator(found["schema"]["openAPIV3Schema"]).validate(resource)
