"""Kubeflow component that releases a model; never reused."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def push(
    run_id: str,
    archive: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    served: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    infra_validation: dsl.Input[dsl.Artifact],
    release: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
):
    """Register the model with its lineage and propose it to the rollout table."""
    from pathlib import Path

    from components.push import step
    from components.shared.summary import table
    from runtime import workspace
    from runtime.task import Task, lineage

    inputs = {
        "archive": archive.path,
        "model": model.path,
        "served": served.path,
        "evaluation": evaluation.path,
        "infra_validation": infra_validation.path,
    }
    task = Task("push", run_id=run_id, module="components.push.step", inputs=inputs)
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
