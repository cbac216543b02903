"""Validate: hold the data against its card; the gate decides, and says why with numbers and rows."""

import json
from pathlib import Path
from typing import Any

from components.decision import Decision, Reason
from components.features.tables import open_events, read_as_of
from components.validate.expectations import verdicts
from components.validate.frames import columns_frame, read_frames, read_report
from components.validate.page import render
from components.validate.profile import NAME, drift, profile, read_profile
from components.validate.suite import checks, column_checks
from feature_repo.card import DatasetCard


def run(*, card: DatasetCard, events: Path, facts: Path, reference: Path | None, validation: Path) -> Decision:
    """Check `events` as of the facts' moment; write decision.json, page.html, profile.json and data_docs/.

    `reference` is the profile.json of the last accepted run, or its validation artifact: drift against it warns.
    Where columns are missing or of another type nothing else can be looked at, and those are the only reasons.
    A fault of Great Expectations raises; bad data never does.
    """
    as_of = read_as_of(facts)
    validation.mkdir(parents=True, exist_ok=True)
    report = read_report(events)
    columns = columns_frame(card, events)
    reasons = verdicts(column_checks(), columns, name=card.name, as_of=as_of)
    found: dict[str, Any] = {}
    if all(reason.held for reason in reasons):
        before = read_profile(reference) if reference is not None else None
        with open_events(card, events, as_of) as db:
            frames = read_frames(card, db, as_of, report)
            docs = validation / "data_docs"
            reasons += verdicts(checks(card), frames, name=card.name, as_of=as_of, data_docs=docs)
            found = profile(card, db, frames.days, before)
        if before is not None:
            reasons += drift(card, found, before)
        (validation / NAME).write_text(json.dumps(found, indent=1))
    return _decide(card, reasons, report, found, as_of.isoformat(), validation)


def _decide(
    card: DatasetCard,
    reasons: list[Reason],
    report: dict[str, Any],
    found: dict[str, Any],
    as_of: str,
    validation: Path,
) -> Decision:
    decision = Decision(gate="validate", reasons=reasons)
    decision.write(validation)
    page = render(decision, report, found, dataset=card.name, as_of=as_of)
    (validation / "page.html").write_text(page)
    return decision
