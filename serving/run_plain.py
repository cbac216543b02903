"""The command that serves the champion without TorchServe, on loopback, until Ctrl-C."""

import argparse
from typing import Any

from components import workspace
from components.errors import InputError
from serving.operate import model_name
from serving.releases import Damaged, Releases, Unreached
from serving.run_torchserve import released


def plain(options: argparse.Namespace) -> int:
    """Serve the champion as it is now; what the row says later is not followed."""
    import uvicorn

    from serving.plain.app import make_app

    rollout = released(model_name(options.dataset))
    assert rollout.champion is not None
    releases = Releases(rollout.model, workspace.archives())
    releases.keep(rollout)
    try:
        mar = releases.fetched(rollout.champion)
        app = make_app(mar, digest=rollout.champion.archive_digest)
    except (Unreached, Damaged):
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{error}. Restore the release folder.") from error
    print(f"http://127.0.0.1:{options.port}/predictions/{rollout.model}/{rollout.champion.version}", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")
    return 0


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `plain` to a command line."""
    command = commands.add_parser(
        "plain", help="the champion behind a plain server in place of TorchServe, on loopback"
    )
    command.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    command.add_argument("--port", type=int, default=8090, help="(default: %(default)s)")
    command.set_defaults(command=plain)
