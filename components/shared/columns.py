"""How a feature's column is read in SQL: whether its value is missing, and the number that stands for it."""

from feature_repo.card import Described

MEASURE = {"numeric": "value", "text": "characters", "embedding": "length of the vector"}
"""What `number` is, by kind; other kinds have none."""


def missing(feature: Described) -> str:
    """SQL condition: nothing is there. Infinite is not missing, and neither is a vector with a hole in it."""
    name = f'"{feature.name}"'
    if feature.kind == "numeric":
        return f"({name} IS NULL OR isnan({name}))"
    if feature.kind in ("multi_categorical", "embedding"):
        return f"coalesce(len({name}), 0) = 0"
    return f"coalesce({name}, '') = ''"


def number(feature: Described) -> str:
    """SQL: the value of a number, the length in characters of a text, that of an embedding as a vector; else NULL."""
    name = f'"{feature.name}"'
    if feature.kind == "numeric":
        return f"(CASE WHEN NOT isnan({name}) THEN {name} END)"
    if feature.kind == "text":
        return f"nullif(length({name}), 0)"
    if feature.kind == "embedding":
        # A hole or an infinite number in the vector leaves no length.
        squares = f"list_sum(list_transform({name}, x -> x::DOUBLE * x))"
        return f"(CASE WHEN isfinite({squares}) THEN sqrt({squares}) END)"
    return "NULL"


def values(feature: Described) -> str:
    """SQL: the list of distinct things that the feature says: its value, its values, or the words of a text."""
    name = f'"{feature.name}"'
    if feature.kind == "multi_categorical":
        return f"CASE WHEN len({name}) > 0 THEN {name} ELSE [NULL] END"
    if feature.kind == "text":
        return f"string_split(lower({name}), ' ')"
    return f"[nullif({name}, '')]"


def readable(feature: Described) -> str:
    """SQL: what evidence shows of the value; vectors by their first numbers."""
    name = f'"{feature.name}"'
    if feature.kind == "multi_categorical":
        return f"array_to_string({name}, ' | ') AS {name}"
    if feature.kind == "embedding":
        return f"array_to_string({name}[:4], ' ') || CASE WHEN len({name}) > 4 THEN ' …' ELSE '' END AS {name}"
    return name


def source_of(feature: Described) -> str:
    """The table that has the feature."""
    return {"items": "latest_items", "users": "latest_users"}.get(feature.stored_in, feature.stored_in)


def rows_of(feature: Described) -> str:
    """What its rows are, in words."""
    return {"varying": "changes", "derived": "changes"}.get(feature.stored_in, feature.stored_in)
