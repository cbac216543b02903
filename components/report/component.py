"""Kubeflow component that ends every run, failed ones too: the page for people."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def report(run_id: str, status: dsl.PipelineTaskFinalStatus, page: dsl.Output[dsl.HTML]):
    """Write one self-contained page about the run from the records of its tasks."""
    import shutil

    from components.report import step

    shutil.copyfile(step.run(run_id=run_id, state=status.state), page.path)
