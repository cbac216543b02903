"""Kubeflow component of training; the same for HeterRec and for the baseline it is measured against."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train(
    run_id: str,
    task_name: str,
    recipe: str,
    sequences: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
):
    """Train the model that `recipe` describes; a killed attempt goes on from its last checkpoint."""
    import json
    from pathlib import Path

    from components.shared.summary import numbers
    from components.shared.training_page import render
    from runtime.task import Task

    inputs = {"sequences": sequences.path}
    if json.loads(recipe).get("warm_start"):  # else another champion is no reason to train again
        inputs["champion"] = champion.path
    task = Task(task_name, run_id=run_id, module="components.train.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.train import step
        from components.train.plan import Learned, plan
        from components.train.progress import EventProgress
        from heterrec.changes import parameter
        from runtime.errors import InputError
        from runtime.log import emit

        try:
            config = parameter(recipe)
        except ValueError as error:  # a run's parameter, edited by hand
            raise InputError(str(error)) from error
        ahead = plan(config, Learned.of(task.inputs["sequences"]))
        task.annotate(plan=ahead.to_json())
        emit("plan", task=task_name, sentence=ahead.sentence)
        return step.run(
            config=config,
            sequences=task.inputs["sequences"],
            model=out,
            scratch=scratch,
            champion=task.inputs.get("champion"),
            progress=EventProgress(task_name),
        )

    report = task.reuse_or_make(model.path, kind="model", config=lambda: json.loads(recipe), make=make)
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
    Path(page.path).write_text(render(task_name, task.artifact, report))
