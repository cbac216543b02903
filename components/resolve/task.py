"""What now is, as three tasks of a run: the facts, what serves, and what the data is held against."""

from components.resolve import champion as champion_step
from components.resolve import reference as reference_step
from components.resolve import step
from feature_repo.card import DatasetCard
from runtime import object_store, workspace
from runtime.task import Report, Task


def resolve(
    *,
    run_id: str,
    card: DatasetCard,
    as_of: str,
    new_reference: bool,
    events: str,
    facts: str,
    champion: str,
    reference: str,
) -> Report:
    """Fill the outputs `facts`, `champion` and `reference`, never reused; the lines of a summary."""
    task = Task("resolve", run_id=run_id, module="components.resolve.step", inputs={"events": events})
    found = task.make_always(
        facts,
        kind="facts",
        make=lambda out, scratch: step.run(card=card, events=task.inputs["events"], as_of=as_of or None, facts=out),
    )
    if shared := object_store.shared():
        # Of runs on other machines, too.
        for record in ("validate", "evaluate"):
            shared.bring_files(workspace.runs(), f"*/{record}.json")
    serving = Task("champion", run_id=run_id, module="components.resolve.champion").make_always(
        champion,
        kind="champion",
        make=lambda out, scratch: champion_step.run(
            name=card.name,
            rollout_url=workspace.rollout_url(),
            champion=out,
            as_of=found["as_of"],
            runs=workspace.runs(),
        ),
    )
    held = Task("reference", run_id=run_id, module="components.resolve.reference", inputs={"facts": facts})
    accepted = held.make_always(
        reference,
        kind="reference",
        make=lambda out, scratch: reference_step.run(
            card=card,
            facts=held.inputs["facts"],
            runs=workspace.runs(),
            exposures=workspace.exposures(card.name),
            asked=as_of or None,
            anew=new_reference,
            reference=out,
        ),
    )
    return {
        "as of": found["as_of"],
        "champion": serving["version"] or "none yet",
        "reference": serving.get("reference") or "none yet",
        "last accepted run as of": accepted["accepted"] or "none",
        "notes": " ".join(accepted["notes"]),
    }
