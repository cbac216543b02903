"""`heterrec`: every command of this checkout in one program, with completion; `.venv/bin/heterrec --help`.

The commands themselves are those of `python -m pipelines`, `serving` and `console`, which images and manifests call.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import click
from click.shell_completion import CompletionItem

import console.__main__
import pipelines.__main__
import serving.__main__
from pipelines.version import version
from runtime import teardown
from runtime.task import commit

SECTIONS: tuple[tuple[str, ModuleType], ...] = (
    ("Data to a release", pipelines.__main__),
    ("Serving", serving.__main__),
    ("To look at", console.__main__),
)
RENAMED = {("serving.__main__", "up"): "serve", ("serving.__main__", "rollout"): "experiment"}
"""`rollout` is one look by the pipelines, and what serves by serving: here the second is called by what it is about."""


class Delegated(click.Command):
    """A command whose arguments the parser of its own program reads."""

    def __init__(self, name: str, parser: argparse.ArgumentParser, says: str, run: Callable[[list[str]], int]) -> None:
        super().__init__(name, help=says, context_settings={"ignore_unknown_options": True, "help_option_names": []})
        self.params = [
            click.Argument(
                ["arguments"], nargs=-1, type=click.UNPROCESSED, shell_complete=lambda c, _, i: self._words(c, i)
            )
        ]
        self.parser, self._run = parser, run

    def invoke(self, ctx: click.Context) -> Any:
        ctx.exit(self._run(list(ctx.params["arguments"])))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self._words(ctx, incomplete)]

    def _words(self, ctx: click.Context, incomplete: str) -> list[str]:
        """The commands and options that its parser would take next."""
        parser = self.parser
        for word in ctx.params.get("arguments") or ():
            parser = _commands(parser).get(word, parser)
        words = [*_commands(parser), *(option for action in parser._actions for option in action.option_strings)]
        return [word for word in words if word.startswith(incomplete)]


class Program(click.Group):
    """The commands by section."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, module in SECTIONS:
            own = [(name, made.get_short_help_str(90)) for name, made in self.commands.items() if _of(made, module)]
            with formatter.section(title):
                formatter.write_dl(own)


def program() -> click.Group:
    """The whole program."""
    made = Program("heterrec", help="Sequential recommendation in production: from two tables to served answers.")
    for _, module in SECTIONS:
        parser = module._parser()
        for name, (command, says) in (_with_help(parser) or _alone(module, parser)).items():
            shown = RENAMED.get((module.__name__, name), name)
            command.prog = f"heterrec {shown}"
            arguments = [name] if command is not parser else []
            delegated = Delegated(shown, command, says, _runner(module, arguments))
            delegated.module = module  # type: ignore[attr-defined]
            made.add_command(delegated)
    return click.version_option(about(), prog_name="heterrec", message="%(prog)s %(version)s")(made)


def about() -> str:
    """The version, with the commit where checkout or image know it."""
    return f"{version()} ({commit()})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end with its status: 0 success, 1 a fault, 2 bad input, 3 blocked where that is asked for."""
    teardown.skip()
    program()(args=arguments, prog_name="heterrec")


def _runner(module: ModuleType, before: list[str]) -> Callable[[list[str]], int]:
    return lambda arguments: int(module.main([*before, *arguments]))


def _alone(module: ModuleType, parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """A program that is one command."""
    return {module.__name__.split(".")[0]: (parser, parser.description or "")}


def _of(command: click.Command, module: ModuleType) -> bool:
    return getattr(command, "module", None) is module


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: command for name, (command, _) in _with_help(parser).items()}


def _with_help(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            says = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (command, says.get(name, "")) for name, command in action.choices.items()}
    return {}


if __name__ == "__main__":
    main(sys.argv[1:])
