"""A whole shop on this machine, going by a clock of its own: TorchServe and reconciler, gateway, consumer, shoppers."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import uvicorn

from benchmarks.serving.shoppers import Clock, LoadShoppers, Tally
from components.rollout import step
from events.consumer.consumer import Consumer
from events.consumer.online import OnlineHistories
from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.document import DocumentChange, Rollout
from experiments.table import RolloutTable
from feature_repo.card import load_card
from feature_repo.history import decode
from feature_repo.store import connect, histories_path
from marketplace.config import MarketplaceConfig
from marketplace.shop import Marketplace
from runtime import workspace
from serving.gateway.app import make_app
from serving.gateway.online import OnlineStore
from serving.gateway.recommender import ServingDeadlines
from serving.torchserve.reconciler import STATUS

PATIENCE_SECONDS = 60.0
DEADLINES = ServingDeadlines(challenger=0.5, champion=1.0)
"""Longer than a service's: an hour of this shop passes in about a second, so one pause of this machine would be one
of many minutes there."""
ROLL_SECONDS = 1.0
LATER_DAYS = 60
"""Days for which the shop goes on after the models' data."""


class ShopFloor:
    """`async with ShopFloor("marketplace", {"users": 1200, "days": 40}) as floor: await floor.trade(6, 2.5, tally)`.

    The models are those that the workspace's rollout table names; they were trained on the shop's first `days`.
    """

    def __init__(self, model: str, size: dict[str, int]) -> None:
        self.model, self._size = model, size
        self._undo = AsyncExitStack()

    async def __aenter__(self) -> "ShopFloor":
        async with AsyncExitStack() as undo:
            await self._start(undo)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._undo.aclose()

    async def _start(self, undo: AsyncExitStack) -> None:
        options = {**load_card(self.model).source.options, **self._size}
        shop = Marketplace(MarketplaceConfig.from_options({**options, "days": self._size["days"] + LATER_DAYS}))
        self.clock = Clock(shop.config.start + timedelta(days=self._size["days"]))
        self.table = undo.enter_context(RolloutTable(workspace.rollout_url(), clock=self.clock))
        self.torchserve = self._start_torchserve(undo)
        self.address = await self._start_gateway(undo)
        await self._start_consumer(undo)
        client = await undo.enter_async_context(httpx.AsyncClient(base_url=self.address, timeout=5, trust_env=False))
        self._client = client
        self.shoppers = LoadShoppers(shop, client, self.clock, histories=_histories(self.model))
        await self.settled()

    def _start_torchserve(self, undo: AsyncExitStack) -> str:
        self._folder = workspace.home() / "torchserve" / "floor"
        command = [sys.executable, "-m", "serving", "up", "--dataset", self.model, "--folder", str(self._folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        undo.callback(process.wait)
        undo.callback(process.send_signal, signal.SIGTERM)
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                address = line[line.index("http://") :].split()[0].rstrip("/")
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return "/".join(address.split("/")[:3])
        raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")

    async def _start_gateway(self, undo: AsyncExitStack) -> str:
        app = make_app(
            read_rollout=partial(self.table.read, self.model),
            torchserve=self.torchserve,
            history=OnlineStore(self.model, workspace.feature_store(self.model)).history,
            log=EventLogWriter(SegmentSink(workspace.event_log(self.model), roll_seconds=ROLL_SECONDS)),
            deadlines=DEADLINES,
            clock=self.clock,
        )
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, name="gateway")
        thread.start()
        undo.callback(thread.join)
        undo.callback(setattr, server, "should_exit", True)
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the gateway did not start")
            await asyncio.sleep(0.05)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def _start_consumer(self, undo: AsyncExitStack) -> None:
        card, loop = load_card(self.model), asyncio.get_running_loop()
        # One thread for all that it does: its state is a database of one thread.
        self._worker = ThreadPoolExecutor(1, "consumer")
        undo.callback(self._worker.shutdown)
        self._consumer = Consumer(
            workspace.event_log(self.model),
            workspace.exposures(self.model),
            OnlineHistories(partial(connect, self.model, workspace.feature_store(self.model))),
            kinds=card.event_log.interactions,
            clock=self.clock,
        )
        await loop.run_in_executor(self._worker, self._consumer.__enter__)
        undo.push_async_callback(lambda: loop.run_in_executor(self._worker, self._consumer.__exit__, None, None, None))  # type: ignore[arg-type, return-value]

        async def follow() -> None:
            while True:
                await loop.run_in_executor(self._worker, self._consumer.round)
                await asyncio.sleep(0.05)

        undo.callback(asyncio.create_task(follow()).cancel)

    def row(self) -> Rollout:
        return self.table.read(self.model)

    async def propose(self, change: Callable[[Rollout], Rollout], why: str) -> None:
        row = self.row()
        self.table.propose(DocumentChange(change(row), "demo", why), row.version)
        await self.settled()

    async def trade(self, hours: float, a_day: float, tally: Tally) -> None:
        """`hours` of the shop's day, with as many visits of a shopper a day."""
        start = self.clock.now
        await self.shoppers.serve(self.shoppers.visits(start, hours, a_day), tally)
        self.clock.now = start + timedelta(hours=hours)

    async def look(self, policy: str, page: Path) -> dict[str, Any]:
        """One run of pipelines/rollout.py's step on all that was traded so far."""
        await asyncio.get_running_loop().run_in_executor(self._worker, partial(self._consumer.round, flush=True))
        return step.run(
            model=self.model,
            policy=policy,
            log=workspace.event_log(self.model),
            rollout_url=workspace.rollout_url(),
            decision=page,
            clock=self.clock,
        )

    async def out_of_traffic(self) -> list[str]:
        return list((await self._client.get("/ready")).json()["out_of_traffic"])

    async def settled(self) -> None:
        """Return once TorchServe and the gateway are where the rollout row is."""
        row, loop = self.row(), asyncio.get_running_loop()
        began = loop.time()
        status = self._folder / STATUS
        while loop.time() - began < PATIENCE_SECONDS:
            found = json.loads(status.read_text()) if status.is_file() else {"row": -1, "versions": {}}
            loaded = all(found["versions"].get(arm.version) == "ready" for arm in row.serving)
            age = (await self._client.get("/ready")).json()["rollout_age_seconds"]
            if found["row"] == row.version and loaded and age < loop.time() - began:
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"TorchServe is not at row {row.version} after {PATIENCE_SECONDS:.0f} s: {found}")


def _histories(model: str) -> dict[str, list[str]]:
    rows = pq.read_table(histories_path(workspace.feature_store(model)), columns=["user_id", "history"]).to_pylist()
    return {row["user_id"]: [record.item_id for record in decode(row["history"])] for row in rows}
