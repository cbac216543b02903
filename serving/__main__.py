"""The command line of serving: `python -m serving up|gateway|consumer|rollout`."""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from components import workspace
from components.errors import InputError
from feature_repo.card import CardError
from serving import operate, run_consumer, run_gateway
from serving.operate import arms
from serving.rollout.document import ModelVersion, Rollout
from serving.rollout.table import RolloutTable
from serving.torchserve import archive
from serving.torchserve.server import TorchServe

_SHORT = 5
"""Events of a history that still make a readable command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 success, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (InputError, CardError) as error:
        if options.debug:
            raise
        print(f"error {error}", file=sys.stderr)
        return 2


def _up(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    rollout = _released(operate.model_name(options.dataset))
    assert rollout.champion is not None
    archives = [_checked(arm) for arm in rollout.serving]
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    print(f"starting TorchServe with {' and '.join(arm.version for arm in rollout.serving)} of {rollout.model}")
    try:
        with TorchServe(workspace.home() / "torchserve" / "up", port=options.port) as server:
            for arm, mar in zip(rollout.serving, archives, strict=True):
                server.register(mar, digest=arm.archive_digest)
            server.set_default(rollout.model, rollout.champion.version)
            print("\n".join(arms(rollout)))
            for role, arm in rollout.roles.items():
                print(f"\n# ask the {role}\n{curl(server.address, rollout.model, arm)}")
            print(f"\nlogs: {server.logs}\nCtrl-C ends it", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("stopped")
    return 0


def curl(address: str, model: str, arm: ModelVersion) -> str:
    """A command line that asks `arm` with the history of a real shopper, one of the archive's golden requests."""
    lines = [json.loads(line) for line in archive.read(Path(arm.archive), "goldens.jsonl").splitlines()]
    requests = [line["request"] for line in lines if line["request"]["history"] and not line["answer"]["unknown_items"]]
    short = [request for request in requests if len(request["history"]) <= _SHORT]
    longest = max(short, key=lambda request: len(request["history"]), default=requests[0])
    asked = {**longest, "history": longest["history"][-_SHORT:], "k": 5}
    body = shlex.quote(json.dumps(asked, ensure_ascii=False))
    url = f"{address}/predictions/{model}/{arm.version}"
    return f"curl -s {url} -H 'Content-Type: application/json' -d {body}"


def _checked(arm: ModelVersion) -> Path:
    """The archive of `arm`; `InputError` where it is gone or is not the one that was released: it is code."""
    mar = Path(arm.archive)
    found = archive.digest(mar) if mar.is_file() else "no file"
    if found != arm.archive_digest:
        raise InputError(
            f"{mar}: found {found[:12]}, but {arm.archive_digest[:12]} was released. Restore the release folder."
        )
    return mar


def _released(name: str) -> Rollout:
    with RolloutTable(workspace.rollout_url()) as table:
        rollout = table.read(name)
        if rollout.champion is None:
            known = ", ".join(table.models()) or "nothing"
            raise InputError(f"{name}: no model was released yet (released: {known}). Run `make run DATASET={name}`.")
    return rollout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve what the rollout table says.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input")
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="TorchServe with the champion and the challenger, until Ctrl-C")
    up.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    up.add_argument("--port", type=int, help="port of the inference API on this machine; a free one if left out")
    up.set_defaults(command=_up)
    run_gateway.add_to(commands)
    run_consumer.add_to(commands)
    operate.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
