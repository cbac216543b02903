"""Kubeflow component that ends a run which makes no page of its own: a failure is told."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def announce(run_id: str, pipeline: str, status: dsl.PipelineTaskFinalStatus, summary: dsl.Output[dsl.Markdown]):
    """Write what became of the run, and tell a failure to the webhook where one is configured."""
    from pathlib import Path

    from components import workspace
    from components.announce import step

    text = step.run(
        run_id=workspace.run(run_id), pipeline=pipeline, state=status.state, error=status.error_message or ""
    )
    Path(summary.path).write_text(text)
