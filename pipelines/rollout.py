"""The recurring run that looks at a rollout: Kubeflow starts it by the clock, the command line at once."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.rollout.component import judge_rollout
from pipelines.cluster import Cluster
from pipelines.placement import Placement

NAME = "heterrec-rollout"


def build(cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline as `cluster` runs it, or this machine."""
    place = Placement(cluster, NAME)

    @dsl.pipeline(
        name=NAME, description="Promote, hold or roll back the challenger of one model", pipeline_config=place.config
    )
    def rollout(model: str, policy: str = "", run_id: str = "") -> None:
        """Look once at the rollout of a model.

        Args:
            model: Name of the model, which is that of its dataset card.
            policy: What differs from the default policy (experiments/policy.py), as a JSON object.
            run_id: Named where the look fails; empty on a cluster, where Kubeflow's own ID does.
        """
        # One task, which tells its own failure: 144 looks a day are 144 times the pods of one.
        place.last(judge_rollout(model=model, policy=policy, run_id=run_id, pipeline=NAME))

    return rollout
