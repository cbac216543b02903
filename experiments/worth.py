"""What models are worth: shoppers whom they serve beside those who are held out, from the event log.

A shopper is one observation, a sum over all that was shown while the holdout stood: who comes more often because of
what was shown counts for more, and who comes often by nature is one shopper all the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from events.schema import TABLES
from experiments.off_policy import (
    Floats,
    Interval,
    Scored,
    interval,
)
from runtime.clocks import TOLERANCE
from runtime.sql import session

ATTRIBUTION = timedelta(days=7)
"""So long after its exposure an outcome counts, as for the consumer."""


class HoldoutShoppers(NamedTuple):
    """Of each shopper (N): whether held out, how many answers were shown, and the sum of each outcome."""

    held_N: npt.NDArray[np.bool_]
    shown_N: Floats
    outcomes: Mapping[str, Floats]


def shoppers(
    log: Path, *, since: datetime, until: datetime, events: Sequence[str], value: Mapping[str, float] | None = None
) -> HoldoutShoppers:
    """Of the day partitions of the log between these moments. Of an outcome its request, item, type and key count once.
    With `value`, by item, what outcomes of the last of the `events` bring is one more: "value".

    Who met both (share or salt has changed since) is left out. Raises `duckdb.Error` where a file cannot be read.
    """
    worth = value or {}
    items = {"item": pa.array([*worth], pa.string()), "worth": pa.array([*worth.values()], pa.float64())}
    with session() as sql:
        for name in ("exposures", "outcomes"):
            sql.register(name, _days(log / name, TABLES[name]))
        sql.register("catalogue", pa.table(items))
        sql.execute(_SHOWN, {"since": since, "until": until})
        sql.execute(_MET)
        sql.execute(_TOOK, {"tolerance": TOLERANCE, "attribution": ATTRIBUTION, "until": until})
        met = sql.execute("SELECT held, shown FROM met ORDER BY shopper").fetchnumpy()
        outcomes = {name: np.zeros(len(met["held"])) for name in events}
        for name in events:
            found = sql.execute(_SUMS, {"event_type": name}).fetchnumpy()
            outcomes[name][found["shopper"]] = found["times"]
            if value is not None and name == events[-1]:
                outcomes["value"] = np.zeros(len(met["held"]))
                outcomes["value"][found["shopper"]] = found["worth"]
    return HoldoutShoppers(met["held"].astype(bool), met["shown"].astype(float), outcomes)


def difference(held_N: npt.NDArray[np.bool_], outcome_N: Floats) -> Interval:
    """By how much more there is of a shopper whom models serve than of one who is held out, at 95 %.

    Raises `ValueError` where one of the two has nobody.
    """
    if held_N.all() or not held_N.any():
        raise ValueError("nobody is held out" if not held_N.any() else "everybody is held out")
    influence_N, value = np.zeros(len(held_N)), 0.0
    for mine_N, sign in ((~held_N, 1.0), (held_N, -1.0)):
        mean = float(outcome_N[mine_N].mean())
        value += sign * mean
        influence_N[mine_N] = sign * len(held_N) / mine_N.sum() * (outcome_N[mine_N] - mean)
    return interval(Scored(value, influence_N), np.arange(len(held_N)))


def _days(folder: Path, schema: pa.Schema) -> ds.Dataset | pa.Table:
    """Files of before a column was kept have it as null."""
    files = [str(path) for path in sorted(folder.glob("day=*/*.parquet"))]
    return ds.dataset(files, schema, format="parquet") if files else schema.empty_table()


_SHOWN = """
CREATE TEMP TABLE shown AS
    SELECT request_id, user_id, holdout, time FROM exposures
    WHERE holdout IS NOT NULL AND time >= $since AND time <= $until
    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY time) = 1
"""

_MET = """
CREATE TEMP TABLE met AS
    SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS shopper, bool_or(holdout) AS held, count(*) AS shown
    FROM shown GROUP BY user_id HAVING bool_or(holdout) = bool_and(holdout)
"""

_TOOK = """
CREATE TEMP TABLE took AS
    SELECT DISTINCT shopper, request_id, event_type, item_id, key
    FROM outcomes JOIN shown USING (request_id) JOIN met USING (user_id)
    WHERE outcomes.time <= $until
        AND outcomes.time BETWEEN shown.time - $tolerance AND shown.time + $attribution
"""

_SUMS = """
SELECT shopper, count(*) AS times, coalesce(sum(worth), 0) AS worth
FROM took LEFT JOIN catalogue ON item_id = item WHERE event_type = $event_type GROUP BY shopper
"""
