"""`python -m serving gateway`: the recommendation service as a process of its own."""

import argparse
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from experiments.availability import AvailabilityTable
from experiments.item_log import ItemLog
from experiments.rules_table import RulesTable
from experiments.table import RolloutTable
from runtime import clocks, workspace
from runtime.errors import InputError
from serving import operate
from serving.releases import Releases

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs, so that no request meets one
that is just being closed here."""
PROXIES = "HETERREC_TRUSTED_PROXIES"
"""Addresses or networks of proxies, by commas, whose connections are not counted by address."""
TABLE_MIB = "HETERREC_GATEWAY_TABLES_MIB"
"""Most memory for the neighbour tables of the champion (default: 256)."""
SHOPS, TESTERS, KEYS = "HETERREC_API_TOKENS", "HETERREC_TESTER_TOKENS", "HETERREC_TORCHSERVE_KEYS"


def run(options: argparse.Namespace, *, clock: clocks.Clock = clocks.now) -> int:
    """Answer shoppers until Ctrl-C or SIGTERM."""
    import uvicorn

    from events.segments import SegmentSink
    from events.stream import StreamSink
    from events.writer import EventLogWriter, LogUnavailable
    from serving.gateway.access import Access, AccessTokens
    from serving.gateway.app import make_app
    from serving.gateway.connections import ConnectionLimits, protocol
    from serving.gateway.models import KeyFile
    from serving.gateway.online import OnlineStore
    from serving.gateway.operation import OperationServer
    from serving.gateway.operation_pages import pages

    # Threads wait for the disk and the store: what they bring must not wait for a long turn of another.
    sys.setswitchinterval(0.0005)
    name = operate.model_name(options.dataset)
    releases = Releases(name, workspace.archives())
    redis = workspace.event_log_redis()
    keys = os.environ.get(KEYS)
    mib = os.environ.get(TABLE_MIB, "256")
    if not mib.isdecimal():
        raise InputError(f"{TABLE_MIB}={mib!r}: expected a whole number of MiB, 0 for none")
    store = OnlineStore(name, workspace.feature_store(name))
    try:
        access = Access(AccessTokens.configured(SHOPS), AccessTokens.configured(TESTERS))
        with RolloutTable(workspace.rollout_url()) as table, _listen(options.host, options.port) as listening:
            availability = AvailabilityTable(table.database, name, clock=clock)
            app = make_app(
                read_rollout=releases.following(lambda: table.read(name)),
                archive_of=releases.at_hand,
                torchserve=options.torchserve,
                history=store.history,
                traits=store.traits,
                impressions=store.impressions,
                log=EventLogWriter(StreamSink(redis, name) if redis else SegmentSink(workspace.event_log(name))),
                access=access,
                keys=KeyFile(Path(keys)) if keys else None,
                clock=clock,
                table_bytes=int(mib) * 2**20,
                availability=availability,
                items=ItemLog(table.database, name, availability, clock=clock),
                rules=RulesTable(table.database, name, clock=clock),
            )
            address = f"http://{options.host}:{listening.getsockname()[1]}"
            print(f"{name} is recommended at {address}/v1/recommendations (Ctrl-C ends it)", flush=True)
            service = app.state.service
            limits = ConnectionLimits.behind(
                os.environ.get(PROXIES, "").split(","),
                connections=options.connections,
                of_address=options.connections_of_address,
                refuses=service.door.refuses,
                refused=service.refused,
            )
            config = uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE,
                http=protocol(limits),
            )  # fmt: skip
            server = uvicorn.Server(config)
            port = options.operation_port
            if port is None:
                port = options.port + 1 if options.port else 0
            try:
                operation = OperationServer(pages(service), options.host, port)
            except OSError as error:
                where = f"{options.host}:{port}"
                raise InputError(f"{where}: {error.strerror}. Choose another --operation-port.") from error
            print(f"health and metrics at http://{options.host}:{operation.port}", flush=True)
            for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them anew once it has ended in order
                signal.signal(number, lambda *_: setattr(server, "should_exit", True))
            gc.freeze()  # what is loaded by now stays: no collection walks through it while a shopper waits
            try:
                server.run(sockets=[listening])
            finally:
                operation.close()
    except (ValueError, LogUnavailable) as error:
        raise InputError(str(error)) from error
    return 0 if server.started else 1


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened to ({error.strerror}). Choose another --port.") from error


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `gateway` to a command line."""
    gateway = commands.add_parser("gateway", help="the recommendation service in front of TorchServe, until Ctrl-C")
    gateway.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    gateway.add_argument("--torchserve", required=True, metavar="URL", help="its inference address, as `up` prints it")
    gateway.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    gateway.add_argument("--port", type=int, default=8000, help="0 for a free one (default: %(default)s)")
    gateway.add_argument(
        "--operation-port", type=int, help="of /health, /ready and /metrics (default: the next after --port)"
    )
    gateway.add_argument("--connections", type=int, default=1_000, help="most at once (default: %(default)s)")
    gateway.add_argument(
        "--connections-of-address", type=int, default=200, help="most of one address (default: %(default)s)"
    )
    gateway.set_defaults(command=run)
