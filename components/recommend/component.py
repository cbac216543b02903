"""Kubeflow component that makes the lists for all shoppers by what serves."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def recommend(
    run_id: str,
    model: str,
    k: int,
    processes: int,
    lists: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Write the best items of each shopper, by the champion and the histories of now."""
    from components.recommend import task
    from components.shared.summary import numbers

    report = task.recommend(run_id=run_id, model=model, k=k, processes=processes, lists=lists.path)
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
