"""Kubeflow components of a refresh: the archive of what serves over today's catalogue, and its release."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def refresh(
    run_id: str,
    card: str,
    arm: str,
    sequences: dsl.Input[dsl.Dataset],
    archive: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Package the weights that serve as `arm` anew; False where nothing changed, or nothing serves there."""
    from pathlib import Path

    from components.refresh import step
    from experiments.table import RolloutTable
    from feature_repo.card import DatasetCard
    from runtime import workspace
    from runtime.task import Task

    dataset = DatasetCard.model_validate_json(card)
    with RolloutTable(workspace.rollout_url()) as table:
        serving = getattr(table.read(dataset.name), arm)
    if serving is None:
        Path(archive.path).mkdir(parents=True, exist_ok=True)
        return False
    task = Task(f"refresh-{arm}", run_id=run_id, module="components.refresh.step", inputs={"sequences": sequences.path})

    def make(out: Path, scratch: Path) -> dict:
        return step.run(card=dataset, sequences=task.inputs["sequences"], serving=serving, archive=out)

    report = task.make_always(archive.path, kind="archive", make=make)
    metrics.log_metric("items", report["items"])
    metrics.log_metric("new_items", report["new_items"])
    return report["changed"]


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def release(
    run_id: str,
    arm: str,
    archive: dsl.Input[dsl.Model],
    infra_validation: dsl.Input[dsl.Artifact],
    release: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
):
    """Let the refreshed archive take the place of the version that it refreshes."""
    from pathlib import Path

    from components.refresh import release as step
    from components.shared.summary import table
    from runtime import workspace
    from runtime.task import Task, lineage

    inputs = {"archive": archive.path, "infra_validation": infra_validation.path}
    task = Task(f"release-{arm}", run_id=run_id, module="components.refresh.release", inputs=inputs)
    report = task.make_always(
        release.path,
        kind="release",
        make=lambda out, scratch: step.run(
            **task.inputs,
            lineage=lineage(run_id),
            mlflow_url=workspace.mlflow_url(),
            rollout_url=workspace.rollout_url(),
            store=workspace.releases(),
            release=out,
        ),
    )
    Path(summary.path).write_text(table(f"{report['model']} {report['version']}: {report['status']}", report))
