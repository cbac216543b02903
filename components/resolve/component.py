"""Kubeflow component of the resolve step."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def resolve(
    run_id: str,
    card: str,
    as_of: str,
    new_reference: bool,
    events: dsl.Input[dsl.Dataset],
    facts: dsl.Output[dsl.Artifact],
    champion: dsl.Output[dsl.Artifact],
    reference: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
):
    """Turn "now" into facts that every later step receives; never reused."""
    from pathlib import Path

    from components import store, workspace
    from components.resolve import champion as champion_step
    from components.resolve import reference as reference_step
    from components.resolve import step
    from components.summary import table
    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    inputs = {"events": events.path}
    task = Task("resolve", run_id=run_id, module="components.resolve.step", inputs=inputs)
    found = task.make_always(
        facts.path,
        kind="facts",
        make=lambda out, scratch: step.run(card=dataset, events=task.inputs["events"], as_of=as_of or None, facts=out),
    )
    if shared := store.shared():
        # Of runs on other machines, too.
        for record in ("validate", "evaluate"):
            shared.bring_files(workspace.runs(), f"*/{record}.json")
    task = Task("champion", run_id=run_id, module="components.resolve.champion")
    serving = task.make_always(
        champion.path,
        kind="champion",
        make=lambda out, scratch: champion_step.run(
            name=dataset.name,
            rollout_url=workspace.rollout_url(),
            champion=out,
            as_of=found["as_of"],
            runs=workspace.runs(),
        ),
    )
    task = Task("reference", run_id=run_id, module="components.resolve.reference", inputs={"facts": facts.path})
    accepted = task.make_always(
        reference.path,
        kind="reference",
        make=lambda out, scratch: reference_step.run(
            card=dataset,
            facts=task.inputs["facts"],
            runs=workspace.runs(),
            exposures=workspace.exposures(dataset.name),
            asked=as_of or None,
            anew=new_reference,
            reference=out,
        ),
    )
    told = {
        "as of": found["as_of"],
        "champion": serving["version"] or "none yet",
        "reference": serving.get("reference") or "none yet",
        "last accepted run as of": accepted["accepted"] or "none",
        "notes": " ".join(accepted["notes"]),
    }
    Path(summary.path).write_text(table(f"{dataset.name}: what now is", told))
