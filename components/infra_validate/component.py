"""Kubeflow component that proves the archive in a real TorchServe; never reused."""

from kfp import dsl

from components.image import SERVE


@dsl.component(base_image=SERVE, install_kfp_package=False)
def infra_validate(
    run_id: str,
    archive: dsl.Input[dsl.Model],
    infra_validation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    task_name: str = "infra_validate",
) -> bool:
    """Serve the archive, replay its golden requests, measure latency; False where an answer is wrong or late."""
    from pathlib import Path

    from components.decision import Decision
    from components.infra_validate import step
    from components.summary import decision, numbers
    from components.task import Task

    task = Task(task_name, run_id=run_id, module="components.infra_validate.step", inputs={"archive": archive.path})

    def make(out: Path, scratch: Path) -> dict:
        return step.run(archive=task.inputs["archive"], validation=out).summary()

    report = task.make_always(infra_validation.path, kind="infra_validation", make=make)
    for name, value in numbers(report["found"]).items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(decision(Decision.read(task.artifact)))
    return report["passed"]
