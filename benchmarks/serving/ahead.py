"""The gateway or the consumer by a clock that a file puts ahead: `python -m benchmarks.serving.ahead FILE gateway
...`"""

import argparse
import mmap
import struct
import sys
from datetime import datetime, timedelta
from pathlib import Path

from events.consumer import command
from runtime import clocks
from serving import run_gateway

_SECONDS = struct.Struct("d")


class Ahead:
    """A clock that is as far ahead as the file says, in all processes at once; it stays so from run to run, since
    nothing may be of a later time than now."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            path.write_bytes(_SECONDS.pack(0.0))
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), _SECONDS.size)

    def __call__(self) -> datetime:
        return clocks.now() + timedelta(seconds=_SECONDS.unpack(self._file[:])[0])

    def go(self, seconds: float) -> None:
        """Further ahead."""
        self._file[:] = _SECONDS.pack(_SECONDS.unpack(self._file[:])[0] + seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clock", type=Path, metavar="FILE", help="eight bytes: seconds as a double")
    commands = parser.add_subparsers(required=True)
    run_gateway.add_to(commands)
    command.add_to(commands)
    options = parser.parse_args()
    return int(options.command(options, clock=Ahead(options.clock)))


if __name__ == "__main__":
    sys.exit(main())
