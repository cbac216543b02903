"""Validate: hold the data against its card, and against what was accepted before; the gate decides, and says why."""

import json
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.reference_files import EXPOSURES, PROFILE, Profile, read_profile, source_digest
from components.shared.tables import open_events, read_as_of
from components.validate import figures, skew
from components.validate.against import (
    Comparison,
    compare,
    jumps,
    since_of,
)
from components.validate.days import day_checks
from components.validate.expectations import ask
from components.validate.kinds import kind_checks
from components.validate.page import render
from components.validate.profile import profile
from components.validate.sanity import sanity_checks
from components.validate.suite import (
    Check,
    columns_check,
    data_checks,
    run_checks,
)
from components.validate.verdicts import Measurement, verdicts
from feature_repo.card import DatasetCard
from runtime.decision import Decision, Reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(kw_only=True)
class Findings:
    """Everything that was looked at."""

    checks: list[Check] = field(default_factory=list)
    measures: dict[str, Measurement] = field(default_factory=dict)
    profile: Profile = field(default_factory=dict)
    comparison: Comparison = field(default_factory=Comparison)

    def add(self, check: Check, measure: Measurement) -> None:
        self.checks.append(check)
        self.measures[check.name] = measure


def run(
    *,
    card: DatasetCard,
    events: Path,
    facts: Path,
    reference: Path | None,
    validation: Path,
    data_docs: bool = True,
) -> Decision:
    """Check `events` as of the facts' moment; write decision.json, page.html, profile.json and, if asked, data_docs/.

    `reference` is the artifact that resolve makes (docs/contracts.md); without one, or without a profile in it,
    only what needs no earlier run is looked at. Where columns are missing or of another type nothing else can be
    looked at, and those are the only reasons. Raises `InputError` for a reference profile that cannot be read;
    bad data never raises.
    """
    as_of = read_as_of(facts)
    validation.mkdir(parents=True, exist_ok=True)
    report = figures.read_report(events)
    known = _read_reference(reference)
    findings = Findings()
    findings.add(columns_check(), figures.columns_measure(card, events))
    if findings.measures["columns"].found:
        reasons = verdicts(findings.checks, findings.measures)
    else:
        before = read_profile(reference) if reference is not None and (reference / PROFILE).exists() else None
        with open_events(card, events, as_of) as db:
            figures.prepare(card, db, events)
            days = figures.events_by_day(card, db, as_of)
            _look(findings, card, db, as_of, report, days, before, reference)
            asked = data_checks(card)
            answers = ask(card, db, asked, as_of, validation / "data_docs" if data_docs else None)
            for check in asked:
                findings.add(check, answers[check.name])
            reasons = verdicts(findings.checks, findings.measures)
            findings.profile = profile(card, db, as_of, days, report)
        (validation / PROFILE).write_text(json.dumps(findings.profile, indent=1))
        reasons += _about_the_reference(known)
    decision = Decision(gate="validate", reasons=reasons)
    decision.write(validation)
    page = render(
        decision,
        report,
        findings.profile,
        findings.comparison.distributions,
        known,
        units={check.name: check.unit for check in findings.checks},
        card=card,
        as_of=as_of,
        data_docs=(validation / "data_docs" / "index.html").is_file(),
    )
    (validation / "page.html").write_text(page)
    return decision


def identity(card: DatasetCard, facts: Path) -> dict[str, str]:
    """Whose data was judged, and as of when: by this `components/resolve/reference.py` finds accepted runs."""
    return {"dataset": card.name, "source": source_digest(card), "as_of": read_as_of(facts).isoformat()}


def _look(
    findings: Findings,
    card: DatasetCard,
    db: "DuckDBPyConnection",
    as_of: datetime,
    report: dict[str, Any],
    days: dict[date, int],
    before: Profile | None,
    reference: Path | None,
) -> None:
    found = figures.run_measures(card, db, as_of, report, days)
    for check in run_checks(card):
        findings.add(check, found[check.name])
    for entry in sanity_checks(card, db):
        findings.add(*entry)
    since = since_of(before, as_of)
    for entry in [*day_checks(card, db, as_of, since), *jumps(card, db, since)]:
        findings.add(*entry)
    if before is not None:
        findings.comparison = compare(card, db, days, report, before)
        if card.events is not None and "event_types" in before:
            findings.comparison.found += kind_checks(card, db, as_of, before["event_types"], since)
        for check, measure in findings.comparison.found:
            findings.add(check.against_reference, measure)
    if reference is not None and (reference / EXPOSURES).exists():
        for entry in skew.skew_checks(card, db, reference / EXPOSURES):
            findings.add(*entry)


def _read_reference(reference: Path | None) -> dict[str, Any]:
    """reference.json, or what it would say."""
    if reference is not None and (reference / "reference.json").exists():
        return dict(json.loads((reference / "reference.json").read_text()))
    return {"accepted": None, "notes": [], "exposures": 0, "served": "No exposures were given.", "served_fault": False}


def _about_the_reference(known: dict[str, Any]) -> list[Reason]:
    """What could not be compared is said, and does not block."""
    return [
        Reason(
            check="last accepted run",
            held=True,
            found=known["accepted"] or "none",
            allowed="any",
            message=" ".join(known["notes"]) or "Held against the last accepted run",
            level="info",
        ),
        Reason(
            check="exposures",
            held=not known["served_fault"],
            found=known["exposures"],
            allowed="any",
            message=known["served"],
            remedy="make the event log that the message names readable: until then skew of serving is not judged",
            level="warn" if known["served_fault"] else "info",
        ),
    ]
