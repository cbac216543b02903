"""Skew: whether shoppers were served the feature values that training sees for the same item and moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.columns import missing
from components.validate.figures import rows_later
from components.validate.suite import Check, within
from components.validate.verdicts import Measurement
from feature_repo.card import DatasetCard
from feature_repo.card_features import Feature
from feature_repo.kinds import Storage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def skew_checks(card: DatasetCard, db: "DuckDBPyConnection", exposures: Path) -> Iterator[tuple[Check, Measurement]]:
    """For each feature of which `exposures` (docs/contracts.md) tells the value used: how often it was another one."""
    db.read_parquet(str(exposures)).create_view("exposures")
    columns = {name for name, *_ in db.execute("DESCRIBE exposures").fetchall()}
    for feature in card.features:
        if feature.name not in columns:
            continue
        name, table = feature.name, feature.stored_in
        both = (
            f'SELECT served.item_id, served.event_time, served."{name}" AS served, trained."{name}" AS trained '
            f"FROM exposures served ASOF LEFT JOIN {table} trained "
            "ON served.item_id = trained.item_id AND served.event_time >= trained.event_time"
        )
        other = f"SELECT * FROM ({both}) WHERE NOT coalesce({_same(feature)}, false)"
        ((rows, different),) = db.execute(
            f"SELECT (SELECT count(*) FROM exposures), (SELECT count(*) FROM ({other}))"
        ).fetchall()
        message = f"Shoppers were served the {name} that is trained on"
        check = within(f"{name} skew", message, card.tolerances.skew, field="tolerances.skew")
        yield check, Measurement(found=different / rows if rows else 0.0, rows=rows, evidence=rows_later(db, other))


_DIFFERENCES = "list_zip(served, trained), pair -> (pair[1] - pair[2])::DOUBLE * (pair[1] - pair[2])"
_EQUAL = {
    Storage.TEXT: "served = trained",
    Storage.TEXTS: "list_sort(served) = list_sort(trained)",
    Storage.NUMBER: "abs(served - trained) <= 1e-5 * greatest(abs(served), abs(trained))",
    Storage.VECTOR: f"len(served) = len(trained) AND list_sum(list_transform({_DIFFERENCES})) "
    "<= 1e-8 * list_sum(list_transform(trained, x -> x::DOUBLE * x))",
}


def _same(feature: Feature) -> str:
    """SQL condition over `served` and `trained`; numbers may differ by the rounding of single precision."""
    nothing = [missing(feature).replace(f'"{feature.name}"', side) for side in ("served", "trained")]
    return f"(({nothing[0]} AND {nothing[1]}) OR ({_EQUAL[feature.storage]}))"
