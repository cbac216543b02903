"""CSV files as people have them, to columns of text: whole, in one encoding, each line a row or set aside."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

import duckdb
import pyarrow as pa

from components.ingest.records import rewrite
from components.ingest.source import SourceTable, pattern, scratch
from feature_repo.card_source import Csv
from runtime.errors import InputError
from runtime.sql import literal

SEPARATORS = ",;\t|"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20
_WIDE = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written."""

    delimiter: str
    names: list[str]
    skipped: int
    """Lines before the first row: the header, and Excel's `sep=;`."""
    notes: tuple[str, ...] = field(default=())


def read_csv(path: Path, connection: duckdb.DuckDBPyConnection, how: Csv) -> SourceTable:
    """The file's rows, all values as text. Raises `InputError` where it is cut, or cannot be read as a table at all."""
    plain = _plain(path, connection, how)
    dialect = _dialect(path, plain, how)
    tag = uuid4().hex[:12]
    relation = connection.sql(_scan(plain, dialect.delimiter, len(dialect.names), dialect.skipped, tag))
    names = dialect.names
    return SourceTable(
        relation=_whole(relation, names, how, path),
        names=names,
        path=path,
        rejects=f"rejects_{tag}",
        first_line=dialect.skipped + 1,
        expected=_lines(plain) - dialect.skipped,
        carefully=lambda: _carefully(path, plain, connection, dialect, how),
        notes=dialect.notes,
    )


def _scan(path: Path, delimiter: str, width: int, skip: int, tag: str) -> str:
    # DuckDB's own sniffer lets a few bad lines talk it into another separator; the header alone decides here.
    columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(width))
    return (
        f"SELECT * FROM read_csv({literal(pattern(path))}, columns = {{{columns}}}, delim = {literal(delimiter)}, "
        f"header = false, skip = {skip}, auto_detect = false, quote = '\"', escape = '\"', ignore_errors = true, "
        f"store_rejects = true, rejects_table = 'rejects_{tag}', rejects_scan = 'scan_{tag}', "
        "max_line_size = 16777216)"
    )


def _whole(relation: duckdb.DuckDBPyRelation, names: list[str], how: Csv, path: Path) -> duckdb.DuckDBPyRelation:
    """17.0 as 17, in the columns of which the card says that they hold whole numbers."""
    if not how.whole:
        return relation
    if missing := [name for name in how.whole if name not in names]:
        raise InputError(f"{path}: no column {missing[0]!r} (`whole` in source.csv). Found: {', '.join(names)}.")
    columns = [f"c{names.index(name)}" for name in how.whole]
    listed = ", ".join(f"regexp_replace({each}, '^\\s*([-+]?[0-9]+)[.]0+\\s*$', '\\1') AS {each}" for each in columns)
    return relation.project(f"* REPLACE ({listed})")


def _carefully(
    path: Path, plain: Path, connection: duckdb.DuckDBPyConnection, dialect: Dialect, how: Csv
) -> SourceTable:
    """Record by record: for a file whose lines are not its rows."""
    target = scratch(connection) / f"{uuid4().hex}.csv"
    with plain.open("rb") as file:
        count, bad = rewrite(
            _texts(file, dialect.skipped), target, delimiter=dialect.delimiter, width=len(dialect.names)
        )
    tag = uuid4().hex[:12]
    relation = _whole(connection.sql(_scan(target, ",", len(dialect.names), 0, tag)), dialect.names, how, path)
    return SourceTable(
        relation=relation,
        names=dialect.names,
        path=path,
        expected=count,
        bad=[(row, line, None) for row, line in bad],
        notes=dialect.notes,
    )


def _texts(file: io.BufferedReader, skip: int) -> Iterator[str]:
    for number, line in enumerate(file):
        if number >= skip:
            whole = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
            yield from whole.split("\r")


def _plain(path: Path, connection: duckdb.DuckDBPyConnection, how: Csv) -> Path:
    """The file itself, or a copy of it in scratch: unpacked, as UTF-8, its lines ended by line feeds."""
    with path.open("rb") as file:
        magic = file.read(4)
    packed = magic.startswith((GZIP, ZSTD))
    if packed:
        path = unpacked(path, connection)
    with path.open("rb") as file:
        head = file.read(_CHUNK)
    encoding = how.encoding or _WIDE.get(head[:2], "utf-8")
    old_ends = b"\r" in head and b"\n" not in head and encoding != "utf-16"
    if codecs.lookup(encoding).name in ("utf-8", "ascii") and not old_ends:
        return path
    target = scratch(connection) / f"{uuid4().hex}.csv"
    try:
        errors = "surrogateescape" if codecs.lookup(encoding).name == "utf-8" else "strict"
        with (
            path.open(encoding=encoding, errors=errors, newline=None if old_ends else "") as source,
            target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as copy,
        ):
            while text := source.read(_CHUNK):
                copy.write(text)
    except UnicodeError as error:
        raise InputError(
            f"{path}: is not written in {encoding} ({error.reason if hasattr(error, 'reason') else 'cut short'}). "
            "Correct `encoding` in source.csv of the card, or save the file as UTF-8."
        ) from error
    return target


def is_text(path: Path) -> bool:
    """Whether the file, unpacked, looks like text."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith((GZIP, ZSTD, b"\xff\xfe", b"\xfe\xff")) or not (b"\0" in head or head.startswith(b"PAR1"))


def opened(path: Path) -> BinaryIO:
    """The file's bytes without compression."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(ZSTD):
        return cast("BinaryIO", pa.input_stream(str(path), compression="zstd"))
    return cast("BinaryIO", gzip.GzipFile(path)) if magic.startswith(GZIP) else path.open("rb")


def unpacked(path: Path, connection: duckdb.DuckDBPyConnection) -> Path:
    """A copy without compression; a file that is cut or damaged raises, which DuckDB passes over."""
    target = scratch(connection) / f"{uuid4().hex}.csv"
    try:
        with opened(path) as source, target.open("wb") as copy:
            while chunk := source.read(_CHUNK):
                copy.write(chunk)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(
            f"{path}: is cut short or damaged: it cannot be unpacked to its end. Copy it again, whole."
        ) from error
    return target


def _lines(path: Path) -> int:
    """Lines with something in them, but for several blank ones in a row, of which a few may be counted."""
    count, before, last = 0, b"\n", b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            text = before + chunk
            count += chunk.count(b"\n") - text.count(b"\n\n") - text.count(b"\n\r\n")
            before, last = chunk[-1:], chunk[-1:]
    return count + (last != b"\n")


def _dialect(path: Path, plain: Path, how: Csv) -> Dialect:
    """Separator and column names: the card's, or those of the header."""
    with plain.open("rb") as file:
        lines = [file.readline(_CHUNK).removeprefix(codecs.BOM_UTF8) for _ in range(3)]
    try:
        first, second, third = (line.decode().partition("\r")[0].rstrip("\n") for line in lines)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8. Say what it is written in, for instance `encoding: latin-1` in source.csv of the "
            "card, or save it as UTF-8."
        ) from error
    skipped, delimiter = 0, how.delimiter
    if said := re.fullmatch(r'"?sep=(.)"?', first):  # Excel's word for the separator
        skipped, delimiter, first, second = 1, delimiter or said[1], second, third
    if not first.strip():
        raise InputError(f"{path}: is empty. Expected a CSV with a header of column names.")
    if first.startswith(("{", "[")) or first.startswith("<"):
        raise InputError(
            f"{path}: looks like JSON (not in UTF-8) or XML. Expected CSV, JSON in UTF-8 or Parquet: convert it first."
        )
    delimiter = delimiter or max(SEPARATORS, key=re.sub(r'"[^"]*"', "", first).count)
    width = len(_values(first, delimiter))
    if how.names:
        if width not in (len(how.names), len(how.names) + 1):
            raise InputError(
                f"{path}: its first line has {width} values, source.csv of the card gives {len(how.names)} names; "
                "expected as many."
            )
        return Dialect(delimiter=delimiter, names=list(how.names), skipped=skipped)
    names = [name.strip() for name in _values(first, delimiter)]
    after = _values(second, delimiter) if second.strip() and second.count('"') % 2 == 0 else names
    if len(names) > 1 and not names[-1] and len(after) in (len(names), len(names) - 1):
        names = names[:-1]  # a separator after the last value
    elif len(after) == len(names) + 1 and after[-1].strip():
        raise InputError(
            f"{path}: its rows have one value more than its header has names (as R writes row names). Name all "
            "columns by `names` in source.csv of the card and take the header off, or write the file without row names."
        )
    names = [name or f"column {number}" for number, name in enumerate(names)]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{path}: the header has {', '.join(map(repr, doubled))} twice. Rename one of them; where it has no "
            "header, name its columns by `names` in source.csv of the card."
        )
    return Dialect(delimiter=delimiter, names=names, skipped=skipped + 1)


def _values(line: str, delimiter: str) -> list[str]:
    if len(delimiter) == 1:
        return next(csv.reader([line], delimiter=delimiter), [])
    return line.split(delimiter)
