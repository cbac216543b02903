"""Kubeflow components of the tasks on the data: up to the online store, as every refresh of the catalogue has them, and
up to the training frames of past moments."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def prepare(
    run_id: str,
    card: str,
    as_of: str,
    sequences: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Ingest, resolve, validate, features and materialise in one pod, each with a record of its own; False where the
    data gate blocked: then the last two did not run."""
    import shutil
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.materialise.task import materialise
    from components.prepare.tasks import prepare
    from components.shared.summary import numbers, table
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    with TemporaryDirectory(prefix="prepare-") as folder:
        made = prepare(run_id=run_id, card=dataset, as_of=as_of, folder=Path(folder), sequences=sequences.path)
        shutil.copyfile(made.page, page.path)
        Path(summary.path).write_text(table(f"{dataset.name}: what now is", made.summary))
        told = dict(made.numbers)
        if made.accepted:
            known = {name: made.outputs[name] for name in ("events", "facts", "sequences")}
            report = materialise(run_id=run_id, card=dataset, **known, materialised=f"{folder}/materialised")
            told |= {f"materialise_{name}": value for name, value in numbers(report).items()}
        else:
            # Kubeflow's launcher wants every output to be there.
            Path(sequences.path).mkdir(parents=True, exist_ok=True)
    for name, value in told.items():
        metrics.log_metric(name, value)
    return made.accepted


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def frames(run_id: str, card: str, moments: str) -> None:
    """Ingest, resolve, validate and features for one moment after the other, in one pod.

    Args:
        run_id: What the name of each moment's run begins with; its tasks have their records there.
        card: The dataset card, as JSON.
        moments: What that name ends with, to the moment (ISO 8601, UTC; empty for the newest event), as JSON.

    Nothing is materialised: the online store holds what now is.
    """
    import json
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.prepare.tasks import prepare
    from feature_repo.card import DatasetCard
    from runtime import workspace

    dataset = DatasetCard.model_validate_json(card)
    for ending, as_of in json.loads(moments).items():
        with TemporaryDirectory(prefix="frame-") as folder:
            prepare(run_id=f"{workspace.run(run_id)}{ending}", card=dataset, as_of=as_of, folder=Path(folder))
