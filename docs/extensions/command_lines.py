"""The directive `command-lines`: every command with its options, made from the parsers that read them."""

import argparse
from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from tables import section, table

import console.__main__
import pipelines.__main__
import serving.__main__


class CommandLines(Directive):
    """A section for each program, and in it one for each of its commands."""

    def run(self) -> list[nodes.Node]:
        return [_program(module._parser()) for module in (pipelines.__main__, serving.__main__, console.__main__)]


def _program(parser: argparse.ArgumentParser) -> nodes.section:
    made = section(parser.prog, f"`{parser.prog}`", parser.description or "")
    _add_options(made, parser)
    made.extend(_command(name, says, command) for name, says, command in _commands(parser))
    return made


def _add_options(made: nodes.section, parser: argparse.ArgumentParser) -> None:
    rows = [(_written(action), _meaning(action)) for action in parser._actions if _shown(action)]
    if rows:
        made += table(("option", "what it does"), rows, (30, 70))


def _command(name: str, says: str, parser: argparse.ArgumentParser) -> nodes.section:
    made = section(parser.prog, f"`{name}`", says)
    _add_options(made, parser)
    made.extend(_command(inner, text, command) for inner, text, command in _commands(parser))
    return made


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            says = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, says.get(name, ""), command


def _shown(action: argparse.Action) -> bool:
    return (
        not isinstance(action, argparse._HelpAction | argparse._SubParsersAction) and action.help != argparse.SUPPRESS
    )


def _written(action: argparse.Action) -> str:
    value = action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return f"`{action.option_strings[-1]}{takes}`"


def _meaning(action: argparse.Action) -> str:
    says = action.help or ""
    if "%(default)" in says:
        return says % {"default": action.default}
    plain = action.default in (None, argparse.SUPPRESS, [], False, "")
    return says if plain else f"{says} (default: {action.default})".strip()


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-lines", CommandLines)
    return {"parallel_read_safe": True}
