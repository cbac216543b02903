"""The command line of the console: `python -m console` shows the workspace in a browser; `--help` lists its options."""

import argparse
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from console.settings import LOOPBACK, METRICS, ConsoleSettings
from console.trials import SETTING
from experiments.policy import Policy
from runtime import service_log, teardown, workspace
from runtime.errors import InputError
from runtime.options import with_debug

PORT = 8500


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until Ctrl-C or SIGTERM; 0 success, 2 bad input."""
    service_log.configure()
    options = _parser().parse_args(arguments)
    try:
        return run(options)
    except InputError as error:
        if options.debug:
            traceback.print_exc()
        print(f"error {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    import uvicorn

    from console import ahead
    from console.app import make_app
    from console.server import EndingServer

    settings = _settings(options)
    with _listen(options.host, options.port) as listening:
        address = f"http://{options.host}:{listening.getsockname()[1]}"
        print(f"console of {workspace.home()} at {address} (Ctrl-C ends it)", flush=True)
        app = make_app(settings)
        ahead.begin(app.state.console)
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
        server = EndingServer(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them anew once it has ended in order
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        server.run(sockets=[listening])
    return 0 if server.started else 1


def _settings(options: argparse.Namespace) -> ConsoleSettings:
    try:
        policy = Policy.from_json(options.policy.read_text() if options.policy else "")
    except (OSError, ValueError) as error:
        raise InputError(f"--policy {options.policy}: {error}") from error
    loopback = options.host in ("127.0.0.1", "localhost", "::1")
    if options.allow_changes and not loopback and not options.user_header:
        raise InputError(
            "--allow-changes beyond this machine needs --user-header: the header by which a login proxy says who asks"
        )
    return ConsoleSettings(
        metrics=tuple(options.metrics or METRICS),
        prometheus=options.prometheus,
        mlflow=os.environ.get(SETTING, ""),
        hosts=(*LOOPBACK, *options.allow_host),
        changes=options.allow_changes,
        user_header=options.user_header,
        policy=policy,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened to ({error.strerror}). Choose another --port.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m console", description="See the workspace in a browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--metrics", action="append", metavar="URL",
        help=f"of a gateway's operation port, or a consumer; may be repeated (default: {' and '.join(METRICS)})",
    )  # fmt: skip
    parser.add_argument("--prometheus", default="", metavar="URL", help="asked in place of --metrics; knows alerts too")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name that browsers may call it by"
    )
    parser.add_argument("--policy", type=Path, help="JSON file of the rollout's policy, where it is not the default")
    parser.add_argument(
        "--allow-changes", action="store_true", help="let people promote, roll back, pause and resume (default: no)"
    )
    parser.add_argument(
        "--user-header", default=os.environ.get("HETERREC_USER_HEADER", ""), metavar="NAME",
        help="header by which a login proxy says who asks, such as kubeflow-userid",
    )  # fmt: skip
    return with_debug(parser)


if __name__ == "__main__":
    teardown.skip()
    sys.exit(main())
