"""Damage met by processes as they start: the consumer goes on or makes its state anew, an archive is never opened."""

import logging
from pathlib import Path
from typing import Any

import pytest

from events import segments
from events.schema import to_line
from events.segments import SegmentSink
from serving.gateway.archive import read_contents
from serving.torchserve import archive
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)
from tests.serving.test_damage import damages


def test_a_damaged_archive_is_never_opened(mar: Path, tmp_path: Path) -> None:
    right, path = archive.digest(mar), tmp_path / "m.mar"
    content = mar.read_bytes()
    for damaged in damages(content, 60):
        path.write_bytes(damaged)
        for reader in (lambda: read_contents(path, right), lambda: archive.check(path, right)):
            with pytest.raises(ValueError, match="digest"):
                reader()
    # One that was released as it is, and is no archive of ours: whatever zipfile makes of it.
    for damaged in damages(content[-4000:], 60):
        path.write_bytes(content[:-4000] + damaged)
        for known in (lambda: read_contents(path, archive.digest(path)), lambda: archive.identity(path)):
            try:
                known()
            except ValueError:
                continue


def test_the_state_is_made_anew_from_the_log_and_nothing_is_lost_or_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)

    def write(*events: tuple[str, dict[str, Any]]) -> None:
        sink = SegmentSink(transport.log)
        sink.open()
        sink.write([to_line(*line) for line in events])
        sink.close()

    write(
        ("exposures", exposure("r1", "u1", ["i3", "i4"])),
        ("exposures", exposure("r2", "u2", ["i5"])),
        ("outcomes", outcome("r1", "i4")),
    )
    with transport.consumer() as consumer:
        transport.settle(consumer)
    assert not segments.segments(transport.log), "it is in partitions by now"
    # In no partition yet: noted, and not written to the history, as while the store is away.
    write(("outcomes", outcome("r2", None)))
    database = transport.log / "consumer.db"
    database.write_bytes(database.read_bytes()[:-5000])
    caplog.set_level(logging.ERROR)
    with transport.consumer() as consumer:
        transport.settle(consumer)
        assert consumer.metrics.registry.get_sample_value("consumer_failures_total", {"part": "state"}) == 1
    assert "made anew from the log" in caplog.text
    assert sorted(row["item_id"] for row in transport.rows("interactions")) == ["i4", "i5"]
    assert transport.history("u1")[-1].item_id == "i4" and transport.history("u2")[-1].item_id == "i5"
    with transport.consumer() as consumer:
        assert not consumer._state.new and consumer._state.exposure("r1") is not None


def test_a_damaged_record_is_set_aside_with_its_place_and_reading_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    sink = SegmentSink(transport.log)
    sink.open()
    written = [to_line("exposures", exposure(f"r{n}", "u1", ["i3"])) for n in range(4)]
    sink.write([*written, to_line("outcomes", outcome("r3", "i3"))])
    sink.close()
    (path,) = segments.segments(transport.log)
    content = bytearray(path.read_bytes())
    content[len(written[0]) + 40] ^= 4  # in the second record
    content[sum(map(len, written[:3])) - 1] ^= 1  # the line break behind the third
    content[-1] ^= 1  # the last one: acknowledged, and without an end now
    path.write_bytes(bytes(content))
    caplog.set_level(logging.ERROR)
    with transport.consumer() as consumer:
        transport.settle(consumer)
        count = consumer.metrics.registry.get_sample_value
        assert count("consumer_set_aside_total", {"why": "damaged"}) == 3
        assert count("consumer_interactions_total", {"result": "added"}) == 1
    assert f"{path}, offset {len(written[0])}: set aside" in caplog.text
    assert {row["request_id"] for row in transport.rows("exposures")} == {"r0", "r2", "r3"}
    assert len(transport.rows("outcomes")) == 1 and len(transport.rows("set_aside")) == 3
    assert not segments.segments(transport.log)


@pytest.mark.parametrize("known", [False, True])
def test_what_is_damaged_between_reading_and_its_day_is_told_once_and_what_followed_from_it_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    sink = SegmentSink(transport.log)
    sink.open()
    written = [to_line("exposures", exposure(f"r{n}", "u1", ["i3"])) for n in range(3)]
    sink.write([*written, to_line("outcomes", outcome("r1", "i3"))])
    (path,) = segments.segments(transport.log)
    caplog.set_level(logging.ERROR)

    def damage() -> None:
        content = bytearray(path.read_bytes())
        content[len(written[0]) + 40] ^= 4
        path.write_bytes(bytes(content))

    if known:
        damage()
    with transport.consumer() as consumer:
        consumer.round()  # its writer lives: what is read cannot be retired yet
        if not known:
            damage()
        sink.close()
        transport.settle(consumer)
        count = consumer.metrics.registry.get_sample_value
        assert count("consumer_set_aside_total", {"why": "damaged"}) == 1
        assert (count("consumer_interactions_total", {"result": "added"}) == 1) is not known
    assert {row["request_id"] for row in transport.rows("exposures")} == {"r0", "r2"}
    damaged = [row for row in transport.rows("set_aside") if "no event" in row["reason"]]
    assert len(damaged) == 1 and caplog.text.count(f"{path}, offset {len(written[0])}: ") == 1
    assert ("damaged since it was read" in caplog.text) is not known


def test_what_is_in_a_partition_while_its_outcome_is_in_a_segment_is_not_doubled_when_the_state_is_lost(
    tmp_path: Path,
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    sink = SegmentSink(transport.log)
    sink.open()
    shown = [("exposures", exposure(f"r{n}", f"u{n}", [f"i{n}"])) for n in range(3)]
    sink.write([to_line(*event) for event in shown])
    for lost in range(3):
        # Read and written to its partition; the segment stays, as its writer lives.
        sink.write([to_line("outcomes", outcome(f"r{lost}", f"i{lost}"))])
        with transport.consumer() as consumer:
            while consumer.round():
                pass
            consumer.round(flush=True)
            assert not consumer.problems
        assert sorted(row["item_id"] for row in transport.rows("interactions")) == [f"i{n}" for n in range(lost + 1)]
        (transport.log / "consumer.db").unlink()
    sink.close()
    with transport.consumer() as consumer:
        transport.settle(consumer)
    assert sorted(row["item_id"] for row in transport.rows("interactions")) == ["i0", "i1", "i2"]
    assert [transport.history(f"u{n}")[-1].item_id for n in range(3)] == ["i0", "i1", "i2"]
    assert not segments.segments(transport.log)


def test_a_segment_stays_until_what_was_damaged_in_it_is_in_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    sink = SegmentSink(transport.log)
    sink.open()
    sink.write([to_line("exposures", exposure("r0", "u1", ["i3"]))])
    (path,) = segments.segments(transport.log)
    with transport.consumer() as consumer:
        consumer.round()
        sink.close()
        content = bytearray(path.read_bytes())
        content[40] ^= 4
        path.write_bytes(bytes(content))
        calls, write = iter(range(10)), consumer._delivery.partitions

        def full() -> None:
            if next(calls):
                raise OSError("no room")
            write()

        monkeypatch.setattr(consumer._delivery, "partitions", full)
        consumer.round(flush=True)
        assert path.exists() and "partitions" in consumer.problems
        monkeypatch.undo()
        transport.settle(consumer)
    assert not path.exists() and len(transport.rows("set_aside")) >= 1
