"""Distributions of the accepted data, and how far they have moved since a reference (population stability index)."""

import json
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.decision import Reason
from components.errors import InputError
from feature_repo.card import DatasetCard, Feature

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Distribution = dict[str, Any]
Profile = dict[str, Any]

NAME = "profile.json"
SCHEMA = 1
BINS = 10
VALUES = 20
# Share given to an empty bin, so that one new value does not make the index infinite.
FLOOR = 1e-4

_NUMBER = {
    "numeric": '"{name}"',
    "text": 'length("{name}")',
    "embedding": 'sqrt(list_sum(list_transform("{name}", x -> x * x)))',
}
MEASURE = {"numeric": "value", "text": "characters", "embedding": "length of the vector"}
"""What a numeric distribution is a distribution of, by kind."""


def profile(card: DatasetCard, db: "DuckDBPyConnection", days: dict[date, int], reference: Profile | None) -> Profile:
    """The distribution of every feature, in the reference's bins where it has the feature, and events by day."""
    known = reference["features"] if reference else {}
    features = {
        feature.name: _distribution(db, feature, _same_kind(known.get(feature.name), feature))
        for feature in card.features
    }
    return {
        "schema": SCHEMA,
        "dataset": card.name,
        "features": features,
        "days": {day.isoformat(): events for day, events in days.items()},
    }


def drift(card: DatasetCard, now: Profile, reference: Profile) -> list[Reason]:
    """A warning for every feature that moved further than the card's `max_drift`."""
    reasons = []
    for feature in card.features:
        before = _same_kind(reference["features"].get(feature.name), feature)
        if before is None:
            continue
        found = round(stability_index(before, now["features"][feature.name]), 4)
        reasons.append(
            Reason(
                check=f"{feature.name} drift",
                held=found <= feature.max_drift,
                found=found,
                allowed=feature.max_drift,
                message=f"{feature.name} is distributed as in the last accepted run (population stability index)",
                level="warn",
            )
        )
    return reasons


def stability_index(before: Distribution, now: Distribution) -> float:
    """Population stability index, sum of (p - q) ln(p / q) over bins, with missing values as one more bin."""
    p, q = ([*each["counts"], each["missing"]] for each in (before, now))
    assert len(p) == len(q), "both are counted in the same bins"
    total_p, total_q = sum(p), sum(q)
    if not total_p or not total_q:
        return 0.0 if total_p == total_q else math.inf
    shares = [(max(a / total_p, FLOOR), max(b / total_q, FLOOR)) for a, b in zip(p, q, strict=True)]
    return math.fsum((a - b) * math.log(a / b) for a, b in shares)


def read_profile(path: Path) -> Profile:
    """A profile.json, or the one of a validation artifact."""
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such reference profile; pass the validation artifact of an accepted run.")
    found = json.loads(path.read_text())
    if found.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema {found.get('schema')}, expected {SCHEMA}. Run without a reference once.")
    return dict(found)


def _same_kind(distribution: Distribution | None, feature: Feature) -> Distribution | None:
    return distribution if distribution is not None and distribution["kind"] == feature.kind else None


def _distribution(db: "DuckDBPyConnection", feature: Feature, reference: Distribution | None) -> Distribution:
    table = feature.stored_in if feature.varies_in_time else "latest_items"
    if feature.kind in _NUMBER:
        edges = reference["edges"] if reference else None
        return {"kind": feature.kind, **_numbers(db, table, _NUMBER[feature.kind].format(name=feature.name), edges)}
    values = reference["values"] if reference else None
    return {"kind": feature.kind, **_values(db, table, feature, values)}


def _numbers(db: "DuckDBPyConnection", table: str, expression: str, edges: Sequence[float] | None) -> Distribution:
    """Counts between `edges` (deciles where none are given); the outer bins are open."""
    sound = f"SELECT CASE WHEN isfinite(({expression})::DOUBLE) THEN ({expression})::DOUBLE END AS x FROM {table}"
    if edges is None:
        steps = [n / BINS for n in range(1, BINS)]
        (quantiles,) = db.execute(f"SELECT quantile_disc(x, {steps}) FROM ({sound})").fetchall()[0]
        edges = sorted(set(quantiles or []))
    bins = " + ".join(f"(x > {edge!r})::INT" for edge in edges) or "0"
    counted = dict(
        db.execute(f"SELECT {bins} AS bin, count(*) FROM ({sound}) WHERE x IS NOT NULL GROUP BY bin").fetchall()
    )
    low, high, missing = db.execute(f"SELECT min(x), max(x), count(*) - count(x) FROM ({sound})").fetchall()[0]
    counts = [counted.get(bin_, 0) for bin_ in range(len(edges) + 1)]
    return {"edges": list(edges), "counts": counts, "missing": missing, "min": low, "max": high}


def _values(db: "DuckDBPyConnection", table: str, feature: Feature, values: Sequence[str] | None) -> Distribution:
    """Counts of the most frequent values (or of `values`) and of all others together."""
    name = f'"{feature.name}"'
    if feature.kind == "multi_categorical":
        each = f"SELECT unnest(CASE WHEN len({name}) > 0 THEN {name} ELSE [NULL] END) AS x FROM {table}"
    else:
        each = f"SELECT nullif({name}, '') AS x FROM {table}"
    counted = db.execute(f"SELECT x, count(*) AS n FROM ({each}) GROUP BY x ORDER BY n DESC, x").fetchall()
    found = {value: n for value, n in counted if value is not None}
    chosen = list(found)[:VALUES] if values is None else list(values)
    counts = [found.get(value, 0) for value in chosen]
    missing = sum(n for value, n in counted if value is None)
    return {
        "values": chosen,
        "counts": [*counts, sum(found.values()) - sum(counts)],
        "missing": missing,
        "distinct": len(found),
    }
