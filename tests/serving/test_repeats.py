"""Events told many times, by clocks that differ, by one who tells too much: each counts once, or a number moves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from events.consumer.noting import MOST_AN_HOUR, WAIT
from events.schema import to_line
from events.segments import SegmentSink
from runtime.clocks import TOLERANCE
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)


@pytest.fixture
def transport(tmp_path: Path) -> Transport:
    fill(tmp_path)
    return Transport(tmp_path)


def write(transport: Transport, *events: tuple[str, dict[str, Any]]) -> None:
    sink = SegmentSink(transport.log)
    sink.open()
    sink.write([to_line(*event) for event in events])
    sink.close()


def consumed(transport: Transport) -> dict[str, float]:
    """The consumer's counters of interactions and of what is set aside, by their labels."""
    with transport.consumer() as consumer:
        transport.settle(consumer)
        samples = [sample for metric in consumer.metrics.registry.collect() for sample in metric.samples]
    named = ("consumer_interactions_total", "consumer_set_aside_total", "consumer_outcomes_before_exposure_total")
    return {
        next(iter(sample.labels.values()), "early"): sample.value
        for sample in samples
        if sample.name in named and sample.value
    }


def test_an_event_told_again_is_one_and_its_key_tells_two_apart(transport: Transport) -> None:
    began = datetime.now(UTC) + timedelta(seconds=1)
    write(transport, ("exposures", exposure("r1", "u1", ["i3", "i4"])))
    retries = [outcome("r1", "i3", time=(began + timedelta(seconds=n)).isoformat()) for n in range(30)]
    twice = [outcome("r1", "i4", key=key) for key in ("first", "second", "first")]
    write(transport, *(("outcomes", each) for each in [*retries, *twice]))
    assert consumed(transport) == {"added": 3, "repeated": 30}
    write(transport, ("outcomes", outcome("r1", "i3")), ("outcomes", outcome("r1", "i4", key="second")))
    assert consumed(transport) == {"repeated": 2}, "also after a restart"
    assert sorted(row["item_id"] for row in transport.rows("interactions")) == ["i3", "i4", "i4"]


def test_an_outcome_without_its_exposure_waits_its_time_and_is_then_set_aside_and_counted(transport: Transport) -> None:
    write(transport, ("outcomes", outcome("nobody-s", "i3")))
    moments, counted = [datetime.now(UTC)], []
    with transport.consumer(clock=lambda: moments[-1]) as consumer:
        unmatched = consumer.metrics.interactions.labels("unmatched")
        for later in (timedelta(), WAIT / 2, WAIT + timedelta(seconds=1)):
            moments.append(moments[0] + later)
            transport.settle(consumer)
            counted.append(unmatched._value.get())
    assert counted == [0, 0, 1]
    assert ["no exposure was logged" in row["reason"] for row in transport.rows("set_aside")] == [True]


def test_clocks_may_differ_by_the_tolerance_and_what_is_further_off_is_counted(transport: Transport) -> None:
    now = datetime.now(UTC)
    fast = (now + TOLERANCE - timedelta(minutes=1)).isoformat()  # of the gateway that logged the exposure
    write(
        transport,
        ("exposures", exposure("r1", "u1", ["i3"], time=fast)),
        ("outcomes", outcome("r1", "i3", time=now.isoformat())),
        ("exposures", exposure("r2", "u1", ["i4"], time=(now + 2 * TOLERANCE).isoformat())),
        ("outcomes", outcome("r2", "i4", time=now.isoformat())),
    )
    assert consumed(transport) == {"added": 1, "early": 1, "time": 1, "refused": 1}
    (row,) = transport.rows("set_aside")
    assert "by clocks that differ by 1:00:00 at most" in row["reason"]


def test_nobody_does_more_in_an_hour_than_a_history_holds(transport: Transport) -> None:
    told = [outcome("r1", "i3", key=f"k{number}") for number in range(MOST_AN_HOUR + 7)]
    write(transport, ("exposures", exposure("r1", "u1", ["i3"])), *(("outcomes", each) for each in told))
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    found = consumed(transport)
    assert (found["too_many"], found["refused"]) == (7, 7)
    write(transport, ("outcomes", outcome("r1", "i3", key="after a while", received=later)))
    assert "too_many" not in consumed(transport)
    assert len(transport.rows("interactions")) == MOST_AN_HOUR + 1
