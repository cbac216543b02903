"""One look at a running rollout: read its log, decide, change the rollout table if need be, and show why."""

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.rollout.page import page
from experiments.decision import judge, look
from experiments.document import DocumentChange, Rollout
from experiments.log import LogFault
from experiments.policy import Policy
from experiments.retry import until_unmoved
from experiments.table import InterimAnalysis, RolloutTable
from runtime.errors import InputError


def run(
    *,
    model: str,
    policy: str,
    log: Path,
    rollout_url: str,
    decision: Path,
    mlflow_url: str = "",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    salt: Callable[[], str] = lambda: secrets.token_hex(8),
) -> dict[str, Any]:
    """Look at the experiment of `model` once, and write `decision.json` and `page.html` into `decision`.

    `policy` is JSON (see `experiments.policy`; "" for the defaults), `log` the event log of docs/contracts.md.
    MLflow's aliases follow the table where `mlflow_url` is given. Returns the report: action, why, rollout_version.
    Raises `InputError` for a bad policy, a bad log, or a model that was never released.
    """
    try:
        rules = Policy.from_json(policy)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        with RolloutTable(rollout_url, clock=clock) as table:
            row, made = decide(table, model, rules, log, now=clock(), salt=salt)
            report = {"model": model, "action": made.action, "why": made.why, "rollout_version": row.version}
            report["metrics"] = _metrics(made.evidence)
            (decision / "decision.json").write_text(json.dumps({**report, "evidence": made.evidence}, indent=1))
            (decision / "page.html").write_text(page(table, model, rules, salt=made.salt, at=made.at))
    except LogFault as error:
        raise InputError(str(error)) from error
    if mlflow_url:
        from components.shared.model_registry import Registry

        # Also where nothing changed: a look that was killed here left the view behind.
        Registry(mlflow_url, model).show(row)
    return report


def decide(
    table: RolloutTable, model: str, policy: Policy, log: Path, *, now: datetime, salt: Callable[[], str]
) -> tuple[Rollout, InterimAnalysis]:
    """Decide on the row as it is, and again whenever somebody else was faster; the row as it then stands."""

    def attempt() -> tuple[Rollout, InterimAnalysis]:
        row = table.read(model)
        if row.champion is None:
            known = ", ".join(table.models()) or "nothing"
            raise InputError(
                f"{model}: no model was released yet (released: {known}). Run the training pipeline first."
            )
        if row.challenger is None and row.former is None:
            return row, InterimAnalysis(at=now, salt="", action="hold", why="no experiment runs", evidence={})
        opened = next(entry.at for entry in table.history(model) if entry.rollout.salt == row.salt)
        evidence = look(log, row, policy, opened=opened, now=now)
        verdict = judge(row, evidence, policy, opened=opened, salt=salt)
        made = InterimAnalysis(
            at=now, salt=row.salt, action=verdict.action, why=verdict.why, evidence=evidence.to_json()
        )
        if verdict.rollout is None:
            table.record(model, made)
            return row, made
        change = DocumentChange(verdict.rollout, "rollout", f"{verdict.action}: {verdict.why}")
        return table.propose(change, row.version, made), made

    return until_unmoved(attempt, model=model, during="while it was looked at")


def _metrics(evidence: dict[str, Any]) -> dict[str, float]:
    """The numbers that Kubeflow shows beside a run; none while no experiment runs."""
    if not evidence:
        return {}
    outcome = evidence["outcome"]
    found = {f"outcome_{name}": outcome[name] for name in ("estimate", "low", "high") if outcome[name] is not None}
    shares = {f"challenger_{row['name']}": row["challenger"] for row in evidence["guardrails"]}
    return {**found, **shares, "sample_ratio_log_e": evidence["ratio"]}
