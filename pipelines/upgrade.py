"""`python -m pipelines upgrade CARD`: a card of before in the present version, and what its workspace needs."""

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from components.ingest.increment import NAME, SCHEMA
from components.ingest.step import source_of
from feature_repo.card import (
    VERSION,
    CardError,
    DatasetCard,
    load_card,
    parse_card,
)
from feature_repo.keys import spelled_sql
from runtime import workspace
from runtime.errors import InputError
from runtime.sql import literal, session


def upgrade(path: Path) -> list[str]:
    """Rewrite the card where it is of an earlier version, its comments kept; returns what was done and is to be done.

    Raises `CardError` where something of it has to be said by a person; then the file is as it was.
    """
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise InputError(f"{path}: no such card. Give the path to its .yaml file.")
    text = path.read_text(encoding="utf-8")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CardError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise CardError(f"{path}: is no card: expected fields, as feature_repo/datasets/example.yaml has them.")
    told: list[str] = []
    if isinstance(version := raw.get("version"), int) and version > VERSION:
        raise CardError(f"{path}: is of version {version}; this program reads {VERSION}. Update the program.")
    if raw.get("version") != VERSION:
        text, told = _rewritten(path, text, raw)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        try:
            parse_card(partial)
            os.replace(partial, path)
        except CardError as error:
            raise CardError(str(error).replace(str(partial), str(path))) from error
        finally:
            partial.unlink(missing_ok=True)
    card = load_card(str(path))
    return [*(told or [f"{path} is of version {VERSION} already."]), *of_workspace(card, str(path))]


def _rewritten(path: Path, text: str, raw: dict[str, object]) -> tuple[str, list[str]]:
    told = [f"version: {VERSION}"]
    columns = raw.get("columns")
    if isinstance(columns, dict) and columns.get("event_type"):
        if counting := columns.get("event_types"):
            kinds = [str(each) for each in counting]
            text = _without(path, text, "event_types")
            told.append(f"events: {', '.join(kinds)}, which columns.event_types named, each predicted as before.")
        else:
            # Before, every kind of event was an interaction, a dislike too: so it stays until someone says otherwise.
            kinds = _types(path, raw)
            told.append(f"events: {', '.join(kinds)}, all that the data has. Leave out those that are no interaction.")
        text = f"{text.rstrip()}\nevents:  # say predict: false where a kind is history alone\n"
        text += "".join(f"  {json.dumps(kind, ensure_ascii=False)}: {{predict: true}}\n" for kind in kinds)
        if len(kinds) > 1:
            told.append("The model now sees which kind each event of a history was.")
    if "version" in raw:
        return re.sub(r"^version:.*$", f"version: {VERSION}", text, count=1, flags=re.MULTILINE), told
    name = re.search(r"^name:.*\n", text, re.MULTILINE)
    if name is None:
        raise CardError(f"{path}: name is missing: lower case letters, digits and _.")
    return f"{text[: name.end()]}version: {VERSION}\n{text[name.end() :]}", told


def _without(path: Path, text: str, field: str) -> str:
    """The text without the line of a field, which may go on below it as a list."""
    line = re.compile(
        rf"^(?P<indent>[ ]+){field}:[^\n]*\n(?:(?P=indent)[ ]*-[^\n]*\n|(?P=indent)[ ]+[^\n]*\n)*", re.MULTILINE
    )
    found = line.sub("", text if text.endswith("\n") else f"{text}\n", count=1)
    if found.strip() == text.strip():
        raise CardError(
            f"{path}: columns: {field} stands in one line with others. Take it out and write at the card's end what "
            "each kind means: events: {purchase: {predict: true}, view: {history: true}}."
        )
    return found


def _types(path: Path, raw: dict[str, object]) -> list[str]:
    """The kinds of events that the source has, most frequent first."""
    columns = raw["columns"]
    assert isinstance(columns, dict)
    with TemporaryDirectory(dir=path.parent) as folder:
        # Beside the card, so that its relative paths hold one folder up.
        guess = Path(folder) / path.name
        said = {**raw, "version": VERSION, "events": {"any": {"predict": True}}}
        guess.write_text(yaml.safe_dump(said))
        card = parse_card(guess, folder=path.parent)
    with session() as connection:
        table = source_of(card, None).load(card, connection, None).interactions
        column = table.column(str(columns["event_type"]))
        kind = str(table.relation.types[table.relation.columns.index(column)])
        rows = table.relation.aggregate(f"{spelled_sql(column, kind)} AS k, count(*) AS n").fetchall()
    return [key for key, _ in sorted(rows, key=lambda row: (-row[1], str(row[0]))) if key]


def of_workspace(card: DatasetCard, named: str) -> list[str]:
    """What the workspace holds of this data set from before, and the command to run."""
    pointer = workspace.latest_events(card.name)
    if not pointer.is_file():
        return []
    events = Path(json.loads(pointer.read_text())["artifact"])
    found = events / NAME
    if not events.is_dir() or (found.is_file() and json.loads(found.read_text()).get("schema") == SCHEMA):
        return []
    files = literal(str(events / "interactions" / "*" / "*.parquet"))
    users = other = 0
    if any(events.glob("interactions/*/*.parquet")):
        with session() as connection:
            ((users, other),) = connection.execute(
                f"SELECT count(DISTINCT user_id), count(DISTINCT user_id) FILTER (user_id <> coalesce("
                f"{spelled_sql('user_id', 'VARCHAR')}, '') OR ends_with(user_id, '.0')) "
                f"FROM read_parquet({files}, hive_partitioning = false)"
            ).fetchall()
    return [
        f"{events}: was read before keys had one spelling (17.0 and 17 were two); {other:,} of {users:,} shoppers may "
        "be spelled otherwise now. The next run reads the source anew and takes nothing over:",
        f"  python -m pipelines run --dataset {named} --new-reference",
        "What the online store holds under an old spelling stays there until it is deleted:",
        f"  python -m pipelines forget --dataset {named} USER",
    ]
