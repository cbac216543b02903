"""The many small files of a day become one, while others read them.

The merged file names those that it stands for. It appears in one moment, and from then on `partitions.files` passes
the others over; they are removed later, when whoever had listed them before has read them.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from events.durable import appearing, sync_folder
from events.partitions import (
    DIGEST,
    INSTEAD_OF,
    digest,
    files,
    merged_name,
    superseded,
)

READERS_SECONDS = 3600.0
"""So long after a merge somebody may still read the files of before."""
_GROUP_BYTES = 64_000_000
"""Of memory; a row group of the merged file."""


def merge(day: Path) -> bool:
    """Let the folder `day` have one file that counts; whether there was anything to do. May be killed and repeated.

    What is merged is durable when this returns. Only the process that writes the day may call it. Raises `OSError`.
    """
    small = files(day)
    if len(small) < 2:
        return False
    names = json.dumps([path.name for path in small]).encode()
    schema = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in small])
    said = {INSTEAD_OF: names, DIGEST: digest(small).encode()}
    with (
        appearing(day / merged_name(names)) as file,
        pq.ParquetWriter(file, schema.with_metadata(said), compression="zstd") as writer,
    ):
        _copy(small, schema, writer)
    return True


def _copy(small: Sequence[Path], schema: pa.Schema, writer: pq.ParquetWriter) -> None:
    gathered, size = [schema.empty_table()], 0
    for path in small:
        table = pq.ParquetFile(path).read().replace_schema_metadata()
        gathered.append(table)
        size += table.nbytes
        if size > _GROUP_BYTES:
            writer.write_table(pa.concat_tables(gathered, promote_options="default"))
            gathered, size = [schema.empty_table()], 0
    writer.write_table(pa.concat_tables(gathered, promote_options="default"))


def drop_superseded(day: Path, *, older_than: float = READERS_SECONDS) -> int:
    """Remove the files that a merged one of `day` stands for since `older_than` seconds; how many went."""
    present = sorted(day.glob("*.parquet"))
    settled = [path for path in present if time.time() - path.stat().st_mtime >= older_than]
    gone = superseded(settled)
    # In the order of names, in which a merged file that was merged again comes behind those that it stands for.
    found = [path for path in present if path.name in gone]
    for path in found:
        path.unlink()
    if found:
        sync_folder(day)
    return len(found)
