"""`with_console.py [OPTION OF THE CONSOLE …] -- COMMAND …`: the command, and the console beside it for as long.

A signal reaches both: the shell that `make` starts would die of one and leave them behind.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """The command's exit status, as a shell tells it (143 after SIGTERM).

    A console that cannot start says why, and the command runs without it.
    """
    split = arguments.index("--")
    console = subprocess.Popen([sys.executable, "-m", "console", *arguments[:split]])
    command = subprocess.Popen([sys.executable, *arguments[split + 1 :]])
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches all of them by itself
    try:
        status = command.wait()
        return status if status >= 0 else 128 - status
    finally:
        console.terminate()
        console.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
