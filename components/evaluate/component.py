"""Kubeflow component of the model gate."""

from kfp import dsl

from components.shared.image import TRAIN


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
    released: dsl.Output[dsl.Model],
) -> bool:
    """Compare the model with all that it is held against; `released` is what is to be pushed, the model or the
    neighbour tables in its place, and the answer is False where neither is."""
    import shutil
    from pathlib import Path

    from feature_repo.card import DatasetCard
    from runtime.task import Task

    dataset = DatasetCard.model_validate_json(card)
    inputs = {
        "sequences": sequences.path,
        "model": model.path,
        "baseline": baseline.path,
        "champion": champion.path,
    }
    trained = {"sequences": sequences.path, "model": model.path}
    alone = Task("tables", run_id=run_id, module="components.evaluate.tables", inputs=trained)

    def fit(out: Path, scratch: Path) -> dict:
        from components.evaluate import tables

        return tables.run(**alone.inputs, tables=out)

    alone.reuse_or_make(released.path, kind="model", config=dict, make=fit)
    inputs["tables"] = alone.artifact
    task = Task("evaluate", run_id=run_id, module="components.evaluate.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.evaluate import step

        return step.run(card=dataset, **task.inputs, evaluation=out)

    asked = {"dataset": dataset.name, "release": dataset.release.model_dump()}
    report = task.reuse_or_make(evaluation.path, kind="evaluation", config=lambda: asked, make=make)
    for name, value in report["metrics"].items():
        metrics.log_metric(name, value)
    shutil.copyfile(task.artifact / "page.html", page.path)
    release = report["release"]
    task.hand_on(released.path, "model" if release["released"] in (None, release["judged"]) else "tables")
    return report["passed"]
