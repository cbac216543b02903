"""Flipped bits and cut ends in what a process reads when it starts: no crash, and no loss that is not told."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from events import compaction
from events.consumer.erasure import NAME, erased
from events.consumer.state import (
    Exposure,
    State,
    StateDamaged,
    Waiting,
)
from events.partitions import files, write
from events.schema import (
    DamagedEvent,
    LoggedEvent,
    events,
    of_line,
    to_line,
)
from events.stream import _with_id, split_id
from feature_repo.forgotten import Forgotten
from runtime.checksum import Damaged, of_file, to_file
from serving.gateway.access import AccessTokens
from serving.gateway.models import KeyFile
from serving.torchserve.keys import Keys

TIMES = 1_000
NOW = datetime(2026, 1, 5, tzinfo=UTC)


EXPOSURE = {
    "user_id": "u", "variant": "champion", "model_version": "1.0", "time": "2026-01-05T10:00:00+00:00", "status": "ok",
    "items": ["i1", "i2"], "request": '{"user_id": "u", "history": []}',
}  # fmt: skip


def damages(content: bytes, times: int = TIMES, *, seed: int = 0) -> Iterator[bytes]:
    """`content` with one flipped bit, and as often cut short."""
    draw = random.Random(seed)
    for _ in range(times):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)
        yield content[: draw.randrange(len(content))]


@pytest.mark.parametrize("moved", [False, True])
def test_of_a_damaged_line_nothing_is_believed_and_its_neighbours_are_kept(moved: bool) -> None:
    names = [f"r{number}" for number in range(3)]
    sealed = [to_line("exposures", {**EXPOSURE, "request_id": name}) for name in names]
    content = b"".join(_with_id(b"17-%d" % n, {b"event": line}) if moved else line for n, line in enumerate(sealed))
    for damaged in damages(content):
        read: list[Any] = []
        *whole, rest = damaged.split(b"\n")
        for line in [*whole, *([rest] if rest else [])]:
            ident, inner = split_id(line)
            assert ident is None or ident in [(17, number) for number in range(3)]
            read += [found for _, found in events(inner)]
        rows = [found.row for found in read if isinstance(found, LoggedEvent)]
        kept = [row["request_id"] for row in rows]
        lost = 3 - len(kept)
        assert kept == sorted(set(kept)) and set(kept) <= set(names)
        assert all(row["items"] == ["i1", "i2"] for row in rows)
        assert lost <= (1 if len(damaged) == len(content) else 3)
        if len(damaged) == len(content) and lost:
            assert any(isinstance(found, DamagedEvent) for found in read), "a loss is told"


def test_a_line_of_before_checksums_whose_request_is_damaged_is_no_event() -> None:
    old = {"table": "exposures", "schema": 2, **EXPOSURE, "request_id": "r"}
    assert of_line(json.dumps(old).encode()).row["request_id"] == "r"
    for request in ("{", "[]", '{"history": [{}]}', '{"history": [{"event_time": "x"}]}'):
        (_, found), *_ = events(json.dumps({**old, "request": request}).encode())
        assert not isinstance(found, LoggedEvent)


def test_a_sealed_file_is_known_for_damaged_and_one_of_before_is_taken(tmp_path: Path) -> None:
    plain = {"version": 3, "weight": 0.25, "champion": {"digest": "ab" * 32}, "name": "Käse"}
    path = tmp_path / "file.json"
    for damaged in damages(to_file(plain)):
        path.write_bytes(damaged)
        try:
            found = of_file(path)
        except Damaged:
            continue
        # Flipped into another spelling of the same, or the name of the checksum's key was hit: told by its reader.
        assert found == plain or len(found or {}) > len(plain)
    path.write_text(json.dumps(plain))
    assert of_file(path) == plain and of_file(tmp_path / "none") is None


def test_a_damaged_merged_file_stands_for_nothing_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.parquet", pa.table({"request_id": [name]}))
    assert compaction.merge(tmp_path)
    (merged,) = files(tmp_path)
    content = merged.read_bytes()
    for damaged in damages(content, 100):
        merged.write_bytes(damaged)
        found = {path.name for path in files(tmp_path)}
        assert found >= {merged.name} and found - {merged.name} in (set(), {"a.parquet", "b.parquet"})
    merged.write_bytes(content[:-8])
    caplog.clear()
    assert len(files(tmp_path)) == 3 and f"{merged}: is damaged" in caplog.text


def test_deletions_are_carried_out_again_where_the_word_of_them_is_damaged(tmp_path: Path) -> None:
    told = {"a" * 64: 17, "b" * 64: 18}
    for damaged in damages(to_file(told)):
        (tmp_path / NAME).write_bytes(damaged)
        found = erased(tmp_path)
        # Where the name of the checksum's key was hit the rest is as it was, and that name is no user's.
        assert {user: at for user, at in found.items() if len(user) == 64} in (told, {})


def test_a_damaged_line_of_deletions_is_told_and_the_others_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, users = tmp_path / "forgotten.txt", [f"u{number}" for number in range(4)]
    Forgotten(path).add(users, NOW)
    content = path.read_bytes()
    right = Forgotten(path).until()
    for damaged in damages(content):
        caplog.clear()
        path.write_bytes(damaged)
        found = Forgotten(path).until()
        assert found.items() <= right.items()
        if len(damaged) == len(content):
            # A lost line break takes two lines, and behind the last one it looks like a line that is being written.
            assert len(found) >= 2 and (len(found) == 4 or caplog.messages or damaged[-1:] != b"\n")
    old = b"".join(line.rpartition(b" ")[0] + b"\n" for line in content.splitlines())
    path.write_bytes(old)
    assert Forgotten(path).until() == right, "a list of before there were checksums"


def test_a_damaged_line_of_tokens_shuts_out_its_shop_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokens = [f"token-number-{number}-of-a-shop" for number in range(4)]
    content = "\n".join(tokens).encode()
    path = tmp_path / "tokens"
    monkeypatch.setenv("T_FILE", str(path))
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            found = AccessTokens.configured("T")
        except ValueError:
            assert len(damaged) < len(tokens[0]), "not one line is whole"
            continue
        assert found is not None
        if len(damaged) == len(content):
            assert sum(map(found.hold, tokens)) >= 2, "a lost line break takes two"


def test_damaged_keys_are_no_keys_and_the_last_one_known_holds_where_there_is_none(tmp_path: Path) -> None:
    lasting = {"key": "k" * 8, "expiration time": "2026-01-05T10:00:00.123456789Z"}
    told = {"inference": lasting, "management": lasting, "API": {"key": "k" * 8}}
    path, published = tmp_path / "key_file.json", tmp_path / "inference.key"
    keys, right = Keys(tmp_path), KeyFile(published)
    published.write_text("k" * 8)
    assert right.key() == "k" * 8
    for damaged in damages(json.dumps(told).encode()):
        path.write_bytes(damaged)
        with suppress(ConnectionError):
            assert keys.read().keys() == told.keys()
        published.write_bytes(damaged[-8:])
        with suppress(ValueError):  # more than a key, or no text: a call that failed, and says why
            assert len(right.key().split()) <= 1
    published.unlink()
    right.key()


def filled(path: Path) -> State:
    state = State(path)
    with state.transaction():
        state.advance("1-a.jsonl", 1234)
        state.set_stream_id((17, 3))
        state.add_exposures((f"r{n}", Exposure(f"u{n}", ("i1", "i2"), NOW, "1.0", False)) for n in range(60))
        state.keep_waiting(Waiting(0, 5, NOW, b"line"))
        for number in range(20):
            state.note_history(f"u{number}", {"item_id": "i1", "number": number})
            state.note_row("interactions", {"item_id": "i1", "number": number})
        state.add_erased(["gone"], NOW)
        state.impressions.answer("r1", "i1", 5)
        state.impressions.changed(["u1"])
    state.filled()
    return state


def seen(state: State) -> Any:
    noted = state.histories(100), [state.exposure(f"r{n}") for n in range(60)], state.waiting(), state.erased()
    state.open_batch()
    told = state.impressions.untold(9), [state.impressions.of("u1", 0, lambda user, at: False)]
    return state.name, state.offset("1-a.jsonl"), state.stream_id(), noted, told, [rows for _, rows in state.batches()]


def test_a_damaged_state_is_known_for_it_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "consumer.db"
    state = filled(path)
    state._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    state.close()
    content = path.read_bytes()
    right = seen(state := State(path))
    state.close()
    known = 0
    for damaged in damages(content, 120):
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(damaged)
        try:
            state = State(path)
        except StateDamaged:
            known += 1
            continue
        if not state.new:
            assert seen(state) == right, "what is damaged and opens all the same holds what was written"
        state.close()
    assert known > 40
