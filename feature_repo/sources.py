"""Where the rows of a view lie, told in the way of the offline store that reads them."""

from collections.abc import Sequence
from pathlib import Path

from feature_repo.feast_import import FileSource, ParquetFormat, SparkSource

_TIMES = {"timestamp_field": "event_time", "created_timestamp_column": "created_time"}


def parquet_source(
    name: str, files: Path, *, key: str, features: Sequence[str], spark: bool
) -> FileSource | SparkSource:
    """The Parquet `files` (a file or a glob) of one view, whose columns are `key`, `features` and the two times.

    Of rows alike in key and both times, the one with the largest values counts. The ASOF store sees to that itself;
    Feast's Spark join would answer with all of them, so its source leaves the others out.
    """
    if not spark:
        return FileSource(name=name, path=str(files), file_format=ParquetFormat(), **_TIMES)
    columns = ", ".join([key, *_TIMES.values(), *features])
    alike = ", ".join([key, *_TIMES.values()])
    largest = ", ".join(f"{feature} DESC" for feature in features)
    # Nothing but the path is in backticks: Feast has Spark read those as regular expressions.
    rows = (
        f"SELECT {columns}, row_number() OVER (PARTITION BY {alike} ORDER BY {largest}) AS place_among_alike "
        f"FROM parquet.`file://{str(files).replace('`', '``')}`"
    )
    return SparkSource(name=name, query=f"SELECT {columns} FROM ({rows}) WHERE place_among_alike = 1", **_TIMES)
