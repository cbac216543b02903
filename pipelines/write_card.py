"""`python -m pipelines card FILE…`: a card for tables that nobody has described, each guess with its evidence."""

import os
import re
from pathlib import Path

import duckdb
import yaml

from feature_repo.card import VERSION, load_card
from feature_repo.card_schema import PATH as SCHEMA
from pipelines.card_facts import facts_of
from pipelines.guess import Guess, best_of
from pipelines.look import InspectedColumn, InspectedTable, look
from pipelines.roles import Roles, find_roles
from runtime.errors import InputError
from runtime.sql import session

MOST_FEATURES = 12


def write_card(tables: list[Path], to: Path | None) -> Path:
    """Write a card for the two tables among `tables` and return its path; the data set is called as its file `to` is,
    or as the folder of the tables. Raises `InputError` where they are not seen, or where there is a file already."""
    with session() as connection:
        looked = [look(path, connection, f"table_{n}") for n, path in enumerate(tables)]
        roles = find_roles(connection, looked)
        called = to.stem if to else roles.interactions.path.resolve().parent.name
        name = re.sub(r"[^a-z0-9]+", "_", called.lower()).strip("_")
        name = name if re.match("[a-z]", name) else f"shop_{name}".rstrip("_")
        target = to or roles.interactions.path.resolve().parent / f"{name}.yaml"
        if target.exists():
            raise InputError(f"{target}: is there already. Remove it, or name another by --to.")
        target.write_text(_card(connection, roles, name, target.resolve().parent), encoding="utf-8")
    load_card(str(target))
    return target


def _card(connection: duckdb.DuckDBPyConnection, roles: Roles, name: str, folder: Path) -> str:
    """The YAML."""
    if all(guess.is_date for guess in roles.features):
        raise InputError(f"{roles.items.path}: no column says anything about the items besides their id.")
    chosen = best_of(connection, roles.items, roles.features, MOST_FEATURES)
    facts = facts_of(connection, roles)
    told = f"{roles.interactions.rows:,} interactions"
    told += "" if roles.alone else f" and {roles.items.rows:,} rows of items"
    lines = [
        f"# Written by `python -m pipelines card` from {told}.",
        "# What each line was seen by stands beside it; feature_repo/datasets/example.yaml explains every field.",
        f"# yaml-language-server: $schema={os.path.relpath(SCHEMA, folder)}",
        f"name: {name}",
        f"version: {VERSION}",
        f"description: {' and '.join(each.path.name for each in _files(roles))}",
        "source:",
        "  adapter: files",
        *_source(roles, chosen, folder),
        "columns:",
        *_columns(roles),
        *_events(roles),
    ]
    if facts.nobody:
        lines.append(f"  # rows without a shopper, set aside: {facts.nobody:,} of {roles.interactions.rows:,}")
    unused = [each.name for each in roles.interactions.columns if each.name not in _used(roles)]
    lines += [f"  # of the interactions not used: {', '.join(unused)}"] if unused else []
    lines += ["features:", *(f"  - {_plain(guess.entry)}  # {' '.join(guess.evidence.split())}" for guess in chosen)]
    if left := [_column_of(guess) for guess in roles.features if guess not in chosen]:
        lines.append(f"  # more could be features, or say the same as one: {', '.join(left)}")
    if title := next((g.entry["name"] for g in chosen if g.is_text), None):
        lines.append(f"title: {title}")
    return "\n".join([*lines, *facts.lines, ""])


def _files(roles: Roles) -> list[InspectedTable]:
    return [roles.interactions] if roles.alone else [roles.interactions, roles.items]


def _source(roles: Roles, chosen: list[Guess], folder: Path) -> list[str]:
    """Where the tables are, how they are written, and what their times are."""
    tables = dict(zip(("interactions", "items"), _files(roles), strict=False))
    lines = [f"  {table}: {_plain(os.path.relpath(each.path.resolve(), folder))}" for table, each in tables.items()]
    if roles.alone:
        lines.append("  # no table of items: what is known of them is read off the interactions")
    if roles.time.local and not roles.positional:
        lines.append(
            f"  timezone: UTC  # times such as {roles.time.example} carry no zone of their own: name the shop's, e.g. "
            "Europe/Berlin"
        )
    if roles.time.format:
        lines.append(f"  time_format: {_plain(roles.time.format)}  # reads {roles.time.times:.1%} of them")
    written = []
    keys: dict[str, list[InspectedColumn | None]] = {
        "interactions": [roles.user, roles.item, roles.basket],
        "items": [roles.item_key],
    }
    for table, each in tables.items():
        csv, evidence = dict(each.csv), list(each.evidence)
        if whole := [key.name for key in keys[table] if key is not None and key.dotted]:
            csv["whole"] = whole
            evidence.append("whole numbers written as 17.0")
        if any(guess.comma for guess in chosen if guess.entry.get("table", "items") == table or roles.alone):
            csv["decimal"] = ","
            evidence.append("numbers with a comma before the fraction")
        written += [f"    {table}: {_plain(csv)}  # {'; '.join(evidence)}"] if csv else []
    return [*lines, *(["  csv:", *written] if written else [])]


def _column_of(guess: Guess) -> str:
    return str(guess.entry.get("column", guess.entry["name"]))


def _columns(roles: Roles) -> list[str]:
    per = roles.interactions.rows / max(1, roles.user.distinct)
    lines = [
        f"  user_id: {_plain(roles.user.name)}  # {roles.user.distinct:,} of them, {per:.1f} rows each",
        f"  item_id: {_plain(roles.item.name)}  # "
        + (
            "others say one thing of each"
            if roles.alone
            else f"{roles.coverage:.1%} of its values are in the items table"
        ),
    ]
    if roles.positional:
        seen_by = f"no times; whole numbers, such as {roles.time.example}, that say the order"
        lines.append(f"  position: {_plain(roles.time.name)}  # {seen_by}")
    else:
        seen_by = f"{roles.time.times:.1%} are times, such as {roles.time.example}"
        lines.append(f"  event_time: {_plain(roles.time.name)}  # {seen_by}")
    if not roles.alone:
        lines.append(
            f"  item_key: {_plain(roles.item_key.name)}  # {roles.item_key.distinct:,} in {roles.items.rows:,} rows"
        )
    if roles.event_type is not None:
        lines.append(f"  event_type: {_plain(roles.event_type.entry['column'])}  # {roles.event_type.evidence}")
    if roles.quantity is not None:
        lines.append(f"  quantity: {_plain(roles.quantity.name)}  # whole numbers, such as {roles.quantity.example}")
    if roles.basket is not None:
        lines.append(f"  basket: {_plain(roles.basket.name)}  # each of its values is one shopper's")
    if roles.available is not None:
        lines.append(f"  item_available_at: {_plain(roles.available.name)}  # times, before the item's interactions")
    return lines


def _events(roles: Roles) -> list[str]:
    if roles.event_type is None:
        return []
    lines = ["events:  # with history: true a kind enters the histories that the model sees, and is told apart there"]
    return lines + [f"  {_plain(kind)}: {_plain(told)}" for kind, told in roles.event_type.entry["events"].items()]


def _used(roles: Roles) -> set[str]:
    found = [roles.user, roles.item, roles.time, roles.quantity, roles.basket]
    names = {each.name for each in found if each is not None}
    names |= {_column_of(each) for each in roles.features if roles.alone}
    return names | ({roles.event_type.entry["column"]} if roles.event_type else set())


def _plain(value: object) -> str:
    """A value as YAML, on one line."""
    told = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return told.removesuffix("\n...\n").strip().removesuffix("...").strip()
