"""The flags of all commands, as one who knows one command expects them of the next."""

import argparse
from collections import defaultdict

import pytest

import console.__main__
import pipelines.__main__
import serving.__main__
from pipelines import program
from runtime.options import commands

COMMANDS = {
    " ".join((module.__name__.split(".")[0], *words)): command
    for module in (pipelines.__main__, serving.__main__, console.__main__)
    for words, command in commands(module._parser())
}
READ = ("pipelines status", "pipelines lineage", "pipelines check", "pipelines list", "serving rollout status")
"""Commands that tell what is there, which a script would read."""


def kind(option: argparse.Action) -> tuple[object, ...]:
    """Its other spellings, and what it takes: nothing, a value, or several."""
    return (*option.option_strings, type(option).__name__, option.nargs)


def test_a_flag_means_the_same_wherever_it_stands():
    meant = defaultdict(lambda: defaultdict(list))
    for name, command in COMMANDS.items():
        for option in command._actions:
            for flag in option.option_strings:
                meant[flag][kind(option)].append(name)
    assert len(meant) > 50
    assert not {flag: dict(kinds) for flag, kinds in meant.items() if len(kinds) > 1}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_flags_of_all_behind_its_name(name: str):
    flags = {flag for option in COMMANDS[name]._actions for flag in option.option_strings}
    assert {"--help", "--debug"} <= flags
    assert ("--json" in flags) == (name in READ)
    assert ("--why" in flags) == ("--who" in flags), "who changes what serves says why"


@pytest.mark.parametrize("flag", [["--debug"], []])
@pytest.mark.parametrize(
    "words", [("check", "no.yaml"), ("worth", "--dataset", "no.yaml"), ("console", "--policy", "no.json")]
)
def test_what_is_wrong_is_told_with_its_traceback_where_that_is_asked_for_and_ends_alike(words, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([*words, *flag])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "error" in told
    assert ("Traceback" in told) == bool(flag)
