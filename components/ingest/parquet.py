"""Parquet files to one table, each column in the type that its own file gives it: no file widens another's values."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.source import SourceTable, pattern
from feature_repo.card import DatasetCard
from feature_repo.keys import WHOLE_DOUBLES, inexact_sql, spelled_sql
from runtime.errors import InputError
from runtime.sql import literal, quoted

MAGIC = b"PAR1"
DIGITS = 38
"""Of a decimal; DuckDB reads longer ones as wrong doubles."""


@dataclass(frozen=True)
class _Layout:
    """What files must share to be read in one scan: their columns, what DuckDB takes them for, what it gets wrong."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    nothing: frozenset[str]
    """Columns of the type null, which holds no value at all."""
    instants: frozenset[str]
    """INT96 times: instants, as Spark writes them, which DuckDB reads as local times."""
    too_long: frozenset[str]
    """Decimals of more digits than can be read."""
    keys: tuple[str, ...] = ()
    """Columns that the names of the folders give (day=2025-01-01)."""


def read_parquet(path: Path, connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, table: str) -> SourceTable:
    """One file."""
    return _read([path], None, connection, card, table)


def read_parts(
    parts: Sequence[Path],
    folder: Path,
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    *,
    only: Collection[str] | None,
    bad: Sequence[tuple[str, int, str]] = (),
) -> SourceTable:
    """Interactions in several files below `folder`, each of which is a part, called by its path below the folder.

    The rows are those of the parts `only`; the type of a column is that of all of them, so that what is read in
    several goes is what is read in one. `bad` are lines of parts that are no rows: part, place and line.
    """
    table = _read(parts, folder, connection, card, "interactions", only)
    return replace(table, bad=[(row, line, part) for part, row, line in bad])


def read_portions(
    paths: Sequence[Path], connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, table: str
) -> SourceTable:
    """One table that was written in several files, one after the other."""
    return _read(paths, None, connection, card, table)


def _read(
    paths: Sequence[Path],
    folder: Path | None,
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    table: str,
    only: Collection[str] | None = None,
) -> SourceTable:
    layouts: dict[_Layout, list[Path]] = {}
    runs: list[tuple[_Layout, list[Path]]] = []
    """As they are scanned: portions of one table in their order, parts by their layout, as they are ordered after."""
    for path in paths:
        layout = _layout(path, folder, connection)
        layouts.setdefault(layout, []).append(path)
        if runs and runs[-1][0] == layout:
            runs[-1][1].append(path)
        else:
            runs.append((layout, [path]))
    names = list(dict.fromkeys(name for layout in layouts for name in (*layout.names, *layout.keys)))
    used, keys = _used(card, table)
    for layout, files in layouts.items():
        if wrong := sorted(used & layout.too_long):
            raise InputError(
                f"{files[0]}: column {wrong[0]!r} is a decimal of more than {DIGITS} digits, which cannot be read "
                "exactly. Write it as text, as a whole number or as a decimal of fewer digits."
            )
    shown = {name: _common(name, layouts, keys, used) for name in names}
    for layout, files in layouts.items():
        _require_exact(layout, files, shown, keys, connection)
    scans = []
    for layout, files in runs if folder is None else layouts.items():
        chosen = [path for path in files if only is None or path.relative_to(folder or path).as_posix() in only]
        scan = _scan(layout, chosen or files[:1], folder, names, shown, keys)
        scans.append(scan if chosen else f"{scan} LIMIT 0")
    rows = connection.sql(" UNION ALL ".join(f"({scan})" for scan in scans))
    if len(scans) > 1 and folder is not None:  # one part after the other, whatever they look like
        rows = rows.order("origin, number")
    if folder is not None:
        rows = rows.project("* EXCLUDE (number)")
    lacking = sorted({name for layout in layouts for name in names if name not in (*layout.names, *layout.keys)} & used)
    notes = (f"Some of the {len(paths)} files have no column {', '.join(map(repr, lacking))}.",) if lacking else ()
    return SourceTable(relation=rows, names=names, path=folder or paths[0], notes=notes)


def _layout(path: Path, folder: Path | None, connection: duckdb.DuckDBPyConnection) -> _Layout:
    try:
        file = pq.ParquetFile(path)
        relation = connection.sql(f"FROM read_parquet({literal(pattern(path))}, hive_partitioning = false)")
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        raise InputError(
            f"{path}: cannot be read: no whole Parquet file, but cut short, damaged or still being written. Write or "
            "copy it again."
        ) from error
    schema, names = file.schema, file.schema_arrow.names
    leaves = [schema.column(number) for number in range(len(schema))]
    keys = [piece.partition("=")[0] for piece in path.relative_to(folder).parts[:-1] if "=" in piece] if folder else []
    return _Layout(
        names=tuple(names),
        types=tuple(map(str, relation.types)),
        nothing=frozenset(field.name for field in file.schema_arrow if pa.types.is_null(field.type)),
        instants=frozenset(leaf.path for leaf in leaves if leaf.physical_type == "INT96"),
        too_long=frozenset(
            field.name
            for field in file.schema_arrow
            if pa.types.is_decimal(field.type) and field.type.precision > DIGITS
        ),
        keys=tuple(key for key in keys if key not in names),
    )


def _used(card: DatasetCard, table: str) -> tuple[set[str], set[str]]:
    """Columns that the card reads from the table, and those of them that are keys."""
    names = card.columns
    features = {spec.source_column for spec in card.sourced}
    if table == "users":
        read = {spec.source_column for spec in card.user_features}
        return {names.user_key, names.user_available_at or names.user_key, *read}, {names.user_key}
    if table == "items":
        return {names.item_key, names.item_available_at or names.item_key, *features}, {names.item_key}
    keys = {name for name in (names.user_id, names.item_id, names.event_type, names.basket) if name}
    others = {name for name in (names.event_time, names.created_time, names.position, names.quantity) if name}
    return keys | others | features | {spec.source_column for spec in card.context}, keys


def _common(name: str, layouts: dict[_Layout, list[Path]], keys: set[str], used: set[str]) -> str:
    """The type of a column over all files: theirs where they agree, else text, which every type can be written as."""
    found = {kind: files[0] for layout, files in layouts.items() if (kind := _kind(layout, name)) is not None}
    if not found:
        return "VARCHAR"
    if len(found) == 1:
        return next(iter(found))
    nested = {kind: path for kind, path in found.items() if kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))}
    if name in used and nested and len(nested) < len(found):
        (kind, path), (other, another) = (
            next(iter(nested.items())),
            next(e for e in found.items() if e[0] not in nested),
        )
        raise InputError(
            f"{path}: column {name!r} has type {kind}, and {other} in {another}. Write it alike in all files."
        )
    if nested and len(nested) == len(found) and name in used:
        return "VARCHAR[]"
    return "VARCHAR"


def _kind(layout: _Layout, name: str) -> str | None:
    if name in layout.nothing or name not in (*layout.names, *layout.keys):
        return None
    if name in layout.keys:
        return "VARCHAR"
    if name in layout.instants:
        return "TIMESTAMP WITH TIME ZONE"
    return layout.types[layout.names.index(name)]


def _scan(
    layout: _Layout,
    files: Sequence[Path],
    folder: Path | None,
    names: Sequence[str],
    shown: dict[str, str],
    keys: set[str],
) -> str:
    listed = []
    for number, name in enumerate(names):
        kind, value = _kind(layout, name), f"a{layout.names.index(name)}" if name in layout.names else ""
        if kind is None:
            value = f"NULL::{shown[name]}"
        elif name in layout.keys:
            below = f"'/' || substr(__path, {len(str(folder)) + 2})"
            value = f"url_decode(regexp_extract({below}, {literal(f'/{re.escape(name)}=([^/]*)/')}, 1))"
        elif name in layout.instants:
            value = f"timezone('UTC', {value})"
        if kind is not None and kind != shown[name]:
            value = (
                _as_text(value, kind, is_key=name in keys) if shown[name] == "VARCHAR" else f"{value}::{shown[name]}"
            )
        listed.append(f"{value} AS c{number}")
    if folder is not None:
        listed += [f"substr(__path, {len(str(folder)) + 2}) AS origin", "__number AS number"]
    paths = ", ".join(literal(pattern(path)) for path in files)
    given = ["__number", "__path"] if folder is not None else []
    named = ", filename = '__path', file_row_number = true" if folder is not None else ""
    aliases = ", ".join([*(f"a{number}" for number in range(len(layout.names))), *given])
    return (
        f"SELECT {', '.join(listed)} FROM read_parquet([{paths}]{named}, hive_partitioning = false) AS file({aliases})"
    )


def _as_text(value: str, kind: str, *, is_key: bool) -> str:
    """A value of a file whose type is not that of the others, as a CSV would have it."""
    if is_key and not kind.endswith("]"):
        return spelled_sql(value, kind)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime(timezone('UTC', {value}), '%Y-%m-%dT%H:%M:%S.%fZ')"
    return f"{value}::VARCHAR"


def _require_exact(
    layout: _Layout, files: Sequence[Path], shown: dict[str, str], keys: set[str], connection: duckdb.DuckDBPyConnection
) -> None:
    """Raise where keys that are floating numbers beside those of another type have lost digits."""
    for name in sorted(keys.intersection(layout.names)):
        kind = layout.types[layout.names.index(name)]
        if kind not in WHOLE_DOUBLES or kind == shown[name]:
            continue
        for path in files:
            lost = connection.sql(f"SELECT * FROM read_parquet({literal(pattern(path))}, hive_partitioning = false)")
            ((value,),) = lost.aggregate(
                f"any_value({quoted(name)}) FILTER ({inexact_sql(quoted(name), kind)})"
            ).fetchall()
            if value is not None:
                raise InputError(
                    f"{path}: column {name!r} holds ids as floating numbers, of which {value!r} can no longer be told "
                    "from its neighbours. Write it as whole numbers (int64) or text, as the other files do."
                )
