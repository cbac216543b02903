"""Kubeflow component of the model gate."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    run_id: str,
    card: str,
    sequences: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    baseline: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> bool:
    """Compare the model with all that it is held against; False where it must not be pushed."""
    import shutil
    from pathlib import Path

    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    inputs = {
        "sequences": sequences.path,
        "model": model.path,
        "baseline": baseline.path,
        "champion": champion.path,
    }
    task = Task("evaluate", run_id=run_id, module="components.evaluate.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.evaluate import step

        return step.run(card=dataset, **task.inputs, evaluation=out)

    asked = {"dataset": dataset.name, "release": dataset.release.model_dump()}
    report = task.reuse_or_make(evaluation.path, kind="evaluation", config=lambda: asked, make=make)
    for name, value in report["metrics"].items():
        metrics.log_metric(name, value)
    shutil.copyfile(task.artifact / "page.html", page.path)
    return report["passed"]
