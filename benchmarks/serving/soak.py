"""Ten minutes at 70 % of what this machine can serve, while parts are swapped, killed and restarted.

Real processes: TorchServe (or the plain server) with its reconciler, gateway, consumer, Redis with an append-only
file. It must not leave a request without an answer, lose an acknowledged event, or grow. `make soak SERVER=plain`
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks.serving.sabotage import worse
from benchmarks.serving.shop_processes import ShopProcesses
from runtime import workspace
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results"
MODEL = "marketplace"
SHOP = {"users": 1200, "days": 40, "items": 600}
AT_ONCE = 16
"""Callers while the capacity is measured."""
EVENT_SHARE = 0.3
"""Answers that are clicked on."""
PATIENCE = 10.0
"""Seconds for which a caller who is told to ask again does so."""
GROWTH = 1.1
"""Memory of the last fifth against the second, at most."""


@dataclass
class Met:
    """What the callers met."""

    statuses: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    """(request, item) of clicks that were acknowledged."""
    logged: set[str] = field(default_factory=set)
    """Requests whose answer said that the exposure is logged."""
    refused: int = 0
    """Clicks that were refused with a 503: the caller sends them again, here they count as not sent."""
    asked_again: int = 0
    """Refusals with `Retry-After` (the gateway's bound), after which the same was asked again."""


class Callers:
    """Ask the gateway in the name of the shop's shoppers."""

    def __init__(self, session: aiohttp.ClientSession, users: list[str], seed: int = 0) -> None:
        self._session, self._users, self._random = session, users, random.Random(seed)

    async def ask(self, met: Met) -> None:
        began = time.perf_counter()
        wish = {"user_id": self._random.choice(self._users), "k": 10}
        try:
            while True:
                async with self._session.post("/v1/recommendations", json=wish) as reply:
                    answer = await reply.json()
                    again = reply.headers.get("Retry-After")
                if again is None or time.perf_counter() - began > PATIENCE:
                    break
                met.asked_again += 1
                await asyncio.sleep(float(again))
            if reply.status != 200 or not answer["items"]:
                met.unanswered.append(f"{reply.status}: {answer}")
                return
        except (aiohttp.ClientError, TimeoutError) as error:
            met.unanswered.append(f"{type(error).__name__}: {error}")
            return
        met.latencies_ms.append(1000 * (time.perf_counter() - began))
        met.statuses[answer["status"]] += 1
        if answer["logged"]:
            met.logged.add(answer["request_id"])
        if self._random.random() < EVENT_SHARE:
            await self._click(answer["request_id"], answer["items"][0]["item_id"], met)

    async def _click(self, request_id: str, item_id: str, met: Met) -> None:
        event = {"request_id": request_id, "event_type": "click", "item_id": item_id}
        try:
            async with self._session.post("/v1/events", json=event) as reply:
                if reply.status == 202:
                    met.acknowledged.add((request_id, item_id))
                elif reply.status == 503:
                    met.refused += 1
                else:
                    met.unanswered.append(f"event {reply.status}: {await reply.text()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            met.unanswered.append(f"event {type(error).__name__}: {error}")

    async def closed_loop(self, seconds: float) -> float:
        """Answers a second of `AT_ONCE` callers who ask again at once."""
        met, end = Met(), time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < end:
                await self.ask(met)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        return met.statuses.total() / seconds

    async def open_loop(self, rate: float, seconds: float, met: Met, each: Callable[[float], None]) -> None:
        """Calls at `rate` a second, whether or not the ones before are answered. `each` hears of every second."""
        began, waiting, told = time.monotonic(), set[asyncio.Task[None]](), 0
        next_call = 0.0
        while (now := time.monotonic() - began) < seconds:
            if now >= next_call:
                task = asyncio.create_task(self.ask(met))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                next_call += self._random.expovariate(rate)
            else:
                await asyncio.sleep(min(next_call - now, 0.01))
            if now > told + 1:
                told = int(now)
                each(now)
        await asyncio.gather(*waiting)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity")
    parser.add_argument("--server", choices=["torchserve", "plain"], default="torchserve")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    return asyncio.run(soak(options.seconds, options.load, options.server, console))


async def soak(seconds: float, load: float, server: str, console: Console) -> int:
    with ShopProcesses(MODEL, SHOP, console, server=server) as shop:
        base, timeout = shop.gateway, aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(base, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            callers = Callers(session, shop.users())
            await callers.closed_loop(5)
            capacity = await callers.closed_loop(20)
            rate = load * capacity
            console.print(f"capacity {capacity:.0f} answers/s with {AT_ONCE} callers; soaking at {rate:.0f}/s")
            met, memory = Met(), {name: [] for name in shop.parts}  # type: dict[str, list[float]]
            fifth = seconds / 5
            faults = [
                (1 * fifth, "another version swapped in", lambda: shop.swap(worse)),
                (2 * fifth, f"worker of {server} killed", shop.kill_worker),
                (3 * fifth, "Redis killed and started again", shop.restart_redis),
                (4 * fifth, f"{server} killed", shop.kill_server),
            ]

            def each(now: float) -> None:
                for name, size in shop.memory().items():
                    memory[name].append(size)
                if int(now) % 30 == 0:
                    told = ", ".join(f"{status} {count:,}" for status, count in met.statuses.items())
                    console.print(
                        f"  {now:4.0f} s  {told}; unanswered {len(met.unanswered)}; {seconds - now:.0f} s left"
                    )
                if faults and now >= faults[0][0]:
                    _, what, do = faults.pop(0)
                    console.print(f"  {now:4.0f} s  [bold]{what}[/]")
                    do()

            await callers.open_loop(rate, seconds, met, each)
            await asyncio.sleep(5)
        shop.flush()
    found = {"server": server, **_findings(met, memory, capacity, rate, seconds)}
    _show(found, console)
    results = RESULTS / f"soak_{server}.json"
    results.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {results}")
    return 0 if found["sound"] else 1


def _findings(met: Met, memory: dict[str, list[float]], capacity: float, rate: float, seconds: float) -> dict[str, Any]:
    log = workspace.event_log(MODEL)
    exposures, outcomes = (_rows(log / table, columns) for table, columns in (
        ("exposures", "request_id"), ("outcomes", "request_id, item_id")))  # fmt: skip
    lost = len(met.logged - {row[0] for row in exposures}) + len(met.acknowledged - set(outcomes))
    growth = {name: _growth(sizes) for name, sizes in memory.items()}
    latencies = sorted(met.latencies_ms)
    return {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "capacity_per_second": capacity,
        "rate_per_second": rate,
        "answered": met.statuses.total(),
        "statuses": dict(met.statuses),
        "unanswered": len(met.unanswered),
        "asked_again": met.asked_again,
        "examples": met.unanswered[:3],
        "acknowledged_exposures": len(met.logged),
        "acknowledged_events": len(met.acknowledged),
        "refused_events": met.refused,
        "lost": lost,
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[int(0.99 * len(latencies))],
        "memory_growth": growth,
        "memory_mib": {name: statistics.median(sizes[-20:]) / 2**20 for name, sizes in memory.items()},
        "sound": not met.unanswered and not lost and all(value < GROWTH for value in growth.values()),
    }


def _rows(folder: Path, columns: str) -> list[tuple[Any, ...]]:
    files = f"{folder}/*/*.parquet"
    return duckdb.sql(f"select distinct {columns} from read_parquet('{files}', union_by_name = true)").fetchall()


def _growth(sizes: list[float]) -> float:
    """Of the last fifth of the time against the second: in the first, caches fill."""
    fifth = len(sizes) // 5
    return statistics.median(sizes[-fifth:]) / statistics.median(sizes[fifth : 2 * fifth])


def _show(found: dict[str, Any], console: Console) -> None:
    table = Table("what", "found", "bar", box=None)
    table.add_row("requests", f"{found['answered']:,} at {found['rate_per_second']:.0f}/s", "")
    table.add_row("without an answer", f"{found['unanswered']}", "0")
    table.add_row("told to ask again, and did", f"{found['asked_again']}", "")
    table.add_row(
        "acknowledged", f"{found['acknowledged_exposures']:,} exposures, {found['acknowledged_events']:,} events", ""
    )
    table.add_row("of them lost", f"{found['lost']}", "0")
    table.add_row("p50, p99", f"{found['p50_ms']:.1f} ms, {found['p99_ms']:.1f} ms", "")
    for name, value in found["memory_growth"].items():
        table.add_row(f"memory of {name}", f"{found['memory_mib'][name]:.0f} MiB, times {value:.3f}", f"< {GROWTH}")
    console.print(table)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
