"""Kubeflow component of the resolve step."""

from kfp import dsl

from components.shared.image import TRAIN


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

    from components.resolve import task
    from components.shared.summary import table
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    told = task.resolve(
        run_id=run_id,
        card=dataset,
        as_of=as_of,
        new_reference=new_reference,
        events=events.path,
        facts=facts.path,
        champion=champion.path,
        reference=reference.path,
    )
    Path(summary.path).write_text(table(f"{dataset.name}: what now is", told))
