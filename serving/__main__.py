"""The command line of serving: `python -m serving COMMAND`; `--help` names the commands."""

import argparse
import sys
import traceback
from collections.abc import Sequence

from events.consumer import command
from experiments.database import TableAway
from feature_repo.faults import Unavailable
from runtime import service_log, teardown
from runtime.errors import InputError
from runtime.object_store import StoreFault
from runtime.options import with_debug
from serving import (
    off_policy,
    operate,
    replay,
    run_gateway,
    run_torchserve,
    shop_rules,
    worth,
)
from serving.releases import Unreached


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 success, 1 what cannot be had now (an archive, a table, a store), 2 bad input."""
    service_log.configure()
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (InputError, Unavailable, Unreached, TableAway, StoreFault) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve what the rollout table says.")
    commands = parser.add_subparsers(required=True)
    run_torchserve.add_to(commands)
    run_gateway.add_to(commands)
    command.add_to(commands)
    replay.add_to(commands)
    operate.add_to(commands)
    shop_rules.add_to(commands)
    off_policy.add_to(commands)
    worth.add_to(commands)
    return with_debug(parser)


if __name__ == "__main__":
    teardown.skip()
    sys.exit(main())
