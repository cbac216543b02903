"""`python -m pipelines check CARD`: ingest and the data gate alone, from scratch; nothing else is touched."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.features.splits import ordered_events
from components.ingest import step as ingest
from components.resolve import step as resolve
from components.shared.tables import open_events, read_as_of
from components.train.plan import Learned, TrainingPlan, plan
from components.validate import step as validate
from components.validate.expectations import require_expectations
from feature_repo.card import DatasetCard
from heterrec.recipes import by_name
from runtime import workspace
from runtime.decision import Decision
from runtime.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What ingest reported, what the gate decided, where its page is, and who would judge a model."""

    report: dict[str, Any]
    decision: Decision
    page: Path
    judges: int
    """Shoppers with an event among those held out for the test, and one before them."""
    plans: list[TrainingPlan]
    """What the default run would train, the model and its baseline."""

    def as_json(self) -> dict[str, Any]:
        """What a script would read: what came in, which checks did not hold, and the page."""
        failed = [asdict(reason) for reason in self.decision.reasons if not reason.held]
        return {
            "passed": self.decision.passed,
            "report": self.report,
            "judges": self.judges,
            "plans": {plan.model: plan.sentence for plan in self.plans},
            "not_held": failed,
            "page": str(self.page),
        }


def check(card: DatasetCard) -> CheckReport:
    """Read the card's source and hold it against the card, not against earlier runs.

    Writes `check/<name>/` in the workspace: `events/` (with rejected.parquet) and `validation/` (with page.html).
    Raises `InputError` where the source is missing, contradicts the card or has no usable row, or Great Expectations
    refuses what the card expects.
    """
    require_expectations(card)
    folder = workspace.home() / "check" / card.name
    shutil.rmtree(folder, ignore_errors=True)
    (events := folder / "events").mkdir(parents=True)
    report = ingest.run(card=card, events=events)
    Manifest.seal(events, kind="events")
    resolve.run(card=card, events=events, as_of=None, facts=folder / "facts")
    validation = folder / "validation"
    decision = validate.run(
        card=card, events=events, facts=folder / "facts", reference=None, validation=validation, data_docs=False
    )
    judges, learned = _ahead(card, events, folder / "facts")
    plans = [plan(by_name(recipe), learned) for recipe in ("heterrec", "sasrec")]
    return CheckReport(report=report, decision=decision, page=validation / "page.html", judges=judges, plans=plans)


def _ahead(card: DatasetCard, events: Path, facts: Path) -> tuple[int, Learned]:
    """Who would judge, and what would be learned from."""
    as_of = read_as_of(facts)
    with open_events(card, events, as_of) as db:
        db.execute(
            f"CREATE TEMP TABLE ordered AS SELECT user_id, item_id, split, basket FROM ({ordered_events(card, as_of)})"
        )
        ((judges,),) = db.execute(
            "SELECT count(*) FROM (SELECT user_id FROM ordered GROUP BY user_id HAVING bool_or(split = 'test') "
            "AND min(basket) FILTER (split = 'test') > 0)"
        ).fetchall()
        ((trained, sold),) = db.execute(
            "SELECT count(*), count(DISTINCT item_id) FROM ordered WHERE split = 'train'"
        ).fetchall()
        ((catalogue,),) = db.execute("SELECT count(DISTINCT item_id) FROM items").fetchall()
    tokens = sum(feature.token for feature in card.features)
    return int(judges), Learned(events=trained, sold=sold, catalogue=max(catalogue, sold), features=tokens)
