"""Kubeflow component of the refit: from the model that was judged to the model that serves."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def refit(
    run_id: str,
    sequences: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    served: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
):
    """Train the blessed model on over all events; where it is not what was blessed any more, that serves as it is."""
    from pathlib import Path

    from components.shared.summary import decision, numbers
    from runtime.decision import Decision
    from runtime.task import Task

    inputs = {"sequences": sequences.path, "model": model.path}
    task = Task("refit", run_id=run_id, module="components.refit.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.refit import step
        from components.train.progress import EventProgress

        return step.run(**task.inputs, served=out, scratch=scratch, progress=EventProgress("refit"))

    report = task.reuse_or_make(served.path, kind="served", config=dict, make=make)
    for name, value in numbers({**report["found"], "share_of_training": report["share_of_training"]}).items():
        metrics.log_metric(name, value)
    made = Decision.read(task.artifact)
    Path(summary.path).write_text(f"{report['sentence']}\n\n{decision(made)}")
