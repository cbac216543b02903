"""The recurring run that looks at a rollout: Kubeflow starts it by the clock, the command line at once."""

from kfp import dsl

from components.rollout.component import judge_rollout

CRON = "0 5 * * * *"
"""Kubeflow's six fields: five minutes past every hour. With `max_concurrency=1` and `no_catchup=True`: a missed look
is no loss, the next one sees all that it would have seen."""


@dsl.pipeline(name="heterrec-rollout", description="Promote, hold or roll back the challenger of one model")
def rollout(model: str, policy: str = "") -> None:
    """Look once at the rollout of a model.

    Args:
        model: Name of the model, which is that of its dataset card.
        policy: What differs from the default policy (serving/rollout/policy.py), as a JSON object.
    """
    # Never cached: a look depends on the log and the clock, which are no arguments.
    judge_rollout(model=model, policy=policy).set_caching_options(False).set_cpu_request("1").set_memory_limit("4Gi")
