"""What does the gateway add to calling TorchServe directly, at half load?

A real TorchServe with 12,000 items, histories of 50 events in Feast's online store, and the gateway as a process of its
own: arms, history, model, durable exposure. Requests come at fixed moments (open loop), at half of what the gateway can
do here, in turns directly and through the gateway. `make bench-gateway SECONDS=40`
"""

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving.from_memory import measured
from benchmarks.serving.serving_shop import CARD, HISTORY, packaged
from events.consumer.histories import HistoryWriter
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from feature_repo.history import HistoryRecord
from feature_repo.online import as_request
from feature_repo.store import open_store
from runtime import workspace
from runtime.task import commit
from serving.torchserve import archive
from serving.torchserve.server import TorchServe

RESULTS = Path(__file__).parents[1] / "results" / "gateway.json"
ITEMS, USERS, K = 12_000, 500, 10
BLOCK_SECONDS = 4.0
CONNECTIONS = 8
SEED = 0
Send = Callable[[int], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="of measuring, both ways together")
    parser.add_argument("--from-memory", action="store_true", help="only what an answer without a model costs")
    options = parser.parse_args()
    console = Console()
    if options.from_memory:
        without_a_model(console)
        return
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        home = Path(folder)
        os.environ["HETERREC_HOME"] = folder
        (mar,) = packaged(home / "made", items=ITEMS).glob("*.mar")
        histories = fill(home)
        with TorchServe(home / "logs") as server:
            server.register(mar)
            with RolloutTable(f"sqlite:///{home}/rollout.db") as table:
                arm = ModelVersion(
                    version="1.0", archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="bench",
                    registered=datetime.now(UTC),
                )  # fmt: skip
                table.propose(DocumentChange(Rollout(model=CARD.name, champion=arm), "bench", "measure"), 0)
            address, process = gateway(server.address)
            try:
                row = asyncio.run(measure(server.address, address, process.pid, histories, options.seconds))
            finally:
                process.terminate()
                process.wait()
    shown = Table("", "p10 ms", "p50 ms", "p90 ms", "p99 ms", "requests")
    for way in ("direct", "gateway"):
        shown.add_row(
            way, *(f"{row[way][name]:.2f}" for name in ("p10", "p50", "p90", "p99")), f"{row[way]['requests']:,}"
        )
    console.print(shown)
    console.print(
        f"added at p50: {row['added_p50_ms']:.2f} ms, at {row['rate']:.0f} requests a second, half of what the gateway "
        f"does here; its own work takes {row['gateway_cpu_ms']:.2f} ms of a core a request; failed {row['failed']}; "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )
    result = {
        "commit": commit(),
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "items": ITEMS,
        "history": HISTORY,
        "k": K,
        **row,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    without_a_model(console)


def without_a_model(console: Console) -> None:
    """Measure what an answer from memory costs, beside whatever was measured before."""
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        row = measured(Path(folder))
    row |= {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }
    tables, popular = row["tables_ms"], row["popular_ms"]
    console.print(
        f"without a model, {row['items']:,} items, histories of {row['history']}, two filters: neighbour tables p50 "
        f"{tables['p50']} ms, popular items {popular['p50']} ms; {row['tables_mib']} MiB of memory"
    )
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**known, "without_a_model": row}, indent=1) + "\n")


def fill(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Write a history of 50 events for each user into the online store; what a model is asked with, by user."""
    rng = np.random.default_rng(SEED)
    now = datetime.now(UTC)
    store = open_store(CARD, home / "made", workspace.feature_store(CARD.name))
    start = now - timedelta(days=30)
    told = {}
    for user in range(USERS):
        rows = rng.integers(0, ITEMS, HISTORY)
        told[f"u{user}"] = [
            HistoryRecord(
                event_id=f"{user}-{n}",
                item_id=f"i{row:07d}",
                event_time=int((start + timedelta(hours=n)).timestamp()) * 1_000_000 + 123_456,
                values={feature.name: float(rng.uniform(1, 50)) for feature in CARD.over_time},
                position=n,
            )
            for n, row in enumerate(rows)
        ]
    HistoryWriter(store).merge(told.items(), now)
    return {user: as_request(records) for user, records in told.items()}


def gateway(torchserve: str) -> tuple[str, "subprocess.Popen[str]"]:
    """Start the gateway; its address."""
    command = [sys.executable, "-m", "serving", "gateway", "--dataset", CARD.name, "--torchserve", torchserve]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"(http://\S+)/v1", line)
    if found is None:
        raise RuntimeError(f"the gateway did not start: {line}")
    return found[1], process


async def measure(torchserve: str, address: str, pid: int, histories: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Both ways in turns; `pid` is the gateway's, whose processor time is counted too."""
    bodies = [json.dumps({"user_id": user, "k": K, "history": history}).encode() for user, history in histories.items()]
    asked = [json.dumps({"user_id": user, "k": K}).encode() for user in histories]
    failed = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        def ask(url: str, requests: list[bytes], marks: tuple[bytes, ...]) -> Send:
            async def send(number: int) -> None:
                nonlocal failed
                headers = {"Content-Type": "application/json"}
                async with session.post(url, data=requests[number % len(requests)], headers=headers) as reply:
                    content = await reply.read()
                failed += reply.status != 200 or not all(mark in content for mark in marks)

            return send

        direct = ask(f"{torchserve}/predictions/{CARD.name}/1.0", bodies, (b'"items"',))
        through = ask(f"{address}/v1/recommendations", asked, (b'"status":"ok"', b'"logged":true'))
        ways = {"direct": direct, "gateway": through}
        for send in ways.values():
            await closed(send, 2.0)
        capacity = {way: await closed(send, 4.0) for way, send in ways.items()}
        rate, failed, used, asked_in_all = capacity["gateway"] / 2, 0, 0.0, 0
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(max(1, round(seconds / BLOCK_SECONDS / 2))):
            for way, send in ways.items():
                before = _cpu_seconds(pid)
                times = await open_loop(send, rate, BLOCK_SECONDS)
                seen[way] += times
                used += _cpu_seconds(pid) - before if way == "gateway" else 0.0
                asked_in_all += int(rate * BLOCK_SECONDS) if way == "gateway" else 0
    quantiles = {
        way: {
            "requests": len(times),
            **{f"p{q}": float(np.percentile(times, q)) * 1000 for q in (10, 50, 90, 99)},
        }
        for way, times in seen.items()
    }
    added = quantiles["gateway"]["p50"] - quantiles["direct"]["p50"]
    cpu = 1000 * used / asked_in_all
    return {
        "capacity": capacity,
        "rate": rate,
        **quantiles,
        "added_p50_ms": added,
        "gateway_cpu_ms": cpu,
        "failed": int(failed),
    }


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def closed(send: Send, seconds: float) -> float:
    """Requests a second that a few callers get, each of whom asks again at once."""
    until, count = time.perf_counter() + seconds, 0

    async def caller(first: int) -> None:
        nonlocal count
        number = first
        while time.perf_counter() < until:
            await send(number)
            number += CONNECTIONS
            count += 1

    await asyncio.gather(*(caller(first) for first in range(CONNECTIONS)))
    return count / seconds


async def open_loop(send: Send, rate: float, seconds: float) -> list[float]:
    """Seconds of each request, from the moment it was due; those of the first half second warm up."""
    began, times, tasks = time.perf_counter(), [], []

    async def one(number: int, due: float) -> None:
        await send(number)
        if due - began > 0.5:
            times.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return times


if __name__ == "__main__":
    main()
