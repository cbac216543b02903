"""The recurring run that makes lists for all shoppers, for mails and caches, by what serves."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.recommend.component import recommend
from components.report.component import report
from pipelines.cluster import Cluster
from pipelines.placement import Placement

NAME = "heterrec-recommend"


def build(cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline as `cluster` runs it, or this machine."""
    place = Placement(cluster, NAME)

    @dsl.pipeline(name=NAME, description="The best items of every shopper, for mails and caches",
                  pipeline_config=place.config)  # fmt: skip
    def lists(model: str, k: int = 20, processes: int = 2, run_id: str = "") -> None:
        """Make lists for all shoppers.

        Args:
            model: Name of the model, which is that of its dataset card.
            k: Items of a list.
            processes: How many make them at the same time.
            run_id: Names the run's folder in the workspace; empty on a cluster, where Kubeflow's own ID does.
        """
        with dsl.ExitHandler(place.last(report(run_id=run_id, pipeline=NAME)), name="always-report"):
            place.light(recommend(run_id=run_id, model=model, k=k, processes=processes))

    return lists
