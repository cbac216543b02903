"""Overlapping faults, drawn by seed, on the whole shop under load: nothing lost, nothing doubled, everybody answered.

Two gateways, TorchServe with its reconciler, consumer and Redis as processes of their own; a supervisor starts again
what was killed, as Kubernetes does. The client remembers every acknowledgement and tries the other gateway where one
does not answer. What a flipped byte takes has to be set aside and counted: it may be missing, and no more than that.
`make chaos FAULTS=200`
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving.chaos_faults import GATEWAYS, ChaosShop, drawn
from benchmarks.serving.soak import MODEL, SHOP
from events.partitions import files
from runtime import clocks, workspace
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results"
ANSWER_SECONDS = 30.0
"""Within which a shopper has an answer, of one gateway or the other: where both are killed at once, after a start."""
EACH_SECONDS = 4.0
"""What the client gives each gateway."""
RATE = 20.0
EVENT_SHARE = 0.5
MOST_BYTES = 64_000_000
"""Of any one file that grows while the shop is served."""


class ChaosClient:
    """Shoppers, and what they were told."""

    def __init__(self, shop: ChaosShop, session: aiohttp.ClientSession, seed: int) -> None:
        self._shop, self._session, self._random = shop, session, random.Random(seed)
        self._users = shop.users()
        self.logged: set[str] = set()
        self.not_logged: set[str] = set()
        self.acknowledged: set[tuple[str, str]] = set()
        self.bought = 0
        """Acknowledged purchases of logged exposures: nothing follows from one whose exposure is not in the log."""
        self.answers: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.unanswered: list[str] = []

    async def shopper(self) -> None:
        began, wish = time.perf_counter(), {"user_id": self._random.choice(self._users), "k": 10}
        answer = await self._either("/v1/recommendations", wish, 200)
        spent = time.perf_counter() - began
        self.seconds.append(spent)
        if answer is None or spent > ANSWER_SECONDS:
            away = sorted(self._shop.starting & set(GATEWAYS))
            self.unanswered.append(f"{' and '.join(away) or 'neither'} being started")
            return
        self.answers[answer["status"]] += 1
        {True: self.logged, False: self.not_logged}.get(answer["logged"], set()).add(answer["request_id"])
        if self._random.random() < EVENT_SHARE and answer["items"]:
            item = answer["items"][0]["item_id"]
            kind = self._random.choice(("click", "purchase"))
            event = {"request_id": answer["request_id"], "event_type": kind, "item_id": item}
            if await self._either("/v1/events", event, 202) is not None:
                self.acknowledged.add((answer["request_id"], item))
                self.bought += kind == "purchase" and answer["logged"] is True

    async def _either(self, path: str, body: dict[str, Any], good: int) -> dict[str, Any] | None:
        """The answer of one gateway or the other; None where both have none in time."""
        first = self._random.randrange(2)
        end = time.perf_counter() + ANSWER_SECONDS
        for number in range(100):
            address = self._shop.addresses[(first + number) % 2]
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with asyncio.timeout(min(EACH_SECONDS, max(0.1, end - time.perf_counter()))):
                    async with self._session.post(address + path, json=body) as reply:
                        if reply.status == good:
                            found: dict[str, Any] = await reply.json()
                            return found
            if time.perf_counter() > end:
                return None
            await asyncio.sleep(0.1)
        return None


async def load(client: ChaosClient, shop: ChaosShop, over: asyncio.Event) -> None:
    """`RATE` shoppers a second; ten times as many while there is a burst."""
    waiting: set[asyncio.Task[None]] = set()
    bursts_until = 0.0
    while not over.is_set():
        now = time.monotonic()
        while shop.bursts:
            bursts_until = max(bursts_until, now) + shop.bursts.pop()
        task = asyncio.create_task(client.shopper())
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        await asyncio.sleep(1 / (RATE * (10 if now < bursts_until else 1)))
    await asyncio.gather(*waiting)


async def chaos(faults: int, seed: int, pause: float, console: Console) -> int:
    draw = random.Random(seed)
    with ChaosShop(MODEL, SHOP, console) as shop:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client, over = ChaosClient(shop, session, seed), asyncio.Event()
            loading = asyncio.create_task(load(client, shop, over))
            done: Counter[str] = Counter()
            for number in range(faults):
                what, do = drawn(shop, draw)
                with suppress(psutil.NoSuchProcess, KeyError):
                    await asyncio.to_thread(do)
                    done[what] += 1
                if number % 10 == 0:
                    console.print(f"  {number}/{faults} {what}; {dict(client.answers)}")
                await asyncio.sleep(draw.expovariate(1 / pause))
            await asyncio.sleep(15)  # until all that was frozen goes on and all that was killed is back
            over.set()
            await loading
            await asyncio.sleep(15)
        shop.settle()
        dead = shop.dead()
        shop.flush()
        ahead = (shop.clock() - clocks.now()).total_seconds() / 3600
    found = judged(client, done, dead)
    found |= {"seed": seed, "pause_s": pause, "hours_ahead": round(ahead, 1), "faults": dict(done)}
    (RESULTS / f"chaos_{faults}.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found, console)
    return 0 if found["sound"] else 1


def judged(client: ChaosClient, done: Counter[str], dead: list[str]) -> dict[str, Any]:
    log = workspace.event_log(MODEL)

    def rows(table: str, columns: str) -> list[tuple[Any, ...]]:
        # Days of long ago are merged: a merged file and those that it stands for lie beside each other for an hour.
        present = [str(path) for day in (log / table).glob("day=*") for path in files(day)]
        if not present:
            return []
        return duckdb.sql(f"select {columns} from read_parquet({present}, union_by_name = true)").fetchall()

    exposures = Counter(row[0] for row in rows("exposures", "request_id"))
    outcomes = set(rows("outcomes", "request_id, item_id"))
    interactions = Counter(row[0] for row in rows("interactions", "event_id"))
    # A line that was read again, after the consumer's state was lost, is set aside again.
    damaged = len({row[0] for row in rows("set_aside", "position, reason") if "amaged" in row[1]})
    gone = [*sorted(client.logged - exposures.keys()), *sorted(client.acknowledged - outcomes)]
    lost = len(gone)
    untrue = len(client.not_logged & exposures.keys())
    large = [str(path) for path in workspace.home().rglob("*.log") if path.stat().st_size > MOST_BYTES]
    seconds = sorted(client.seconds) or [0.0]
    found = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "shoppers": len(client.seconds),
        "answers": dict(client.answers),
        "unanswered": len(client.unanswered),
        "unanswered_while": dict(Counter(client.unanswered)),
        "p50_s": seconds[len(seconds) // 2],
        "p99_s": seconds[int(0.99 * len(seconds))],
        "slowest_s": seconds[-1],
        "acknowledged_exposures": len(client.logged),
        "acknowledged_events": len(client.acknowledged),
        "missing": lost,
        "which": gone[:20],
        "purchases_acknowledged": client.bought,
        "interactions": len(interactions),
        "set_aside_as_damaged": damaged,
        "logged_against_its_word": untrue,
        "doubled_interactions": sum(count - 1 for count in interactions.values()),
        "dead": dead,
        "files_without_bound": large,
    }
    sound = not (client.unanswered or untrue or dead or large or found["doubled_interactions"])
    sound = sound and client.bought - lost <= len(interactions)
    return {**found, "sound": sound and lost <= damaged}


def show(found: dict[str, Any], console: Console) -> None:
    table = Table("what", "found", "bar", box=None)
    table.add_row("faults", f"{sum(found['faults'].values())} of {len(found['faults'])} kinds", "")
    table.add_row("shoppers without an answer", f"{found['unanswered']} of {found['shoppers']:,}", "0")
    table.add_row("answers", ", ".join(f"{kind} {count:,}" for kind, count in found["answers"].items()), "")
    table.add_row("slowest answer", f"{found['slowest_s']:.1f} s", f"< {ANSWER_SECONDS:.0f} s")
    table.add_row("acknowledged and missing", str(found["missing"]), f"<= {found['set_aside_as_damaged']} set aside")
    table.add_row(
        "purchases without their interaction", str(max(0, found["purchases_acknowledged"] - found["interactions"])), ""
    )
    table.add_row("interactions doubled", str(found["doubled_interactions"]), "0")
    table.add_row("logged, though said not to be", str(found["logged_against_its_word"]), "0")
    table.add_row("processes dead at the end", ", ".join(found["dead"]) or "none", "none")
    table.add_row("files without bound", ", ".join(found["files_without_bound"]) or "none", "none")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=5.0, help="mean seconds from one fault to the next")
    options = parser.parse_args()
    return asyncio.run(chaos(options.faults, options.seed, options.pause, Console(highlight=False, soft_wrap=True)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
