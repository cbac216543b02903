"""Asks an HTTP service as fast as it answers (closed loop), or at a rate that does not wait for it (open loop)."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Load:
    """What came of asking."""

    seconds: float
    milliseconds: list[float]
    """Of each answer; in an open loop from the moment at which it was to be sent, so that a queue counts."""
    failed: int

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share)) if self.milliseconds else float("nan")

    def to_json(self) -> dict[str, float]:
        return {
            "requests_per_second": round(self.rate, 1),
            "p50_ms": round(self.percentile(50), 2),
            "p99_ms": round(self.percentile(99), 2),
            "answered": len(self.milliseconds),
            "failed": self.failed,
        }


def closed(url: str, bodies: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Each of `connections` sends its next request when it has its answer."""
    return asyncio.run(_closed(url, bodies, connections, seconds))


def opened(url: str, bodies: Sequence[bytes], *, rate: float, seconds: float, seed: int = 0) -> Load:
    """`rate` requests a second at random moments (Poisson), whether or not those before were answered."""
    return asyncio.run(_opened(url, bodies, rate, seconds, seed))


async def _closed(url: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    asker = _Asker(url, bodies)
    started = time.perf_counter()

    async def one(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() - started < seconds:
            await asker.ask(session, time.perf_counter())

    async with _session() as session:
        await asyncio.gather(*(one(session) for _ in range(connections)))
    return asker.load(time.perf_counter() - started)


async def _opened(url: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int) -> Load:
    asker = _Asker(url, bodies)
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    moments = time.perf_counter() + 0.2 + np.cumsum(gaps)
    async with _session() as session:
        asked = []
        for moment in moments.tolist():
            if (wait := moment - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            asked.append(asyncio.create_task(asker.ask(session, moment)))
        await asyncio.gather(*asked)
    return asker.load(float(moments[-1] - moments[0]))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"}, trust_env=False
    )


class _Asker:
    def __init__(self, url: str, bodies: Sequence[bytes]) -> None:
        self._url, self._bodies = url, itertools.cycle(bodies)
        self._milliseconds: list[float] = []
        self._failed = 0

    async def ask(self, session: aiohttp.ClientSession, since: float) -> None:
        try:
            async with session.post(self._url, data=next(self._bodies)) as reply:
                await reply.read()
                good = reply.status == 200
        except aiohttp.ClientError:
            good = False
        if good:
            self._milliseconds.append(1e3 * (time.perf_counter() - since))
        else:
            self._failed += 1

    def load(self, seconds: float) -> Load:
        return Load(seconds=seconds, milliseconds=self._milliseconds, failed=self._failed)
