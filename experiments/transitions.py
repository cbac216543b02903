"""The moves of a running experiment: raise, promote, roll back, end the watch, pause, readmit; pure functions."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from experiments.document import LONGEST_REST, REST, Rollout, SentBack, opened

Salt = Callable[[], str]


class WrongMove(ValueError):
    """The move is not open to this document; the message says why, and what is."""


def raise_weight(rollout: Rollout, weight: float, *, now: datetime) -> Rollout:
    """The next stage, at `weight`. Never less than before: a shopper who met the challenger keeps it."""
    if rollout.challenger is None or rollout.stage is None:
        raise WrongMove(f"{rollout.model}: no experiment runs, so there is no weight to raise")
    if weight <= rollout.weight:
        raise WrongMove(
            f"{rollout.model}: weight {weight:.0%} is not above {rollout.weight:.0%}; to lower it, roll back"
        )
    return replace(rollout, stage=rollout.stage + 1, weight=weight, since=now)


def promote(rollout: Rollout, *, now: datetime) -> Rollout:
    """The challenger becomes champion; the former champion stays loaded until `end_watch`.

    The salt stays until then, so that the log of the watch belongs to the experiment.
    """
    if rollout.challenger is None:
        raise WrongMove(f"{rollout.model}: no challenger serves, so there is nothing to promote")
    return replace(
        rollout,
        champion=rollout.challenger,
        former=rollout.champion,
        challenger=None,
        stage=None,
        weight=0.0,
        since=now,
        paused=False,
    )


def roll_back(rollout: Rollout, *, now: datetime, salt: Salt, effective: float = 0.0, change: float = 0.0) -> Rollout:
    """Take the challenger out, or in the watch after a promotion bring the former champion back; in one step.

    Its recipe then rests. `effective` and `change` are what the experiment found, see `SentBack`.
    """
    if rollout.challenger is not None:
        out, alone = rollout.challenger, replace(rollout, challenger=None, stage=None, weight=0.0)
    elif rollout.former is not None:
        assert rollout.champion is not None
        out, alone = rollout.champion, replace(rollout, champion=rollout.former, former=None)
    else:
        raise WrongMove(f"{rollout.model}: no challenger and no former champion is loaded, so there is no way back")
    before = rollout.sent_back_of(out.recipe_digest)
    times = before.times + 1 if before else 1
    known = before or SentBack(recipe_digest=out.recipe_digest, until=now)
    known = replace(known.with_evidence(effective, change), times=times, until=now + _rest(times))
    others = tuple(each for each in rollout.sent_back if each.recipe_digest != out.recipe_digest)
    alone = replace(alone, sent_back=(*others, known))
    return _next(replace(alone, salt="", since=now, paused=False), now=now, salt=salt)


def end_watch(rollout: Rollout, *, now: datetime, salt: Salt) -> Rollout:
    """Let the former champion go: its successor is now what refreshes are held against. The candidate that waited
    longest, if any, opens its experiment."""
    if rollout.former is None:
        raise WrongMove(f"{rollout.model}: no former champion is loaded, so no watch runs")
    # What was found of other recipes was found against the former champion.
    alone = replace(rollout, former=None, reference=rollout.champion, salt="", since=now, paused=False, sent_back=())
    return _next(alone, now=now, salt=salt)


def pause(rollout: Rollout, paused: bool) -> Rollout:
    """Hold the experiment (or the watch) where it is, or let it go on."""
    if rollout.challenger is None and rollout.former is None:
        raise WrongMove(f"{rollout.model}: no experiment runs, so there is nothing to pause or resume")
    if rollout.paused == paused:
        raise WrongMove(f"{rollout.model}: it is {'paused already' if paused else 'not paused'}")
    return replace(rollout, paused=paused)


def readmit(rollout: Rollout, *, now: datetime) -> Rollout:
    """Let every recipe that rests be tried again; what was found of it stays known."""
    if not any(each.until > now for each in rollout.sent_back):
        raise WrongMove(f"{rollout.model}: no recipe rests, so there is none to readmit")
    return replace(rollout, sent_back=tuple(replace(each, until=min(each.until, now)) for each in rollout.sent_back))


def _rest(times: int) -> timedelta:
    return min(REST * (1 << min(times - 1, 10)), LONGEST_REST)


def _next(rollout: Rollout, *, now: datetime, salt: Salt) -> Rollout:
    if not rollout.queue:
        return rollout
    return opened(replace(rollout, queue=rollout.queue[1:]), rollout.queue[0], now=now, salt=salt)
