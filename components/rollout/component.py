"""Kubeflow component that looks at a running rollout once."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def judge_rollout(
    model: str,
    policy: str,
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Raise, promote, hold or roll back; returns the action."""
    import shutil
    from pathlib import Path

    from components import workspace
    from components.console import emit
    from components.manifest import Manifest
    from components.rollout import step

    out = Path(decision.path)
    out.mkdir(parents=True, exist_ok=True)
    report = step.run(
        model=model,
        policy=policy,
        log=workspace.event_log(model),
        rollout_url=workspace.rollout_url(),
        mlflow_url=workspace.mlflow_url(),
        decision=out,
    )
    Manifest.seal(out, kind="rollout", facts={"report": report})
    shutil.copyfile(out / "page.html", page.path)
    for name, value in report["metrics"].items():
        metrics.log_metric(name, value)
    emit("rollout_judged", **{name: report[name] for name in ("model", "action", "why", "rollout_version")})
    return report["action"]
