"""How a feature's column is read in SQL: whether its value is missing, and the number that stands for it."""

from feature_repo.card_features import Described
from feature_repo.kinds import KINDS, Storage

_MISSING = {
    Storage.TEXT: "coalesce({x}, '') = ''",
    Storage.TEXTS: "coalesce(len({x}), 0) = 0",
    Storage.NUMBER: "({x} IS NULL OR isnan({x}))",
    Storage.VECTOR: "coalesce(len({x}), 0) = 0",
}
_READABLE = {
    Storage.TEXT: "{x}",
    Storage.TEXTS: "array_to_string({x}, ' | ') AS {x}",
    Storage.NUMBER: "{x}",
    Storage.VECTOR: "array_to_string({x}[:4], ' ') || CASE WHEN len({x}) > 4 THEN ' …' ELSE '' END AS {x}",
}


def missing(feature: Described) -> str:
    """SQL condition: nothing is there. Infinite is not missing, and neither is a vector with a hole in it."""
    return _MISSING[feature.storage].format(x=f'"{feature.name}"')


def number(feature: Described) -> str:
    """SQL: the value of a number, the length in characters of a text, that of an embedding as a vector; else NULL."""
    measure = feature.traits.measure
    return "NULL" if measure is None else measure.sql.format(x=f'"{feature.name}"')


def values(feature: Described) -> str:
    """SQL: the list of distinct things that the feature says: its value, its values, or the words of a text."""
    says = feature.traits.says
    assert says is not None, f"{feature.name} is {feature.kind}, which has no vocabulary"
    return says.format(x=f'"{feature.name}"')


def readable(feature: Described) -> str:
    """SQL: what evidence shows of the value; vectors by their first numbers."""
    return _READABLE[feature.storage].format(x=f'"{feature.name}"')


def measured_by(kind: str) -> str:
    """What `number` is, in words, of a kind whose distribution has bins."""
    measure = KINDS[kind].measure
    assert measure is not None, f"{kind} has no number"
    return measure.called


def source_of(feature: Described) -> str:
    """The table that has the feature."""
    return {"items": "latest_items", "users": "latest_users"}.get(feature.stored_in, feature.stored_in)


def rows_of(feature: Described) -> str:
    """What its rows are, in words."""
    return {"varying": "changes", "derived": "changes"}.get(feature.stored_in, feature.stored_in)
