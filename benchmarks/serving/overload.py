"""What comes of 2, 5 and 20 times the requests that the machine can answer? `make bench-overload SECONDS=10`

The gateway with TorchServe, then with the plain server, on one core, and the load on another; the capacity of each is
measured first, in the same run. Goodput is answers of the model a second, within the deadlines; answers from memory
are counted apart. The cost of a refusal is measured too: so much of the core is not there for answers.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving.gateway import ITEMS, K, fill
from benchmarks.serving.serving_shop import CARD, packaged
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from runtime import workspace
from runtime.task import commit
from serving.gateway.recommender import ServingDeadlines
from serving.plain.server import PlainServer
from serving.torchserve import archive
from serving.torchserve.server import TorchServe

RESULTS = Path(__file__).parents[1] / "results" / "overload.json"
TIMES = (1, 2, 5, 20)
SEARCH = (50, 100, 200, 400, 800, 1600)
"""Rates at which the capacity is looked for."""
SERVER_CORE, LOAD_CORE = 0, 1
KEPT = 0.9
"""Share of the capacity that has to stay, less what refusing costs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--servers", default="torchserve,plain")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("needs two cores: one for the servers and one for the load")
    console, rows = Console(soft_wrap=True), {}
    with tempfile.TemporaryDirectory(prefix="bench-overload-") as folder:
        home = Path(folder)
        os.environ["HETERREC_HOME"] = folder
        (mar,) = packaged(home / "made", items=ITEMS).glob("*.mar")
        bodies = home / "bodies"
        bodies.write_text("\n".join(json.dumps({"user_id": user, "k": K}) for user in fill(home)))
        arm = ModelVersion(
            version="1.0", archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="bench",
            registered=datetime.now(UTC),
        )  # fmt: skip
        with RolloutTable(workspace.rollout_url()) as table:
            table.propose(DocumentChange(Rollout(model=CARD.name, champion=arm), "bench", "measure"), 0)
        for name in options.servers.split(","):
            with model_server(name, mar, home) as server, gateway(server.address) as (service, operation, pid):
                rows[name] = measure(service, operation, pid, bodies, options.seconds, console)
                rows[name]["server_mib"] = _memory(server) / 2**20
            show(name, rows[name], console)
    result = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "seconds": options.seconds,
        "items": ITEMS,
        **rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {options.out}")


@contextmanager
def model_server(name: str, mar: Path, home: Path) -> Iterator[TorchServe]:
    """TorchServe or the plain server with one version, on the servers' core."""
    kind = {"torchserve": TorchServe, "plain": PlainServer}[name]
    with ExitStack() as stack:
        with _children_on(SERVER_CORE):
            server = stack.enter_context(kind(home / "logs", start_seconds=600))
        server.register(mar)
        yield server


def _memory(server: TorchServe) -> int:
    """Bytes that the server and its workers alone hold."""
    leader = psutil.Process(server._process.pid)  # type: ignore[union-attr]
    return sum(each.memory_full_info().uss for each in (leader, *leader.children(recursive=True)))


@contextmanager
def gateway(model: str) -> Iterator[tuple[str, str, int]]:
    """Addresses of the gateway and of its operation port, and its process."""
    command = [sys.executable, "-m", "serving", "gateway", "--dataset", CARD.name, "--torchserve", model]
    command += ["--port", "0", "--connections-of-address", "1000"]
    with _process(command, r"(http://\S+)/v1", r"metrics at (http://\S+)") as ((service, operation), pid):
        yield service, operation, pid


@contextmanager
def _process(command: list[str], *said: str) -> Iterator[tuple[list[str], int]]:
    """A process on the servers' core, and what it says of itself."""
    with _children_on(SERVER_CORE):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = [re.search(pattern, process.stdout.readline()) for pattern in said]
        if not all(found):
            raise RuntimeError(f"did not start: {' '.join(command)}")
        yield [each[1] for each in found if each], process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _children_on(core: int) -> Iterator[None]:
    """What is started in the block runs there with all its threads; of a running process only one thread would move."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _opened(url: str, timeout: float = 10.0) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout) as reply:
        content: bytes = reply.read()
    return content


def flood(service: str, bodies: Path, rate: float, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.serving.flood", f"{service}/v1/recommendations", str(bodies)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--core", str(LOAD_CORE)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def measure(service: str, operation: str, pid: int, bodies: Path, seconds: float, console: Console) -> dict[str, Any]:
    flood(service, bodies, 20, 3)
    capacity = 0.0
    for rate in SEARCH:
        answered = flood(service, bodies, rate, seconds / 2)["in_time"].get("model", 0.0)
        capacity = max(capacity, answered)
        if answered < 0.8 * rate:
            break
    console.print(f"capacity: {capacity:.0f} answers of the model a second")
    loads = []
    for times in TIMES:
        with Health(operation) as health:
            used = _cpu(pid)
            found = flood(service, bodies, times * capacity, seconds)
            used = _cpu(pid) - used
        after = flood(service, bodies, capacity / 2, 5)
        back = [second for second, kinds in after["by_second"].items() if set(kinds) <= {"model"}]
        loads.append({
            "times": times,
            **{name: value for name, value in found.items() if name != "by_second"},
            "gateway_cpu_share": used / seconds,
            "health_slowest_ms": 1000 * health.slowest,
            "normal_after_s": int(min(back, key=int)) if back else None,
        })  # fmt: skip
    return {"capacity": capacity, "loads": loads}


class Health:
    """Asks for health four times a second while the block runs."""

    def __init__(self, operation: str) -> None:
        self._url, self.slowest, self._over = f"{operation}/health", 0.0, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Health":
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.25):
            began = time.perf_counter()
            with suppress(OSError):
                _opened(self._url)
            self.slowest = max(self.slowest, time.perf_counter() - began)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def show(name: str, row: dict[str, Any], console: Console) -> None:
    deadline = 1000 * (ServingDeadlines.history + ServingDeadlines.champion + ServingDeadlines.log)
    table = Table(
        f"{name}, capacity {row['capacity']:.0f}/s", "asked/s", "model/s", "of capacity", "memory/s", "refused/s",
        "p50 ms", f"p99 ms (< {deadline:.0f})", "health ms", "normal after s",
    )  # fmt: skip
    for load in row["loads"]:
        answers, good = load["answers"], load["in_time"].get("model", 0.0)
        table.add_row(
            f"{load['times']} times", f"{load['asked_per_second']:.0f}", f"{good:.0f}", f"{good / row['capacity']:.0%}",
            f"{answers.get('memory', 0.0):.0f}", f"{answers.get('503', 0.0):.0f}", f"{load['p50_ms']:.0f}",
            f"{load['p99_ms']:.0f}", f"{load['health_slowest_ms']:.0f}", str(load["normal_after_s"]),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
