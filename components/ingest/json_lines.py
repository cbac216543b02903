"""JSON files, an object a line or an array of objects, to columns: values become text, lists lists of text.

`{"device": {"os": "ios"}}` is the column `device.os`. A number's text is the number's: 17.0 is 17.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.source import SourceTable, pattern, scratch
from runtime.errors import InputError
from runtime.sql import literal

PORTION = 20_000
"""Rows that are held in memory at a time."""
_BLANK = " \t\r\n\ufeff"
_BETWEEN = re.compile(r"[\s,]*")
_CHUNK = 1 << 20


def is_json(head: bytes) -> bool:
    """Whether a file that begins like this holds JSON objects."""
    return re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*[\"'}]", head) is not None


def read_json(path: Path, plain: Path, connection: duckdb.DuckDBPyConnection) -> SourceTable:
    """The objects of `plain` (the file `path`, unpacked), in their order; what is none is told as a bad line.

    Raises `InputError` where there is no object, or an array is not JSON to its end.
    """
    columns, folder = _Columns(), scratch(connection)
    bad: list[tuple[int, str, str | None]] = []
    parts: list[Path] = []
    rows: list[dict[int, str]] = []
    place = -1
    for place, record in enumerate(_records(path, plain)):
        if isinstance(record, str) or (row := columns.row(record)) is None:
            bad.append((place, record if isinstance(record, str) else json.dumps(record), None))
            continue
        rows.append(row)
        if len(rows) == PORTION:
            parts.append(columns.write(rows, folder))
            rows = []
    if rows:
        parts.append(columns.write(rows, folder))
    if not columns.names:
        example = f", e.g. {bad[0][1][:60]!r}" if bad else ""
        raise InputError(
            f"{path}: looks like JSON, but none of its lines is an object{example}. Expected one JSON object a line, "
            "or an array of objects."
        )
    files = ", ".join(literal(pattern(each)) for each in parts)
    listed = ", ".join(
        f"from_json(c{n}, '[\"VARCHAR\"]') AS c{n}" if columns.is_list(n) else f"c{n}"
        for n in range(len(columns.names))
    )
    return SourceTable(
        relation=connection.sql(f"SELECT {listed} FROM read_parquet([{files}], union_by_name = true)"),
        names=columns.names,
        path=path,
        expected=place + 1 - len(bad),
        bad=bad,
    )


class _Columns:
    """The columns that were met so far; of each whether its values are lists."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._lists: set[int] = set()
        self._singles: set[int] = set()

    def is_list(self, number: int) -> bool:
        return number in self._lists and number not in self._singles

    def row(self, record: dict[str, Any]) -> dict[int, str] | None:
        """Column to text; None where two values have one name."""
        row: dict[int, str] = {}
        for name, value in _flat(record, ""):
            number = self._numbers.setdefault(name, len(self._numbers))
            if number == len(self.names):
                self.names.append(name)
            if number in row:
                return None
            if isinstance(value, list):
                self._lists.add(number)
                row[number] = json.dumps(list(_leaves(value)), ensure_ascii=False)
            elif value is not None:
                self._singles.add(number)
                row[number] = value
        return row

    def write(self, rows: list[dict[int, str]], folder: Path) -> Path:
        path = folder / f"{uuid4().hex}.parquet"
        table = {f"c{n}": pa.array([row.get(n) for row in rows], pa.string()) for n in range(len(self.names))}
        pq.write_table(pa.table(table), path)
        return path


def _records(path: Path, plain: Path) -> Iterator[dict[str, Any] | str]:
    """Each object of the file, or the text of a line that is none."""
    with plain.open("rb") as file:
        if file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from _of_array(path, plain)
            return
        file.seek(0)
        for line in file:
            if not (text := line.decode("utf-8", "replace").strip(_BLANK)):
                continue
            try:
                found = _DECODER.decode(line.decode().strip(_BLANK))
            except (ValueError, RecursionError):
                found = None
            yield found if isinstance(found, dict) else text


def _of_array(path: Path, plain: Path) -> Iterator[dict[str, Any]]:
    with plain.open(encoding="utf-8-sig", errors="replace") as file:
        text, whole = file.read(_CHUNK).lstrip(_BLANK)[1:], False
        at = 0
        while True:
            gap = _BETWEEN.match(text, at)
            assert gap is not None
            at = gap.end()
            if text.startswith("]", at):
                if text[at + 1 :].strip(_BLANK) or file.read().strip(_BLANK):
                    raise InputError(f"{path}: something follows its array of JSON objects. Write one array a file.")
                return
            try:
                found, at = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError):
                if whole:
                    raise InputError(
                        f"{path}: its array of JSON objects is cut short or damaged. Copy it again, whole."
                    ) from None
                more = file.read(_CHUNK)
                text, at, whole = text[at:] + more, 0, not more
                continue
            if not isinstance(found, dict):
                raise InputError(f"{path}: its array holds {str(found)[:40]!r}, expected JSON objects.")
            yield found


def _flat(record: dict[str, Any], before: str) -> Iterator[tuple[str, str | list[Any] | None]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, bool):
            yield before + name, str(value).lower()
        else:
            yield before + name, value


def _leaves(values: list[Any]) -> Iterator[str]:
    """The single values in a list, also of lists in it; objects as JSON."""
    for value in values:
        if isinstance(value, list):
            yield from _leaves(value)
        elif isinstance(value, dict | bool):
            yield json.dumps(value, ensure_ascii=False)
        elif value is not None:
            yield value


def _number(text: str) -> str:
    whole = re.fullmatch(r"(-?[0-9]+)\.0+", text)
    return whole[1] if whole else text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one name twice")
    return found


# Numbers stay text, so that no id loses digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=_number, parse_constant=str, object_pairs_hook=_once)
