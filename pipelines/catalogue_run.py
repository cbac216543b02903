"""The recurring run that serves new items and prices without training: the steps of `pipelines/catalogue.py`."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.features.component import features
from components.infra_validate.component import infra_validate
from components.ingest.component import ingest
from components.materialise.component import materialise
from components.refresh.component import refresh, release
from components.report.component import report
from components.resolve.component import resolve
from components.validate.component import validate
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
            events = place.light(ingest(run_id=run_id, card=card, as_of=as_of)).outputs["events"]
            resolved = place.small(resolve(run_id=run_id, card=card, as_of=as_of, new_reference=False, events=events))
            facts, reference = resolved.outputs["facts"], resolved.outputs["reference"]
            validated = place.light(validate(run_id=run_id, card=card, events=events, facts=facts, reference=reference))
            with dsl.If(validated.outputs["Output"] == True, name="data-accepted"):  # noqa: E712
                joined = place.light(features(run_id=run_id, card=card, events=events, facts=facts))
                sequences = joined.outputs["sequences"]
                filled = place.light(
                    materialise(run_id=run_id, card=card, events=events, facts=facts, sequences=sequences)
                )
                for arm in ("champion", "challenger"):
                    refreshed = place.light(refresh(run_id=run_id, card=card, arm=arm, sequences=sequences))
                    # What is released must find its features online.
                    refreshed.after(filled).set_display_name(f"refresh-{arm}")
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
