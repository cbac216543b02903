"""What a person wants shown whatever is ranked: `python -m serving rules show|set|restore|history`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

from experiments.rules import BadRules, Rules
from experiments.rules_table import RulesTable, RulesVersion, StaleRules
from experiments.table import RolloutTable
from runtime import workspace
from runtime.errors import InputError
from serving import operate
from serving.gateway.after.compiled import faults
from serving.gateway.archive import read_contents
from serving.releases import Releases


def show(options: argparse.Namespace) -> int:
    """Print the document that holds, or that of a version, to be changed and set."""
    name = operate.model_name(options.dataset)
    with RolloutTable(workspace.rollout_url()) as table:
        rules = RulesTable(table.database, name)
        found = rules.read() if options.version is None else _version(rules, name, options.version)
    print(json.dumps(found.rules.to_json(), indent=2))
    return 0


def history(options: argparse.Namespace) -> int:
    """Print who has changed the rules, when and why."""
    name = operate.model_name(options.dataset)
    with RolloutTable(workspace.rollout_url()) as table:
        versions = RulesTable(table.database, name).history()
    if not versions:
        print(f"{name} has no rules: `python -m serving rules set`")
    for version in versions:
        assert version.at is not None
        counts = (
            f"{len(version.rules.blocks)} blocks, {len(version.rules.pins)} pins, {len(version.rules.boosts)} boosts"
        )
        print(f"{version.number:>4}  {version.at:%Y-%m-%d %H:%M:%S} UTC  {version.who}: {version.why} ({counts})")
    return 0


def change(options: argparse.Namespace) -> int:
    """Let a document hold, or that of an earlier version; refused where what serves could not follow it."""
    name = operate.model_name(options.dataset)
    with RolloutTable(workspace.rollout_url()) as table:
        kept = RulesTable(table.database, name)
        present = kept.read()
        rules = _read(options.file) if options.what == "set" else _version(kept, name, options.version).rules
        if not options.unchecked:
            _check(rules, name, table)
        expected = present.number if options.expected_version is None else options.expected_version
        try:
            changed = kept.propose(rules, who=options.who, why=f"{options.what}: {options.why}", expected=expected)
        except StaleRules as error:
            raise InputError(f"{error}. Nothing was changed: look at them (`rules show`) and decide anew.") from error
    print(f"{name}: version {changed.number} of the rules holds, on every gateway within 2 s")
    return 0


def _read(path: Path) -> Rules:
    try:
        return Rules.of(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Name a file of rules, YAML or JSON.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is neither YAML nor JSON ({' '.join(str(error).split())}).") from error
    except BadRules as error:
        raise InputError(f"{path}: {error}. docs/contracts.md says what rules are.") from error


def _version(rules: RulesTable, name: str, number: int) -> RulesVersion:
    found = {version.number: version for version in rules.history()}
    if number not in found:
        raise InputError(
            f"{name}: has no version {number} of its rules; there are {', '.join(map(str, found)) or 'none'}"
        )
    return found[number]


def _check(rules: Rules, name: str, table: RolloutTable) -> None:
    """Held against the catalogue that the gateway holds them against: the champion's."""
    champion = table.read(name).champion
    if champion is None:
        raise InputError(f"{name}: nothing was released that rules could be held against; --unchecked sets them anyway")
    mar = Releases(name, workspace.archives()).fetched(champion)
    try:
        catalogue = read_contents(mar, champion.archive_digest).catalogue
    except (OSError, ValueError) as error:
        raise InputError(f"{error}. Restore the released archive, or set the rules with --unchecked.") from error
    if found := faults(rules, catalogue):
        raise InputError(f"{champion.version} of {name} cannot follow these rules: {'; '.join(found)}")


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `rules` and its actions to a command line."""
    rules = commands.add_parser(
        "rules",
        help="blocks, pins, boosts and all else that a shop wants shown: what holds, and changing it",
    )
    actions = rules.add_subparsers(required=True, metavar="ACTION")

    def action(what: str, meaning: str, command: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(what, help=meaning)
        added.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
        added.set_defaults(command=command, what=what)
        return added

    action("show", "the document that holds, as JSON", show).add_argument("--version", type=int, help="of that version")
    action("history", "who has changed the rules, when and why", history)
    setting = action("set", "let the document of a file hold, YAML or JSON", change)
    setting.add_argument("file", type=Path)
    restoring = action("restore", "let an earlier version hold again", change)
    restoring.add_argument("version", type=int)
    for each in (setting, restoring):
        each.add_argument("--why", required=True, help="one sentence for the history")
        each.add_argument("--who", default=os.environ.get("USER", "unknown"), help="who asks (default: %(default)s)")
        each.add_argument("--expected-version", type=int, help="refuse if another version holds by now")
        each.add_argument("--unchecked", action="store_true", help="do not hold them against the champion's catalogue")
