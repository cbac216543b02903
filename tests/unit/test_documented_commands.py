"""Every command that a page names exists as it is written there: parsed by the program that would read it."""

import contextlib
import importlib.util
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest

import console.__main__
import pipelines.__main__
import serving.__main__

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PARSERS = {
    module.__name__.split(".")[0]: module._parser for module in (pipelines.__main__, serving.__main__, console.__main__)
}
NEEDS = {
    "kubectl": "a cluster",
    "kustomize": "a cluster's manifests",
    "helm": "a cluster",
    "(cd": "a registry",
    "createdb": "a database",
    "psql": "a database",
    "pg_dump": "a database",
    "pip": "a package index",
    "scripts/setup.sh": "a package index",
    "curl": "a server",
}
"""Commands of other programs, which no test here runs, and what they need."""


def fenced(page: str) -> list[str]:
    """The lines of all blocks of shell, a line that goes on as one."""
    blocks = re.findall(r"^[ ]*```sh\n(.*?)^[ ]*```", page, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def inline(page: str) -> list[str]:
    """What stands between backticks in a sentence and is a command of ours."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
    return [
        span for span in spans if re.match(r"(\.venv/bin/)?python -m (pipelines|serving|benchmarks)|make [a-z]", span)
    ]


COMMANDS = sorted(
    {(page.name, command) for page in PAGES for read in (fenced, inline) for command in read(page.read_text())}
)


def words_of(command: str) -> list[str]:
    """Of its first program, without a comment, the settings before it, and … but where it is an option's value."""
    words = list(
        itertools.takewhile(lambda word: word not in ("&&", "|", ";", "<", ">"), shlex.split(command, comments=True))
    )
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if "--" in words and words[0] == "kubectl":
        words = words[words.index("--") + 1 :]
    return [word for before, word in zip(["", *words], words, strict=False) if word != "…" or before.startswith("--")]


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 60


def test_every_command_of_the_tutorial_is_about_the_reader_s_own_shop():
    """None falls back to the marketplace."""
    commands = [command for page, command in COMMANDS if page == "tutorial.md" and "make setup" not in command]
    assert len(commands) > 6
    assert not [command for command in commands if "my_shop.yaml" not in command]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_documented_command_is_one(page, command):
    words = words_of(command)
    only_settings = not words or re.match(r"[A-Z]+=\S+( [A-Z]+=\S+)*", command)
    if only_settings or words[0] in NEEDS:
        return
    if words[0] == "make":
        known_target(words[1:])
        return
    assert words[0].endswith("python") and words[1] == "-m", f"{page}: {command!r} is no command that is known here"
    module, arguments = words[2], words[3:]
    if module in PARSERS:
        parsed(PARSERS[module](), "…" in command or "--" not in command, arguments)
    else:
        assert importlib.util.find_spec(module), f"{page}: no module {module}"


def known_target(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    scripts = "".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh"))
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    variables = set(re.findall(r"\$\(([A-Z_]+)\)|^([A-Z_]+) \?=|export ([A-Z_]+)", makefile, flags=re.MULTILINE))
    variables |= set(re.findall(r"\$\{([A-Z_]+):-()()", scripts))
    for word in words:
        name, is_setting, _ = word.partition("=")
        if is_setting:
            assert name in {one for found in variables for one in found}, (
                f"neither the Makefile nor a script of it reads {name}"
            )
        elif "…" not in word:
            assert word in targets, f"no target {word}"


def parsed(parser, partly: bool, arguments: list[str]) -> None:
    """Read by the program's own parser; of a command that leaves something out only what it names must exist."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            _, unread = parser.parse_known_args([argument.split("|")[0] for argument in arguments])
        except SystemExit as end:
            missing = "the following arguments are required" in said.getvalue()
            if end.code and not (partly and missing):
                pytest.fail(said.getvalue().strip().splitlines()[-1])
            return
    assert set(unread) <= {"…"}, f"no such argument: {unread}"
