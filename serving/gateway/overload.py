"""More requests than the machine can answer: how many may be in flight, and what those beyond get.

The bound follows what the machine can do. It rises by one for each round of answers that came in time and falls by a
part as soon as one did not (additive increase, multiplicative decrease: Chiu and Jain 1989; by latency, as no request
is lost here). Beyond it a shopper gets an answer from memory, without store and model, as long as these cost little
beside the others, and then none: a refusal that costs next to nothing, and is worth trying again. Where the loop itself
has more to do than it can, which no answer's latency shows, answers from memory go first and then the bound falls.
"""

import time
from collections.abc import Callable
from typing import Literal

from serving.gateway.lag import STANDS

Verdict = Literal["model", "memory", "refused"]
LEAST, MOST = 4.0, 512.0
"""Requests in flight."""
BEGIN = 32.0
"""A batch of TorchServe's."""
FALL = 0.8
MEMORY_SHARE = 0.25
"""So much more than models answered at their best may be answered in all: an answer from memory is cheap beside one of
a model, so that these cost it next to nothing, and where no model answers there is room for everybody."""
FADES = 0.01
"""Of that best, each second: a machine that has become slower has room for less."""
LEAST_A_SECOND, BURST = 20.0, 20.0
LEAST_SPARED, RISE = 0.05, 0.005
"""Of `Bound._spared`: 1 / `BURST`, and what comes back with each word of a loop that is on time, ten a second."""
RETRY_SECONDS = 1
ACTIVE_SECONDS = 1.0
"""A shop that asked within this time has its share."""


class Bound:
    """Ask `enter` for each request, and tell `leave` what was entered. For one loop.

    Args:
        in_time: Seconds within which an answer has to come for the bound to rise.
        clock: Seconds that only grow.
    """

    def __init__(self, in_time: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._in_time, self._clock = in_time, clock
        self.limit, self.in_flight = BEGIN, 0
        self._fell = -in_time
        self.late = False
        """Whether the loop has more to do than it can (`lag`)."""
        self._spared = 1.0
        """Share of what memory might answer that the loop has time for."""
        self._memory = BURST
        """Answers that memory may give now."""
        self._best, self._refilled = LEAST_A_SECOND, clock()
        self._window, self._answered = clock(), 0
        self._of: dict[bytes, int] = {}
        """Requests in flight of each shop, by its token."""
        self._asked: dict[bytes, float] = {}

    def verdict(self, shop: bytes) -> Verdict:
        """What a request of this shop would get now.

        A shop below its share is let in also where another one has filled the bound; beyond its share it takes what
        the others leave.
        """
        if self.in_flight < self.limit or self._of.get(shop, 0) < self.limit / self._active(shop):
            return "model"
        self._refill()
        return "memory" if self._memory * self._spared >= 1 else "refused"

    def enter(self, shop: bytes) -> Verdict:
        """As `verdict`; what is not refused counts until `leave`."""
        found = self.verdict(shop)
        self._asked[shop] = self._clock()
        if found == "model":
            self.in_flight += 1
            self._of[shop] = self._of.get(shop, 0) + 1
        elif found == "memory":
            self._memory -= 1 / self._spared
        return found

    def leave(self, shop: bytes, seconds: float) -> None:
        """A request that was let in to the model ended after so many seconds."""
        full = self.in_flight >= self.limit / 2
        self.in_flight -= 1
        self._of[shop] -= 1
        self._answered += 1
        self._refill()
        self._memory = max(-BURST, self._memory - 1)
        if seconds <= self._in_time:
            # What is not filled says nothing about a higher bound.
            self.limit = min(MOST, self.limit + 1 / self.limit) if full and not self.late else self.limit
        else:
            self._fall()

    def lag(self, seconds: float) -> None:
        """The loop was never less late than this of late.

        Where that is too much, refusing comes before all else: what is let in costs the loop many times as much. First
        memory gives way and then the model, of whose answers each costs twice as much as one from memory.
        """
        self.late = seconds > STANDS
        if not self.late:
            self._spared = min(1.0, self._spared + RISE)
        elif self._spared > LEAST_SPARED:
            self._spared = max(LEAST_SPARED, self._spared / 2)
        else:
            self._fall()

    def _fall(self) -> None:
        if (now := self._clock()) - self._fell >= self._in_time:
            # Once for all that are in flight: they were let in together.
            self._fell, self.limit = now, max(LEAST, self.limit * FALL)

    def _refill(self) -> None:
        now = self._clock()
        if (past := now - self._window) >= 1:
            self._best = max(LEAST_A_SECOND, self._best * (1 - FADES) ** past, self._answered / past)
            self._window, self._answered = now, 0
        self._memory = min(BURST, self._memory + (now - self._refilled) * self._best * (1 + MEMORY_SHARE))
        self._refilled = now

    def _active(self, shop: bytes) -> int:
        """How many shops share the bound; forgets those that are gone."""
        now = self._clock()
        if len(self._asked) > 1:
            gone = [each for each, at in self._asked.items() if now - at > ACTIVE_SECONDS and not self._of.get(each)]
            for each in gone:
                self._asked.pop(each)
                self._of.pop(each, None)
        return len(self._asked) + (shop not in self._asked)
