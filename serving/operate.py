"""What a person does to a rollout: `python -m serving rollout status|pause|resume|rollback|promote|readmit`."""

import argparse
import json
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from experiments import transitions
from experiments.document import DocumentChange, Rollout, rest
from experiments.table import RolloutTable, StaleRollout
from experiments.transitions import WrongMove
from feature_repo.card import load_card
from runtime import workspace
from runtime.errors import InputError

_LOOKS = 5
"""Latest decisions that the status prints."""


def status(options: argparse.Namespace) -> int:
    """Print what serves, how it came to be, and what the last looks at it said."""
    with RolloutTable(workspace.rollout_url()) as table:
        names = [model_name(options.dataset)] if options.dataset else table.models()
        if options.json:
            print(
                json.dumps({"table": table.database.where, "models": [_plain(table, name) for name in names]}, indent=1)
            )
            return 0
        print(f"rollout table {table.database.where}")
        if not names:
            print("nothing was released yet: `make run`")
        for name in names:
            row = table.read(name)
            print("\n".join(arms(row)))
            for entry in table.history(name):
                print(f"    {entry.at:%Y-%m-%d %H:%M:%S} UTC  {entry.who}: {entry.why}")
            for look in table.decisions(name, row.salt)[-_LOOKS:] if row.salt else []:
                print(f"    {look.at:%Y-%m-%d %H:%M:%S} UTC  looked: {look.action}, {look.why}")
    return 0


def _plain(table: RolloutTable, name: str) -> dict[str, Any]:
    """What a script would read: the document, every change of it, and the looks at the present experiment."""
    row = table.read(name)
    looks = table.decisions(name, row.salt) if row.salt else []
    return {
        **row.to_json(),
        "changes": [{"at": each.at.isoformat(), "who": each.who, "why": each.why} for each in table.history(name)],
        "looks": [{"at": each.at.isoformat(), "action": each.action, "why": each.why} for each in looks],
    }


def change(options: argparse.Namespace) -> int:
    """Make one move on the row as it is now; refused where somebody else moves it at the same moment.

    MLflow's aliases, a view of the row, follow at the next look: at 3 a.m. nothing but the table has to answer.
    """
    name = model_name(options.dataset)
    with RolloutTable(workspace.rollout_url()) as table:
        changed = move(table, name, options.what, options.who, options.why, options.expected_version)
    print("\n".join(arms(changed)))
    return 0


def move(table: RolloutTable, name: str, what: str, who: str, why: str, expected_version: int | None) -> Rollout:
    """Make the move `what` (one of `MOVES`) of the model `name`, signed by `who` with a reason; the row after it.

    Raises `InputError` where the move is not open, or the row is not the one of `expected_version` (None: of now).
    """
    row = table.read(name)
    try:
        proposed = DocumentChange(MOVES[what](row, datetime.now(UTC)), who, f"{what}: {why}")
        return table.propose(proposed, row.version if expected_version is None else expected_version)
    except WrongMove as error:
        raise InputError(f"{error}. Look at `python -m serving rollout status --dataset {name}`.") from error
    except StaleRollout as error:
        raise InputError(f"{error}. Nothing was changed: look at its status and decide anew.") from error


def arms(rollout: Rollout) -> list[str]:
    """What serves, a line each."""
    shares = {"champion": 1 - rollout.weight, "challenger": rollout.weight, "former": 0.0}
    held = ", paused" if rollout.paused else ""
    return [
        f"{rollout.model}  (row {rollout.version}{held})",
        *(
            f"  {role:<10} {arm.version}  {shares[role]:.0%} of shoppers, "
            f"registered {arm.registered:%Y-%m-%d %H:%M} UTC"
            for role, arm in rollout.roles.items()
        ),
        *(f"  {'waiting':<10} {arm.version}" for arm in rollout.queue),
        *(f"  {'sent back':<10} {each.recipe_digest[:12]}: {rest(each)}" for each in rollout.sent_back),
    ]


def model_name(dataset: str) -> str:
    """The model's name: that of the card, which may be given as a path."""
    return load_card(dataset).name if dataset.endswith((".yaml", ".yml")) else dataset


def _salt() -> str:
    return secrets.token_hex(8)


MOVES: dict[str, Callable[[Rollout, datetime], Rollout]] = {
    "pause": lambda row, now: transitions.pause(row, True),
    "resume": lambda row, now: transitions.pause(row, False),
    "rollback": lambda row, now: transitions.roll_back(row, now=now, salt=_salt),
    "promote": lambda row, now: transitions.promote(row, now=now),
    "readmit": lambda row, now: transitions.readmit(row, now=now),
}
HELP = {
    "pause": "hold the experiment where it is; guardrails still roll it back",
    "resume": "let a paused experiment go on",
    "rollback": "take the challenger out, or bring the former champion back",
    "promote": "make the challenger champion now; the former one stays loaded",
    "readmit": "let recipes that were sent back be tried again at once",
}


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `rollout` and its actions to a command line."""
    rollout = commands.add_parser("rollout", help="what serves, who changed it, and changing it by hand")
    actions = rollout.add_subparsers(required=True, metavar="ACTION")
    shown = actions.add_parser("status", help="what serves, and how it came to be")
    shown.add_argument("--dataset", help="name of one data set; all if left out")
    shown.add_argument("--json", action="store_true", help="for a script")
    shown.set_defaults(command=status)
    for what, meaning in HELP.items():
        action = actions.add_parser(what, help=meaning)
        action.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
        action.add_argument("--why", required=True, help="one sentence for the history")
        action.add_argument("--who", default=os.environ.get("USER", "unknown"), help="who asks (default: %(default)s)")
        action.add_argument("--expected-version", type=int, help="refuse if the row is no longer at this version")
        action.set_defaults(command=change, what=what)
