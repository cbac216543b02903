"""How late the loop is: what waits in sockets unread has waited at least as long, and no latency of an answer shows it.

A queue that only empties now and then is none; one that never does, stands. So the least lateness of a while tells, as
of the sojourn times in CoDel (Nichols and Jacobson 2012), and a long turn of a neighbour's process does not count.
"""

import asyncio
import math
import time
from collections.abc import Callable

TICK = 0.005
WINDOW = 0.1
"""Seconds of which the least lateness is told."""
STANDS = 0.004
"""From so many seconds on the loop has more to do than it can: a queue that empties leaves turns without any."""


async def watch(told: Callable[[float], None]) -> None:
    """Tell the least lateness of each `WINDOW`, in seconds, for ever."""
    least, until = math.inf, time.monotonic() + WINDOW
    while True:
        due = time.monotonic() + TICK
        await asyncio.sleep(TICK)
        now = time.monotonic()
        least = min(least, now - due)
        if now >= until:
            told(max(0.0, least))
            least, until = math.inf, now + WINDOW
