"""Kubeflow component that ends every run, failed ones too: the page for people, and word of a failure."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def report(
    run_id: str,
    pipeline: str,
    status: dsl.PipelineTaskFinalStatus,
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Write one self-contained page about the run from the records of its tasks; a failure is told to the webhook."""
    from pathlib import Path

    from components.report import ledger, step
    from components.shared import announcement as announce_step
    from components.shared.ending import ending
    from components.shared.expected_tasks import missing
    from runtime import workspace
    from runtime.task import read_records

    run = workspace.run(run_id)
    # First, because the page needs more to be whole than the message does.
    text = announce_step.run(run_id=run, pipeline=pipeline, state=status.state, error=status.error_message or "")
    Path(summary.path).write_text(text)
    records = read_records(run)
    lost = missing(pipeline, records, status.state)
    step.run(run_id=run, state=status.state, lost=lost)
    # Kubeflow shows its own copy, from where no link could be followed.
    Path(page.path).write_text(step.page(run_id=run, state=status.state, beside=None, lost=lost))
    outcome = ending(records, status.state, lost).sentence
    ledger.run(run_id=run, mlflow_url=workspace.mlflow_url(), outcome=outcome)
