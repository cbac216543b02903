"""Kubeflow component that builds the serving archive."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def package(
    run_id: str,
    card: str,
    sequences: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    archive: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> bool:
    """Build the archive that TorchServe loads; False where this very model is already released."""
    from pathlib import Path

    from components.shared.release_store import released_version
    from components.shared.summary import numbers, table
    from feature_repo.card import DatasetCard
    from runtime import workspace
    from runtime.task import Task

    dataset = DatasetCard.model_validate_json(card)
    inputs = {"sequences": sequences.path, "model": model.path}
    task = Task("package", run_id=run_id, module="components.package.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.package import step

        return step.run(card=dataset, **task.inputs, archive=out, name=dataset.name)

    report = task.reuse_or_make(
        archive.path, kind="archive", config=lambda: {"card": dataset.model_dump(mode="json")}, make=make
    )
    version = released_version(workspace.rollout_url(), dataset.name, report["archive_digest"])
    task.annotate(released_as=version)
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
    heading = f"{report['model']} {report['version']}: {'already released' if version else 'new'}"
    Path(summary.path).write_text(table(heading, report))
    return version is None
