"""The recurring run that serves new items and prices without training (`pipelines/catalogue.py` on this machine)."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.infra_validate.component import infra_validate
from components.prepare.component import prepare
from components.refresh.component import refresh, release
from components.report.component import report
from pipelines.cluster import Cluster
from pipelines.placement import Placement

NAME = "heterrec-catalogue"


def build(cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline as `cluster` runs it, or this machine."""
    place = Placement(cluster, NAME)

    @dsl.pipeline(
        name=NAME, description="The weights that serve, over the catalogue of today", pipeline_config=place.config
    )
    def catalogue(card: str, run_id: str = "", as_of: str = "") -> None:
        """Refresh the features and what serves.

        Args:
            card: The dataset card, as JSON.
            run_id: Names the run's folder in the workspace; empty on a cluster, where Kubeflow's own ID does.
            as_of: Moment to refresh for (ISO 8601, UTC); empty for the newest event.
        """
        with dsl.ExitHandler(place.last(report(run_id=run_id, pipeline=NAME)), name="always-report"):
            # One pod for five tasks: what runs every hour is seldom looked at, and the night's training has them apart.
            prepared = place.reading(prepare(run_id=run_id, card=card, as_of=as_of))
            sequences = prepared.outputs["sequences"]
            with dsl.If(prepared.outputs["Output"] == True, name="data-accepted"):  # noqa: E712
                for arm in ("champion", "challenger"):
                    refreshed = place.light(refresh(run_id=run_id, card=card, arm=arm, sequences=sequences))
                    refreshed.set_display_name(f"refresh-{arm}")
                    archive = refreshed.outputs["archive"]
                    with dsl.If(refreshed.outputs["Output"] == True, name=f"{arm}-changed"):  # noqa: E712
                        proof = infra_validate(run_id=run_id, card=card, task_name=f"proof-{arm}", archive=archive)
                        proven = place.serving(proof).set_display_name(f"proof-{arm}")
                        with dsl.If(proven.outputs["Output"] == True, name=f"{arm}-serves-right"):  # noqa: E712
                            place.small(
                                release(
                                    run_id=run_id,
                                    arm=arm,
                                    archive=archive,
                                    infra_validation=proven.outputs["infra_validation"],
                                )
                            ).set_display_name(f"release-{arm}")

    return catalogue
