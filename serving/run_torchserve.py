"""The commands that run TorchServe, or the plain server in its place: `up` (server and reconciler in one), `torchserve`
and `reconciler` (each alone)."""

import argparse
import contextlib
import json
import logging
import os
import shlex
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.document import ModelVersion, Rollout
from experiments.table import RolloutTable
from runtime import workspace
from runtime.errors import InputError
from serving.operate import arms, model_name
from serving.plain.server import PlainServer
from serving.releases import Releases, Unreached
from serving.torchserve import archive, readiness
from serving.torchserve.client import TorchServeClient
from serving.torchserve.reconciler import Reconciler
from serving.torchserve.server import HOST, TorchServe

SERVER = "HETERREC_SERVER"
"""What answers requests, where the command line does not say."""
SERVERS: dict[str, type[TorchServe]] = {"torchserve": TorchServe, "plain": PlainServer}
_logger = logging.getLogger(__name__)
_SHORT = 5
"""Events of a history that still make a readable command line."""


def up(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; what the row says is followed, and a TorchServe that dies is started again."""
    rollout = rollout_of(model_name(options.dataset))
    releases = Releases(rollout.model, workspace.archives())
    for role, arm in rollout.roles.items():
        try:
            _check(arm, releases.fetched(arm))
        except (InputError, Unreached) as fault:
            if role == "champion":
                raise
            _logger.warning("%s The %s %s does not serve before.", fault, role, arm.version)
    _end_by_signal()
    kind = _server(options)
    print(f"starting {options.server} with {' and '.join(arm.version for arm in rollout.serving)} of {rollout.model}")
    ports = {"inference": options.port, "management": options.management_port, "metrics": options.metrics_port}
    settings = {"host": options.host, "tokens": options.tokens, "folder": options.folder, **_workers(options)}
    chosen = {api: port for api, port in ports.items() if port}
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        server = stack.enter_context(kind(workspace.home() / "torchserve" / "up", ports=chosen, **settings))
        follower = _follower(server, rollout.model, releases)
        if options.status_port is not None:
            stack.enter_context(_status(follower, options))
        if not follower.look().ready:
            raise InputError("; ".join(follower.status.why.values()))
        print("\n".join(arms(rollout)))
        for role, arm in rollout.roles.items():
            if follower.status.versions[arm.version] != "ready":
                continue
            print(f"\n# ask the {role}")
            print(curl(server.address, rollout.model, arm, releases.fetched(arm), key=server.key_file))
        print(f"\nlogs: {server.logs}\nCtrl-C ends it", flush=True)

        def revive() -> None:
            server.cut_console()
            if not server.alive:
                _logger.error("TorchServe is gone: starting it again")
                server.restart()

        follower.follow(threading.Event(), before=revive)
    print("stopped")
    return 0


def torchserve(options: argparse.Namespace) -> int:
    """Run TorchServe alone, with nothing loaded, until SIGTERM; status 1 where it ends by itself."""
    _end_by_signal()
    ports = {"inference": options.port, "management": options.management_port, "metrics": options.metrics_port}
    logs = options.folder / "logs"
    with contextlib.suppress(KeyboardInterrupt), _server(options)(
        logs, host=options.host, ports=ports, tokens=_tokens(options), folder=options.folder
    ) as server:  # fmt: skip
        print(f"{options.server} listens at {server.address}, logs: {logs}", flush=True)
        return server.wait()
    return 0


def reconciler(options: argparse.Namespace) -> int:
    """Make the TorchServe beside it match the rollout row, until Ctrl-C or SIGTERM."""
    _end_by_signal()
    client = TorchServeClient(
        inference=options.torchserve, management=options.management, folder=options.folder, tokens=_tokens(options),
        **_workers(options),
    )  # fmt: skip
    name = model_name(options.dataset)
    follower = _follower(client, name, Releases(name, workspace.archives()))
    with contextlib.suppress(KeyboardInterrupt), _status(follower, options):
        follower.follow(threading.Event())
    return 0


def rollout_of(name: str) -> Rollout:
    """The row of a model; `InputError` where nothing was released under that name."""
    with RolloutTable(workspace.rollout_url()) as table:
        rollout = table.read(name)
        if rollout.champion is None:
            known = ", ".join(table.models()) or "nothing"
            advice = "Run `make run DATASET=...` with its card."
            raise InputError(f"{name}: no model was released yet (released: {known}). {advice}")
    return rollout


def curl(address: str, model: str, arm: ModelVersion, mar: Path, *, key: Path | None = None) -> str:
    """A command line that asks `arm` with the history of a real shopper, one of the golden requests of its archive."""
    lines = [json.loads(line) for line in archive.read(mar, "goldens.jsonl").splitlines()]
    requests = [
        line["request"]
        for line in lines
        if line["request"]["history"]
        and line["request"].keys().isdisjoint(("filters", "placement"))
        and not line["answer"]["unknown_items"]
    ]
    short = [request for request in requests if len(request["history"]) <= _SHORT]
    longest = max(short, key=lambda request: len(request["history"]), default=requests[0])
    asked = {**longest, "history": longest["history"][-_SHORT:], "k": 5}
    body = shlex.quote(json.dumps(asked, ensure_ascii=False))
    url = f"{address}/predictions/{model}/{arm.version}"
    authorised = f' -H "Authorization: Bearer $(cat {shlex.quote(str(key))})"' if key else ""
    return f"curl -s {url} -H 'Content-Type: application/json'{authorised} -d {body}"


def _server(options: argparse.Namespace) -> type[TorchServe]:
    if (kind := SERVERS.get(options.server)) is None:
        raise InputError(f"{SERVER}={options.server!r}: expected {' or '.join(SERVERS)}")
    return kind


def _tokens(options: argparse.Namespace) -> bool:
    return _server(options).has_keys if options.tokens is None else bool(options.tokens)


def _follower(client: TorchServeClient, model: str, releases: Releases) -> Reconciler:
    return Reconciler(client, read=releases.following(_reader(model)), archive_of=releases.at_hand)


def _check(arm: ModelVersion, mar: Path) -> None:
    """`InputError` where the archive of `arm` is gone or is not the one that was released: it is code."""
    found = archive.digest(mar) if mar.is_file() else "no file"
    if found != arm.archive_digest:
        raise InputError(
            f"{mar}: found {found[:12]}, but {arm.archive_digest[:12]} was released. Restore the release folder."
        )


def _reader(model: str) -> Callable[[], Rollout]:
    """Reads the row; a table that is away when this begins is opened as soon as it is there."""
    opened: list[RolloutTable] = []

    def read() -> Rollout:
        if not opened:
            opened.append(RolloutTable(workspace.rollout_url()))
        return opened[0].read(model)

    return read


def _workers(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "batch_size": options.batch_size,
        "max_batch_delay_ms": options.max_batch_delay_ms,
        "workers": options.workers,
        "start_seconds": options.start_seconds,
    }


def _status(follower: Reconciler, options: argparse.Namespace) -> contextlib.AbstractContextManager[int]:
    return readiness.served(lambda: follower.status, host=options.status_host, port=options.status_port)


def _end_by_signal() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the three commands to a command line."""
    both = commands.add_parser("up", help="TorchServe as the rollout row says, until Ctrl-C")
    alone = commands.add_parser("torchserve", help="TorchServe alone; a reconciler loads what it serves")
    beside = commands.add_parser("reconciler", help="makes the TorchServe beside it match the rollout row")
    for command, run in ((both, up), (alone, torchserve), (beside, reconciler)):
        command.set_defaults(command=run)
        command.add_argument(
            "--folder",
            type=Path,
            required=command is not both,
            help="TorchServe's own: archives, keys, status; one for each server",
        )
        command.add_argument(
            "--tokens",
            action=argparse.BooleanOptionalAction,
            help="the server asks callers for a key (default: TorchServe does, of `up` beyond loopback; plain cannot)",
        )
        command.add_argument(
            "--server",
            choices=list(SERVERS),
            default=os.environ.get(SERVER, "torchserve"),
            help=f"what answers requests (default: %(default)s, or ${SERVER})",
        )
    for command in (both, beside):
        command.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
        command.add_argument("--batch-size", type=int, default=32, help="requests that share a call of the model")
        command.add_argument("--max-batch-delay-ms", type=int, default=2, help="how long one waits for others")
        command.add_argument("--workers", type=int, default=1, help="worker processes of each version")
        command.add_argument("--start-seconds", type=float, default=120.0, help="how long a worker may take to load")
        command.add_argument("--status-host", default=HOST, help="where /ready answers (default: %(default)s)")
        port = None if command is both else 8083
        command.add_argument("--status-port", type=int, default=port, help="of /ready (default: %(default)s)")
    for command in (both, alone):
        inference, management, metrics = (None, None, None) if command is both else (8080, 8081, 8082)
        command.add_argument(
            "--host", default=HOST, help="of inference and metrics; of plain: of metrics (default: %(default)s)"
        )
        command.add_argument("--port", type=int, default=inference, help="of the inference API")
        command.add_argument("--management-port", type=int, default=management, help="on loopback, always")
        command.add_argument("--metrics-port", type=int, default=metrics, help="of Prometheus metrics")
    beside.add_argument("--torchserve", default="http://127.0.0.1:8080", metavar="URL", help="(default: %(default)s)")
    beside.add_argument("--management", default="http://127.0.0.1:8081", metavar="URL", help="(default: %(default)s)")
