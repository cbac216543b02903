"""Tables of any dialect, types and order through ingest: no traceback, every record accounted for, the same in parts.

A few examples of fixed seeds as a test; `make fuzz-ingest` goes on with others for ten minutes (FUZZ_SECONDS).
"""

import csv
import gzip
import io
import os
import time
from collections.abc import Callable
from datetime import (
    UTC,
    datetime,
    timedelta,
    timezone,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import (
    HealthCheck,
    given,
    seed,
    settings,
)
from hypothesis import strategies as st

from feature_repo.card import DatasetCard
from feature_repo.keys import MOST_CHARACTERS, is_nobody, spelled
from runtime.errors import InputError
from tests.component.ingest_cards import (
    ingest,
    interactions_of,
    make_card,
    rows,
)

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES = 6
ZONE = timezone(timedelta(hours=1))
"""Of the card, Africa/Lagos, whose clocks never change."""
COLUMNS = {"user_id": "who", "item_id": "what", "event_time": "when"}
NOTE = {"name": "note", "kind": "categorical", "table": "interactions", "varies_in_time": True}

ids = st.sampled_from(["u1", "u2", "007", "7", "1.0", "1", "1e3", " u1", "u2\t", "\ufeffu1", "NULL", "guest",
                       "", " ", "é", "x" * 201, "O'Neil",
                       'say "hi"', "a,b", "a;b", "0"])  # fmt: skip
notes = st.sampled_from(["", "plain", "two\nlines", 'a "quoted" word', 'one "', "x,y;z", "'", "\\", "tab\there", "é"])
moments = st.integers(0, 40).map(lambda n: datetime(2025, 3, 1, 22, 30) + timedelta(hours=7 * n))
WRITTEN: dict[str, Callable[[datetime], tuple[str, datetime | None]]] = {
    "naive": lambda m: (f"{m:%Y-%m-%d %H:%M:%S}", m.replace(tzinfo=ZONE)),
    "utc": lambda m: (f"{m:%Y-%m-%dT%H:%M:%S}Z", m.replace(tzinfo=UTC)),
    "offset": lambda m: (f"{m:%Y-%m-%d %H:%M:%S}-03:30", m.replace(tzinfo=timezone(timedelta(hours=-3.5)))),
    "named": lambda m: (f"{m:%Y-%m-%d %H:%M:%S} EST", m.replace(tzinfo=timezone(timedelta(hours=-5)))),
    "date": lambda m: (f"{m:%Y-%m-%d}", m.replace(hour=0, minute=0, tzinfo=ZONE)),
    "epoch": lambda m: (str(int(m.replace(tzinfo=UTC).timestamp())), m.replace(tzinfo=UTC)),
    "nothing": lambda m: ("", None),
    "garbage": lambda m: ("soon", None),
}
records = st.lists(st.tuples(ids, ids, moments, st.sampled_from(sorted(WRITTEN)), notes), max_size=25)
dialects = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "ends": st.sampled_from(["\n", "\r\n"]),
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
        "packed": st.booleans(),
        "trailing": st.booleans(),
        "said": st.booleans(),
    }
)


def accepted(told: list[tuple[str, str, datetime | None]]) -> list[tuple[str, str, datetime]]:
    """What must be left of records, by the rules as they are written down."""
    found: dict[tuple[str, str, datetime], None] = {}
    for user, item, moment in told:
        user, item = spelled(user), spelled(item)
        if moment and user and item and not is_nobody(user) and max(len(user), len(item)) <= MOST_CHARACTERS:
            found[user, item, moment.astimezone(UTC)] = None
    return list(found)


def card_of(folder: Path, interactions: Path) -> DatasetCard:
    card = make_card(folder, columns=COLUMNS, features=[NOTE], source={"timezone": "Africa/Lagos"})
    return card.model_copy(update={"source": card.source.model_copy(update={"interactions": interactions})})


def ingested(folder: Path, card: DatasetCard, name: str, **more: Any) -> tuple[dict[str, Any], Path] | None:
    """None where it was refused in a sentence."""
    (folder / name).mkdir()
    try:
        report, events = ingest(card, folder / name, **more)
    except InputError as error:
        assert "Error" not in str(error) and "duckdb" not in str(error).lower() and str(error).endswith(".")
        return None
    assert report["rows"] == report["accepted"] + report["rejected"]
    assert len(rows(events, "rejected.parquet")) == report["rejected"] + report.get("item_rejected", 0)
    return report, events


def events_of(events: Path) -> set[tuple[str, str, datetime]]:
    if not any(events.glob("interactions/*/*.parquet")):
        return set()
    return {(row["user_id"], row["item_id"], row["event_time"]) for row in interactions_of(events)}


def as_csv(table: list[Any], how: dict[str, Any]) -> bytes:
    text = io.StringIO()
    if how["said"]:
        text.write(f"sep={how['delimiter']}{how['ends']}")
    writer = csv.writer(text, delimiter=how["delimiter"], quoting=how["quoting"], lineterminator=how["ends"])
    for row in [["who", "what", "when", "note"], *table]:
        writer.writerow([*row, ""] if how["trailing"] else row)
    content = text.getvalue().encode(how["encoding"])
    return gzip.compress(content) if how["packed"] else content


def any_csv(entries: list[Any], how: dict[str, Any]) -> None:
    """What a writer of CSV wrote is read back, record by record."""
    told = [(user, item, WRITTEN[kind](moment)) for user, item, moment, kind, _ in entries]
    table = [[user, item, text, note] for (user, item, (text, _)), (*_, note) in zip(told, entries, strict=True)]
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "clicks").write_bytes(as_csv(table, how))
        done = ingested(folder, card_of(folder, folder / "clicks"), "a")
        if done is None:  # only where no time at all can be read
            assert all(moment is None for *_, (_, moment) in told)
            return
        report, events = done
        assert report["rows"] == len(table), report
        assert events_of(events) == set(accepted([(user, item, moment) for user, item, (_, moment) in told]))


def any_bytes(entries: list[Any], how: dict[str, Any], dirt: list[tuple[int, bytes]]) -> None:
    """With anything thrown in: read or refused, and counted."""
    table = [[user, item, WRITTEN[kind](moment)[0], note] for user, item, moment, kind, note in entries]
    content = as_csv(table, {**how, "packed": False})
    for at, piece in dirt:
        content = content[: at % (len(content) + 1)] + piece + content[at % (len(content) + 1) :]
    with TemporaryDirectory() as place:
        (Path(place) / "clicks").write_bytes(content)
        ingested(Path(place), card_of(Path(place), Path(place) / "clicks"), "a")


USERS: dict[str, Callable[[list[int]], pa.Array]] = {
    "int": lambda ns: pa.array(ns, pa.int64()),
    "double": lambda ns: pa.array(ns, pa.float64()),
    "text": lambda ns: pa.array(map(str, ns), pa.string()),
    "decimal": lambda ns: pa.array(ns, pa.decimal128(20, 0)).cast(pa.decimal128(30, 5)),
}
TIMES: dict[str, Callable[[list[datetime]], tuple[pa.Array, list[datetime]]]] = {
    "naive": lambda ms: (pa.array(ms, pa.timestamp("us")), [m.replace(tzinfo=ZONE) for m in ms]),
    "utc": lambda ms: (pa.array(ms, pa.timestamp("ns", "UTC")), [m.replace(tzinfo=UTC) for m in ms]),
    "text": lambda ms: (pa.array([m.isoformat() + "Z" for m in ms], pa.string()), [m.replace(tzinfo=UTC) for m in ms]),
    "date": lambda ms: (pa.array([m.date() for m in ms], pa.date32()),
                        [m.replace(hour=0, minute=0, tzinfo=ZONE) for m in ms]),
    "epoch": lambda ms: (pa.array([int(m.replace(tzinfo=UTC).timestamp()) for m in ms], pa.int64()),
                         [m.replace(tzinfo=UTC) for m in ms]),
}  # fmt: skip
NOTES = [pa.array([], pa.string()), pa.array([], pa.int32()), pa.array([], pa.null()), pa.array([], pa.float64())]
parts = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), moments), min_size=1, max_size=8),
        st.sampled_from(sorted(USERS)), st.sampled_from(sorted(TIMES)), st.integers(0, len(NOTES) - 1),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def any_parts(given_parts: list[Any]) -> None:
    """Parts of other types, in one go and in two: the same events, and those that were written."""
    told: list[tuple[str, str, datetime | None]] = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "parts").mkdir()
        card = card_of(folder, folder / "parts")
        before: Path | None = None
        for number, (entries, users, times, note) in enumerate(given_parts):
            written, meant = TIMES[times]([moment for *_, moment in entries])
            told += [(str(u), f"i{i}", m) for (u, i, _), m in zip(entries, meant, strict=True)]
            table = {"who": USERS[users]([u for u, *_ in entries]), "what": [f"i{i}" for _, i, _ in entries],
                     "when": written, "note": pa.nulls(len(entries), NOTES[note].type)}  # fmt: skip
            pq.write_table(pa.table(table), folder / "parts" / f"{number}.parquet")
            if number == len(given_parts) - 2:
                done = ingested(folder, card, "before")
                assert done is not None
                before = done[1]
        (whole, from_scratch), (again, in_two) = (
            done for name, previous in (("scratch", None), ("again", before))
            if (done := ingested(folder, card, name, previous=previous)) is not None
        )  # fmt: skip
        assert events_of(from_scratch) == events_of(in_two) == set(accepted(told))
        assert whole["rows"] == again["rows"] == len(told)
        assert (whole["reasons"], whole["accepted"]) == (again["reasons"], again["accepted"])


def fuzz(check: Callable[..., None], *strategies: Any) -> None:
    """Some examples that are always the same, or others for `FUZZ_SECONDS`."""
    until, number = time.monotonic() + SECONDS / 3, 0
    while number == 0 or time.monotonic() < until:
        some = settings(max_examples=100 if SECONDS else EXAMPLES, deadline=None, database=None, print_blob=True,
                        suppress_health_check=list(HealthCheck))  # fmt: skip
        seed(number if not SECONDS else time.time_ns() % 2**32)(some(given(*strategies)(check)))()
        number += 1


def test_what_a_writer_of_csv_wrote_is_read_back() -> None:
    fuzz(any_csv, records, dialects)


def test_whatever_is_thrown_in_is_counted_or_refused() -> None:
    pieces = st.sampled_from(
        [b'"', b"\n", b"\r", b"\x00", b"\xff", b'","', b'"\n"', b"\n,,,\n", b"\xef\xbb\xbf", b"a\nb", b'\n"x\n']
    )
    fuzz(any_bytes, records, dialects, st.lists(st.tuples(st.integers(0, 10_000), pieces), min_size=1, max_size=4))


def test_parts_of_any_types_are_the_same_in_one_go_and_in_two() -> None:
    fuzz(any_parts, parts)
