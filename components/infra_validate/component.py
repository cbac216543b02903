"""Kubeflow component that proves the archive in a real TorchServe; never reused."""

from kfp import dsl

from components.shared.image import SERVE


@dsl.component(base_image=SERVE, install_kfp_package=False)
def infra_validate(
    run_id: str,
    card: str,
    archive: dsl.Input[dsl.Model],
    infra_validation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    task_name: str = "infra_validate",
) -> bool:
    """Serve the archive, replay its golden requests, measure latency, tell what it would earn; False where an answer is
    wrong or late."""
    from pathlib import Path

    from components.infra_validate import before_canary, step
    from components.shared.archive_artifact import find
    from components.shared.summary import decision, numbers
    from experiments.table import RolloutTable
    from feature_repo.card import DatasetCard
    from runtime import object_store, workspace
    from runtime.decision import Decision
    from runtime.task import Task
    from serving.off_policy import evidence

    dataset = DatasetCard.model_validate_json(card)
    task = Task(task_name, run_id=run_id, module="components.infra_validate.step", inputs={"archive": archive.path})

    def make(out: Path, scratch: Path) -> dict:
        with RolloutTable(workspace.rollout_url()) as table:
            champion = table.read(dataset.name).champion
            known = {"last": before_canary.LAST, "reward": step.REWARD}
            # A refresh has the weights of an arm and opens no canary.
            refresh = "refreshes" in find(task.inputs["archive"]).report
            logged = None if refresh else evidence(dataset.name, table, **known)
        # What serves now, as this step acts on the world of now: a busy machine is busy for both.
        mar = object_store.fetch_release(champion.archive) / Path(champion.archive).name if champion else None
        asked = {"serving": mar if mar and mar.is_file() else None, "max_p99_ms": dataset.serving.max_p99_ms}
        return step.run(archive=task.inputs["archive"], validation=out, logged=logged, **asked).summary()

    report = task.make_always(infra_validation.path, kind="infra_validation", make=make)
    for name, value in numbers(report["found"]).items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(decision(Decision.read(task.artifact)))
    return report["passed"]
