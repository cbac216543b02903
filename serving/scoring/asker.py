"""Who asks, as a request says it: what is known of the user and the moment, checked against the archive's contract."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.scoring.faults import BadRequest
from serving.scoring.forms import FORMS

FIELDS = {"user": "user_features", "context": "context"}
"""Of a request, by what a feature is of."""


def known_askers(contract: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By field of a request the names that an archive knows, with their forms."""
    return AskerReader(contract.get("asking", ())).fields


class AskerReader:
    """Reads the fields of a request that say who asks; `asking` are the contract's entries."""

    def __init__(self, asking: Sequence[Mapping[str, str]]) -> None:
        self.fields: dict[str, dict[str, str]] = {}
        """Of each field of a request that may be there: form by name."""
        for each in asking:
            self.fields.setdefault(FIELDS[each["of"]], {})[each["name"]] = each["kind"]

    def read(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The values by name; what is not told is missing. Raises `BadRequest` naming the field."""
        found: dict[str, Any] = {}
        for field, forms in self.fields.items():
            told = raw.get(field)
            if told is None:
                continue
            if not isinstance(told, dict):
                raise BadRequest(field, told, f"an object with some of {', '.join(forms)}")
            for name, value in told.items():
                if name not in forms:
                    raise BadRequest(f"{field}.{name}", value, f"no names but {', '.join(forms)}")
                if (wrong := misfit(forms[name], value)) is not None:
                    raise BadRequest(f"{field}.{name}", value, wrong)
                found[name] = value
        return found


def misfit(form: str, value: object) -> str | None:
    """What was expected, where that was not found; null is a missing value."""
    return FORMS[form].misfit(value)
