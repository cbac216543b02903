"""When a version goes out of traffic, and when it comes back."""

import pytest

from serving.gateway.breaker import (
    DOUBT_SECONDS,
    FAILURES,
    REST_SECONDS,
    Breaker,
)


def test_a_version_is_out_within_two_seconds_of_its_first_failure_and_comes_back_after_one_good_trial() -> None:
    now = [0.0]
    quick, slow = Breaker(lambda: now[0]), Breaker(lambda: now[0])
    for _ in range(FAILURES):
        assert quick.allows()
        quick.failed()
    assert not quick.allows()
    slow.failed()  # one failure, then silence
    assert slow.allows()
    now[0] = DOUBT_SECONDS
    assert DOUBT_SECONDS < 2 and not slow.allows()
    now[0] += REST_SECONDS
    assert slow.allows() and not slow.allows(), "one trial at a time"
    slow.failed()
    assert not slow.allows()
    now[0] += REST_SECONDS
    assert slow.allows()
    slow.succeeded()
    assert slow.allows() and slow.allows()


def test_single_failures_among_answers_take_nothing_out() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(20):
        breaker.failed()
        breaker.succeeded()
        now[0] += 1
        assert breaker.allows()


@pytest.mark.parametrize("failures", [FAILURES, 1])
def test_a_version_that_nobody_asks_is_out_by_its_probes_and_back_with_the_next_good_one(failures: int) -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(failures):
        breaker.failed("probe")
    now[0] = DOUBT_SECONDS
    assert breaker.open and not breaker.allows()
    breaker.succeeded("probe")
    assert not breaker.open and breaker.allows()


def test_good_probes_do_not_hide_that_every_shopper_is_failed() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(FAILURES):
        breaker.failed()
        breaker.succeeded("probe")
    assert breaker.open and not breaker.allows()


def test_three_failures_in_a_row_are_out_and_five_seconds_later_one_shopper_tries() -> None:
    """In numbers, not by the constants' names: what the runbook and the soak promise."""
    now = [100.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(2):
        breaker.failed()
    assert breaker.allows() and not breaker.open
    breaker.failed()
    assert not breaker.allows()
    now[0] = 104.99
    assert not breaker.allows()
    now[0] = 105.0
    assert breaker.allows()
    single = Breaker(lambda: now[0])
    single.failed()
    now[0] = 105.99
    assert single.allows()
    now[0] = 106.0
    assert not single.allows(), "a second of silence after a failure"
