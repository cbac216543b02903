"""What is new against the last accepted run: what it lost, what changed in what it had, how what came since differs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from components.shared.columns import rows_of, source_of
from components.shared.reference_files import Profile
from components.validate.drift import chance, moved, stability_index
from components.validate.figures import local_day, rows_later
from components.validate.profile import (
    Distribution,
    distribution,
    has_words,
    sample,
    sample_of_events,
    words,
)
from components.validate.suite import (
    Check,
    at_most,
    factor,
    within,
)
from components.validate.verdicts import EVIDENCE, Measurement
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described
from feature_repo.kinds import Storage
from runtime.sql import literals

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Found = tuple[Check, Measurement]
ENOUGH = 50
"""New rows below which their distribution says nothing."""


@dataclass(kw_only=True)
class Comparison:
    """Checks with their measures, and by feature the accepted distribution beside the one of now, in its bins."""

    found: list[Found] = field(default_factory=list)
    distributions: dict[str, tuple[Distribution, Distribution]] = field(default_factory=dict)


def compare(
    card: DatasetCard,
    db: "DuckDBPyConnection",
    days: Mapping[date, int],
    report: Mapping[str, Any],
    reference: Profile,
) -> Comparison:
    """Everything that `reference` has a counterpart of; a feature that is new or of another kind is passed over.

    `days` are events by day, `report` is ingest's.
    """
    since = datetime.fromisoformat(reference["as_of"])
    result = Comparison(found=list(_accepted_days(card, db, days, reference, since)))
    result.found += _new_source_rows(card, report, reference)
    for feature in card.described:
        before = reference["features"].get(feature.name)
        if before is None or before["kind"] != feature.kind:
            continue
        now = distribution(db, feature, source_of(feature), before)
        result.distributions[feature.name] = before, now
        what = "is distributed as in the last accepted run (population stability index)"
        result.found.append(_drift(f"{feature.name} drift", f"{feature.name} {what}", feature, before, now))
        result.found += _about_new_rows(db, feature, before, since)
        result.found += _about_values(card, db, feature, reference)
    return result


def jumps(card: DatasetCard, db: "DuckDBPyConnection", since: datetime) -> Iterator[Found]:
    """For each varying number: the middle ratio of a first value after `since` to the same item's last value before.

    Needs no reference: an item's own past is in the data.
    """
    moment = f"TIMESTAMPTZ '{since.isoformat()}'"
    for feature in card.varying:
        if feature.storage is not Storage.NUMBER:
            continue
        value = f'"{feature.name}"'
        new = f"SELECT item_id, arg_min({value}, event_time) AS now FROM varying WHERE event_time > {moment}"
        old = f"SELECT item_id, arg_max({value}, event_time) AS before FROM varying WHERE event_time <= {moment}"
        both = f"SELECT item_id, before, now FROM ({new} GROUP BY 1) JOIN ({old} GROUP BY 1) USING (item_id)"
        both += " WHERE before > 0 AND now > 0"
        rows, middle = db.execute(f"SELECT count(*), median(ln(now / before)) FROM ({both})").fetchall()[0]
        if rows < EVIDENCE:
            continue
        limit = card.tolerances.jump
        message = f"New values of {feature.name} are of the size of the same items' values before (middle ratio)"
        query = f"{both} ORDER BY abs(ln(now / before)) DESC"
        check = factor(f"{feature.name} jump", message, limit.warn, limit.block, field="tolerances.jump")
        yield check, Measurement(found=math.exp(middle), evidence=rows_later(db, query))


def _accepted_days(
    card: DatasetCard, db: "DuckDBPyConnection", days: Mapping[date, int], reference: Profile, since: datetime
) -> Iterator[Found]:
    """Events that days of the last accepted run no longer have, or have got since."""
    before = {date.fromisoformat(day): events for day, events in reference["days"].items()}
    start = _window_start(before, days)
    before = {day: events for day, events in before.items() if day >= start}
    total = sum(before.values())
    if not total:
        return
    now = {day: days.get(day, 0) for day in before}
    # The day of the last run's as_of was not over.
    over = [day for day in before if day < local_day(since, card, db)]
    lost = sum(max(0, before[day] - now[day]) for day in before)
    late = sum(max(0, now[day] - before[day]) for day in over)
    limits = card.tolerances
    message = "The events of the last accepted run are still there"
    check = within("lost events", message, limits.lost, field="tolerances.lost")
    yield check, Measurement(found=lost / total, evidence=_by_day(before, now, -1))
    known = [event for event, day in reference["events"].items() if date.fromisoformat(day) >= start]
    here = sample_of_events(card, db, known)
    gone = [{"event_id": event, "day": reference["events"][event]} for event in known if event not in here]
    message = "They are the same events: shopper, item and time (of a sample)"
    # One event of a small sample is no measure of a share.
    check = within("accepted events", message, limits.lost, field="tolerances.lost", slack=3 / max(1, len(known)))
    yield check, Measurement(found=len(gone) / max(1, len(known)), evidence=lambda: gone)
    message = "Few events came late, into days that were accepted"
    check = within("late events", message, limits.late, field="tolerances.late")
    yield check, Measurement(found=late / total, evidence=_by_day(before, now, 1))


def _window_start(before: Mapping[date, int], days: Mapping[date, int]) -> date:
    """From when on accepted events must still be there.

    Some sources keep the last so many days only: as many days may go at the start as have come at the end.
    """
    if not before or not days:
        return date.min
    gone, come = min(days) - min(before), max(days) - max(before)
    return min(days) if timedelta(0) < gone <= come else date.min


def _new_source_rows(card: DatasetCard, report: Mapping[str, Any], reference: Profile) -> Iterator[Found]:
    """Among all rows of the source those of one bad day would hardly show."""
    rows, rejected = (report[name] - reference["source"][name] for name in ("rows", "rejected"))
    if rows < ENOUGH or not 0 <= rejected <= rows:
        return
    usual = card.limits.max_rejected_rate
    slack = usual + 4 * math.sqrt(max(usual * (1 - usual), 0.01) / rows)
    reasons = {reason: n - reference["source"]["reasons"].get(reason, 0) for reason, n in report["reasons"].items()}
    evidence = [{"reason": reason, "rows": n} for reason, n in reasons.items() if n > 0]
    message = "Few rows were set aside of those that came since the last accepted run"
    limit = card.tolerances.rejected
    check = within("rejected of new rows", message, limit, field="tolerances.rejected", slack=slack)
    yield check, Measurement(found=rejected / rows, rows=rows, evidence=lambda: evidence)


def _by_day(before: dict[date, int], now: dict[date, int], sign: int) -> Any:
    rows = sorted(((now[day] - n) * sign, day) for day, n in before.items())
    return lambda: [
        {"day": f"{day:%a %Y-%m-%d}", "accepted": before[day], "now": now[day]}
        for difference, day in reversed(rows)
        if difference > 0
    ]


def _drift(name: str, message: str, feature: Described, before: Distribution, now: Distribution) -> Found:
    slack = chance(before, now)
    warn, block = feature.max_drift + slack, feature.block_drift + slack
    check = at_most(
        name,
        message,
        warn=warn,
        block=block,
        unit="index",
        field=f"max_drift and block_drift of feature {feature.name}",
    )
    return check, Measurement(found=stability_index(before, now), evidence=lambda: moved(before, now))


def _about_new_rows(
    db: "DuckDBPyConnection", feature: Described, before: Distribution, since: datetime
) -> Iterator[Found]:
    """The rows since the last accepted run: among all rows those of one day would hardly show."""
    table = source_of(feature)
    rows = f"(SELECT * FROM {table} WHERE event_time > TIMESTAMPTZ '{since.isoformat()}')"
    now = distribution(db, feature, rows, before)
    if sum(now["counts"]) + now["missing"] < ENOUGH:
        return
    what = rows_of(feature)
    message = f"{feature.name} of new {what} is distributed as that of all in the last accepted run"
    yield _drift(f"{feature.name} drift of new {what}", message, feature, before, now)


def _about_values(
    card: DatasetCard, db: "DuckDBPyConnection", feature: Described, reference: Profile
) -> Iterator[Found]:
    name, limits = feature.name, card.tolerances
    if known := reference["samples"].get(name):
        now = sample(db, feature, list(known))
        shared = [item for item in known if item in now]
        other = [item for item in shared if known[item] != now[item]]
        if len(shared) >= ENOUGH:
            items = literals(other[:EVIDENCE]) or "NULL"
            query = f'SELECT item_id, "{name}" AS now FROM latest_items WHERE item_id IN ({items})'
            message = f"Items keep their {name} (others, of a sample)"
            measure = Measurement(found=len(other) / len(shared), evidence=rows_later(db, query))
            yield within(f"{name} changed", message, limits.changed, field="tolerances.changed"), measure
    if has_words(feature) and (vocabulary := reference["vocabularies"].get(name)) and vocabulary["known"]:
        yield _growth(card, db, feature, vocabulary)


def _growth(card: DatasetCard, db: "DuckDBPyConnection", feature: Described, vocabulary: dict[str, Any]) -> Found:
    """Of a large vocabulary the digests up to the last one remembered stand for all."""
    known = vocabulary["known"]
    last = known[-1] if len(known) < vocabulary["size"] else "g"
    query = (
        f"SELECT x AS value, rows FROM ({words(feature)}) WHERE md5(x)[:8] <= '{last}' "
        "AND md5(x)[:8] NOT IN (SELECT unnest(?::VARCHAR[])) ORDER BY rows DESC, value"
    )
    rows = db.execute(query, [known]).to_arrow_table()
    message = f"{feature.name} says few things never heard before (new values against those known)"
    # A handful of new values is no explosion, however small the vocabulary.
    limit, slack = card.tolerances.vocabulary, 5 / len(known)
    check = within(f"{feature.name} vocabulary", message, limit, field="tolerances.vocabulary", slack=slack)
    return check, Measurement(found=len(rows) / len(known), evidence=lambda: list(rows.slice(0, EVIDENCE).to_pylist()))


def since_of(reference: Profile | None, as_of: datetime) -> datetime:
    """From when on data is new: the last accepted run's moment, or a day ago."""
    return datetime.fromisoformat(reference["as_of"]) if reference else as_of - timedelta(days=1)
