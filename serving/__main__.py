"""The command line of serving: `python -m serving up|torchserve|reconciler|plain|gateway|rollout`."""

import argparse
import sys
from collections.abc import Sequence

from components import workspace
from components.errors import InputError
from feature_repo.card import CardError
from serving import operate, run_plain, run_torchserve
from serving.rollout.table import RolloutTable
from serving.run_torchserve import released


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


def _gateway(options: argparse.Namespace) -> int:
    """Answer shoppers until Ctrl-C or SIGTERM."""
    import uvicorn

    from serving.gateway.app import make_app
    from serving.gateway.eventlog import EventLog
    from serving.gateway.online import feast_history

    name = operate.model_name(options.dataset)
    released(name)
    with RolloutTable(workspace.rollout_url()) as table:
        app = make_app(
            read_rollout=lambda: table.read(name),
            torchserve=options.torchserve,
            history=feast_history(name, workspace.feature_store(name)),
            log=EventLog(workspace.event_log(name)),
        )
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve what the rollout table says.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input")
    commands = parser.add_subparsers(required=True)
    run_torchserve.add_to(commands)
    run_plain.add_to(commands)
    gateway = commands.add_parser("gateway", help="the recommendation service in front of TorchServe, until Ctrl-C")
    gateway.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    gateway.add_argument("--torchserve", required=True, metavar="URL", help="its inference address, as `up` prints it")
    gateway.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    gateway.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    gateway.set_defaults(command=_gateway)
    operate.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
