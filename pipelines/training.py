"""The training pipeline: the same function runs on a laptop, compiles to YAML and runs on a cluster."""

from kfp import dsl, kubernetes

from components.evaluate.component import evaluate
from components.features.component import features
from components.infra_validate.component import infra_validate
from components.ingest.component import ingest
from components.materialise.component import materialise
from components.package.component import package
from components.push.component import push
from components.report.component import report
from components.resolve.component import resolve
from components.train.component import train
from components.validate.component import validate

GPU_NODES = "nvidia.com/gpu"


def _uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    return task.set_caching_options(False).set_cpu_request("1").set_memory_request("2Gi").set_memory_limit("8Gi")


def _on_gpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
    _uncached(task).set_accelerator_type(GPU_NODES).set_accelerator_limit(1).set_memory_limit("16Gi")
    kubernetes.add_node_selector(task, label_key="nvidia.com/gpu.present", label_value="true")
    return kubernetes.add_toleration(task, key=GPU_NODES, operator="Exists", effect="NoSchedule")


@dsl.pipeline(name="heterrec-training", description="From interactions to a served, blessed HeterRec")
def training(run_id: str, card: str, recipe: str, baseline: str, as_of: str = "", new_reference: bool = False) -> None:
    """Train, evaluate and release one model.

    Args:
        run_id: Names the run's folder in the workspace.
        card: The dataset card, as JSON.
        recipe: HeterRec's training configuration, as JSON.
        baseline: The configuration of the item-ID-only model with the same loss, as JSON.
        as_of: Moment to train for (ISO 8601, UTC); empty for the newest event.
        new_reference: Hold the data against its card only, not against the last accepted run: the change is meant.
    """
    # Kubeflow's cache keys on arguments, not on content or code: components/task.py reuses by content instead.
    with dsl.ExitHandler(report(run_id=run_id).set_caching_options(False), name="always-report"):
        ingested = _uncached(ingest(run_id=run_id, card=card, as_of=as_of))
        events = ingested.outputs["events"]
        resolved = _uncached(resolve(run_id=run_id, card=card, as_of=as_of, new_reference=new_reference, events=events))
        facts, reference = resolved.outputs["facts"], resolved.outputs["reference"]
        validated = _uncached(validate(run_id=run_id, card=card, events=events, facts=facts, reference=reference))
        with dsl.If(validated.outputs["Output"] == True, name="data-accepted"):  # noqa: E712
            joined = _uncached(features(run_id=run_id, card=card, events=events, facts=facts))
            sequences = joined.outputs["sequences"]
            _uncached(materialise(run_id=run_id, card=card, events=events, facts=facts, sequences=sequences))
            known = {"sequences": sequences, "champion": resolved.outputs["champion"]}
            trained = _on_gpu(train(run_id=run_id, task_name="train", recipe=recipe, **known))
            compared = _on_gpu(train(run_id=run_id, task_name="train-baseline", recipe=baseline, **known))
            compared.set_display_name("train-baseline")
            model = trained.outputs["model"]
            evaluated = _uncached(
                evaluate(
                    run_id=run_id,
                    sequences=sequences,
                    model=model,
                    baseline=compared.outputs["model"],
                    champion=resolved.outputs["champion"],
                )
            )
            with dsl.If(evaluated.outputs["Output"] == True, name="model-blessed"):  # noqa: E712
                packaged = _uncached(package(run_id=run_id, card=card, sequences=sequences, model=model))
                archive = packaged.outputs["archive"]
                with dsl.If(packaged.outputs["Output"] == True, name="not-yet-released"):  # noqa: E712
                    proven = _uncached(infra_validate(run_id=run_id, archive=archive))
                    with dsl.If(proven.outputs["Output"] == True, name="serves-right"):  # noqa: E712
                        _uncached(
                            push(
                                run_id=run_id,
                                archive=archive,
                                model=model,
                                evaluation=evaluated.outputs["evaluation"],
                                infra_validation=proven.outputs["infra_validation"],
                            )
                        )
