"""Kubeflow component that builds the serving archive."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def package(
    run_id: str,
    card: str,
    sequences: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    archive: dsl.Output[dsl.Model],
) -> bool:
    """Build the archive that TorchServe loads; False where this very model is already released."""
    from pathlib import Path

    from components import workspace
    from components.push.release import released
    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    inputs = {"sequences": sequences.path, "model": model.path}
    task = Task("package", run_id=run_id, module="components.package.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.package import step

        return step.run(card=dataset, **task.inputs, archive=out, name=dataset.name)

    report = task.reuse_or_make(
        archive.path, kind="archive", config=lambda: {"card": dataset.model_dump(mode="json")}, make=make
    )
    version = released(workspace.rollout_url(), dataset.name, report["archive_digest"])
    task.annotate(released_as=version)
    return version is None
