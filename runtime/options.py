"""What every command line of the project takes alike."""

import argparse
from collections.abc import Iterator

Command = tuple[tuple[str, ...], argparse.ArgumentParser]
"""Its words, and what reads its arguments."""


def commands(parser: argparse.ArgumentParser, *before: str) -> Iterator[Command]:
    """The commands of a program by their words, those of commands included; a program of one command is that one."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, command in action.choices.items():
            yield from commands(command, *before, name)
    if not below:
        yield before, parser


def with_debug(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The program with `--debug` before and behind the name of each command: people write it at the end, and a program
    made of several ones has no place before."""
    parser.set_defaults(debug=False)
    for each in (parser, *(command for words, command in commands(parser) if words)):
        each.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    return parser
