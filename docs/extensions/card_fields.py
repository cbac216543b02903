"""The directive `card-fields`: every field of the dataset card as tables, made from the models that check it."""

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from tables import section, table

from feature_repo.card import DatasetCard

BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


class CardFields(Directive):
    """A section for the card and for each part of it: field, type, default and meaning, as the models say."""

    def run(self) -> list[nodes.Node]:
        schema = DatasetCard.model_json_schema()
        parts = {"The card": schema, **schema["$defs"]}
        return [_part(name, part, schema["$defs"]) for name, part in parts.items() if "properties" in part]


def _part(name: str, part: dict[str, Any], others: dict[str, Any]) -> nodes.section:
    made = section(f"card {name}", name, str(part.get("description", "")))
    required = part.get("required", ())
    made += table(
        ("field", "type", "left out", "what it says"),
        [
            (f"`{field}`", _type(says), "must be said" if field in required else _default(says), _meaning(says, others))
            for field, says in part["properties"].items()
        ],
        (20, 20, 15, 45),
    )
    return made


def _meaning(says: dict[str, Any], others: dict[str, Any]) -> str:
    """Its own description, else that of the part it holds, with the bounds of a number."""
    part = others.get((says.get("$ref") or says.get("items", {}).get("$ref", "")).rsplit("/", 1)[-1], {})
    text = says.get("description") or str(part.get("description", "")).split("\n\n")[0]
    bounds = ", ".join(f"{word} {says[key]}" for key, word in BOUNDS.items() if key in says)
    return f"{text} {f'({bounds})' if bounds else ''}".strip()


def _type(says: dict[str, Any]) -> str:
    """What is written there: a word of JSON, a list of one, one of several, or the name of a part."""
    if reference := says.get("$ref"):
        return f"`{reference.rsplit('/', 1)[1]}`"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in says:
            return " or ".join(dict.fromkeys(_type(one) for one in says[several] if one.get("type") != "null"))
    if "enum" in says:
        return ", ".join(f"`{value}`" for value in says["enum"])
    if "const" in says:
        return f"`{says['const']}`"
    if says.get("type") == "array":
        return f"list of {_type(says.get('items', {}))}"
    if isinstance(says.get("additionalProperties"), dict):
        return f"mapping to {_type(says['additionalProperties'])}"
    return str(says.get("format") or says.get("type", "anything"))


def _default(says: dict[str, Any]) -> str:
    value = says.get("default")
    if value in (None, [], {}, ""):
        return "nothing"
    if isinstance(value, dict):
        return "as its own fields"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("card-fields", CardFields)
    return {"parallel_read_safe": True}
