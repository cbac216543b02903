"""Data frames at the door: pandas, polars, pyarrow and whatever speaks Arrow come in, and pyarrow tables go on."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

ACCEPTED = "a pandas, polars or pyarrow table, or a dictionary of columns"


def table_of(frame: Any, name: str) -> pa.Table:
    """`frame` as a pyarrow table, with text and lists in one layout, and categories as the values they stand for.

    Takes what has the Arrow C stream (`__arrow_c_stream__`: pandas from 2.2 on, polars, DuckDB), the data frame
    protocol (`__dataframe__`), or is a dictionary of columns. `TypeError` for all else, `ValueError` for a table that
    has no rows, that has a column twice, or a column of values that Arrow has no type for; `name` is what messages call
    the table.
    """
    try:
        table = _arrow(frame, name)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{name}: a column cannot be read ({error}); give each column values of one type") from error
    if doubled := sorted({column for column in table.column_names if table.column_names.count(column) > 1}):
        raise ValueError(f"{name}: columns {doubled} come twice; rename or drop one of each")
    if not table.num_rows:
        raise ValueError(f"{name}: has no rows; give at least one")
    # An index of pandas that has no name numbers the rows; one that has a name is a column like others.
    names = [column for column in table.column_names if not column.startswith("__index_level_")]
    return pa.table([_plain(table[column]) for column in names], names=names)


def column_of(table: pa.Table, name: str, *, called: str, meaning: str) -> pa.ChunkedArray:
    """A column that has to be there, without nulls; `ValueError` names the table, the column and what to do."""
    if name not in table.column_names:
        raise ValueError(
            f"{called}: has no column {name!r} ({meaning}), only {table.column_names}; rename yours, or name it with "
            f"{meaning}=…"
        )
    column = table[name]
    if column.null_count:
        raise ValueError(
            f"{called}.{name}: {column.null_count:,} of {len(column):,} rows are null, expected none; drop those rows"
        )
    return column


def keys_of(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Users or items as strings: text as it is, whole numbers in digits. `ValueError` for any other type."""
    kind = column.type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise ValueError(f"{name}: has type {kind}, expected text or whole numbers; cast it before")
    return column.cast(pa.string())


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    several = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view
    return any(each(kind) for each in (*several, pa.types.is_large_list_view))


def _arrow(frame: Any, name: str) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, Mapping):
        return pa.table(dict(frame))
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    if hasattr(frame, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        return from_dataframe(frame)
    raise TypeError(f"{name}: found {type(frame).__name__}, expected {ACCEPTED}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """In the one layout that the rest knows: libraries lay out text and lists in several (polars as views)."""
    usual = _usual(column.type)
    if usual.equals(column.type):
        return column
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        return pa.chunked_array([pa.array(column.to_pylist(), usual)])  # the cast of pyarrow 25 gives an invalid array
    return column.cast(usual)


def _usual(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _usual(kind.value_type)
    if is_text(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(_usual(kind.value_type))
    return kind
