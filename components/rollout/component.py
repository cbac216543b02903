"""Kubeflow component that looks at a running rollout once."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def judge_rollout(
    model: str,
    policy: str,
    run_id: str,
    pipeline: str,
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Raise, promote, hold or roll back; returns the action. A look that fails is told to the webhook."""
    import shutil
    from pathlib import Path

    from components.rollout import step
    from components.shared import announcement as announce_step
    from runtime import workspace
    from runtime.log import emit
    from runtime.manifest import Manifest

    out = Path(decision.path)
    out.mkdir(parents=True, exist_ok=True)
    try:
        report = step.run(
            model=model,
            policy=policy,
            log=workspace.event_log(model),
            rollout_url=workspace.rollout_url(),
            mlflow_url=workspace.mlflow_url(),
            decision=out,
        )
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        announce_step.run(run_id=workspace.run(run_id), pipeline=pipeline, state="FAILED", error=told)
        raise
    Manifest.seal(out, kind="rollout", facts={"report": report})
    shutil.copyfile(out / "page.html", page.path)
    for name, value in report["metrics"].items():
        metrics.log_metric(name, value)
    emit("rollout_judged", **{name: report[name] for name in ("model", "action", "why", "rollout_version")})
    return report["action"]
