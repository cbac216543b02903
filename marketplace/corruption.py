"""Bad rows as real sources have them, for ingest to find and set aside."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KINDS = (
    "malformed_time",
    "missing_time",
    "missing_user",
    "missing_item",
    "negative_quantity",
    "zero_quantity",
    "duplicate_row",
    "future_time",
)


def soil(interactions: pa.Table, rate: float, rng: np.random.Generator) -> pa.Table:
    """Spoiled copies of `rate` of the rows, of each kind alike, added at the end; times become strings.

    Nothing is taken away: the good rows are those of `interactions`.
    """
    text = pc.strftime(interactions["event_time"], format="%Y-%m-%dT%H:%M:%SZ")
    clean = interactions.set_column(interactions.schema.get_field_index("event_time"), "event_time", text)
    count = rng.binomial(len(clean), rate) if len(clean) else 0
    bad = clean.take(pa.array(rng.choice(len(clean), size=count, replace=False)))
    kind = rng.integers(len(KINDS), size=count)
    spoil: dict[str, dict[str, Any]] = {
        "event_time": {
            "malformed_time": "31/02/2025 25:61",
            "missing_time": None,
            "future_time": "2999-01-01T00:00:00Z",
        },
        "user_id": {"missing_user": None},
        "item_id": {"missing_item": ""},
        "quantity": {"negative_quantity": -1, "zero_quantity": 0},
    }
    for column, values in spoil.items():
        spoiled = bad[column]
        for name, value in values.items():
            mask = pa.array(kind == KINDS.index(name))
            spoiled = pc.if_else(mask, pa.scalar(value, spoiled.type), spoiled)
        bad = bad.set_column(bad.schema.get_field_index(column), column, spoiled)
    return pa.concat_tables([clean, bad])
