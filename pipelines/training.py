"""The training pipeline: the same function runs on a laptop, compiles to YAML and runs on a cluster."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate.component import evaluate
from components.features.component import features
from components.infra_validate.component import infra_validate
from components.ingest.component import ingest
from components.materialise.component import materialise
from components.package.component import package
from components.push.component import push
from components.refit.component import refit
from components.report.component import report
from components.resolve.component import resolve
from components.train.component import train
from components.validate.component import validate
from pipelines.cluster import Cluster
from pipelines.placement import Placement

NAME = "heterrec-training"


def build(cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline as `cluster` runs it, or this machine."""
    place = Placement(cluster, NAME)

    @dsl.pipeline(
        name=NAME, description="From interactions to a served, blessed HeterRec", pipeline_config=place.config
    )
    def training(
        card: str, recipe: str, baseline: str, run_id: str = "", as_of: str = "", new_reference: bool = False
    ) -> None:
        """Train, evaluate and release one model.

        Args:
            card: The dataset card, as JSON.
            recipe: HeterRec's training configuration, as JSON.
            baseline: The configuration of the item-ID-only model with the same loss, as JSON.
            run_id: Names the run's folder in the workspace; empty on a cluster, where Kubeflow's own ID does.
            as_of: Moment to train for (ISO 8601, UTC); empty for the newest event.
            new_reference: Hold the data against its card only, not against the last accepted run: the change is meant.
        """
        with dsl.ExitHandler(place.last(report(run_id=run_id, pipeline=NAME)), name="always-report"):
            events = place.reading(ingest(run_id=run_id, card=card, as_of=as_of)).outputs["events"]
            resolved = place.small(
                resolve(run_id=run_id, card=card, as_of=as_of, new_reference=new_reference, events=events)
            )
            facts, reference = resolved.outputs["facts"], resolved.outputs["reference"]
            validated = place.light(validate(run_id=run_id, card=card, events=events, facts=facts, reference=reference))
            with dsl.If(validated.outputs["Output"] == True, name="data-accepted"):  # noqa: E712
                joined = place.light(features(run_id=run_id, card=card, events=events, facts=facts))
                sequences = joined.outputs["sequences"]
                place.light(materialise(run_id=run_id, card=card, events=events, facts=facts, sequences=sequences))
                with dsl.If(joined.outputs["Output"] == True, name="can-be-decided"):  # noqa: E712
                    known = {"sequences": sequences, "champion": resolved.outputs["champion"]}
                    trained = place.training(train(run_id=run_id, task_name="train", recipe=recipe, **known))
                    compared = place.training(
                        train(run_id=run_id, task_name="train-baseline", recipe=baseline, **known)
                    )
                    compared.set_display_name("train-baseline")
                    evaluated = place.light(
                        evaluate(
                            run_id=run_id,
                            card=card,
                            sequences=sequences,
                            model=trained.outputs["model"],
                            baseline=compared.outputs["model"],
                            champion=resolved.outputs["champion"],
                        )
                    )
                    # Tonight's model, or the neighbour tables in its place.
                    model = evaluated.outputs["released"]
                    with dsl.If(evaluated.outputs["Output"] == True, name="model-blessed"):  # noqa: E712
                        refitted = place.training(refit(run_id=run_id, sequences=sequences, model=model))
                        served = refitted.outputs["served"]
                        packaged = place.light(package(run_id=run_id, card=card, sequences=sequences, model=served))
                        archive = packaged.outputs["archive"]
                        with dsl.If(packaged.outputs["Output"] == True, name="not-yet-released"):  # noqa: E712
                            proven = place.serving(infra_validate(run_id=run_id, card=card, archive=archive))
                            with dsl.If(proven.outputs["Output"] == True, name="serves-right"):  # noqa: E712
                                place.small(
                                    push(
                                        run_id=run_id,
                                        archive=archive,
                                        model=model,
                                        served=served,
                                        evaluation=evaluated.outputs["evaluation"],
                                        infra_validation=proven.outputs["infra_validation"],
                                    )
                                )

    return training
