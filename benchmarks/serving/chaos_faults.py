"""The shop of the soak with two gateways, and what can befall its parts; each part that is killed is started again."""

import os
import random
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.serving.ahead import Ahead
from benchmarks.serving.sabotage import worse
from benchmarks.serving.shop_processes import ShopProcesses, _free_port
from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    opened,
)
from experiments.transitions import roll_back
from runtime import workspace
from serving.torchserve import archive

GATEWAYS = ("gateway0", "gateway1")
KINDS = ("kill", "freeze", "full", "outage", "segment", "state", "file", "challenger", "connections", "burst")
OUTAGE_HOURS = (1.0, 30.0)
CHALLENGED = 0.25
"""Share of shoppers that a challenger meets."""


class ChaosShop(ShopProcesses):
    """The shop of the soak with two gateways, whose parts can be killed, frozen and damaged; each is started again."""

    def _start(self, undo: ExitStack) -> None:
        self.bursts: list[float] = []
        """Seconds for which ten times as many shoppers are to come."""
        super()._start(undo)
        for name in ("gateway", "consumer"):  # by a clock that can be put ahead
            self._stop(name)
        self.clock = Ahead(clock := self._logs / "clock")
        self._program = ("benchmarks.serving.ahead", str(clock))
        self._challenger = self._logs / "challenger.mar"
        self._row = threading.Lock()
        self._rolled_back()
        champion = self._table.read(self.model).champion
        assert champion is not None
        self._sound = self._logs / "sound.mar"
        self._named = replace(
            champion, version=worse(Path(champion.archive), self._sound), archive=str(self._challenger)
        )
        self.addresses = []
        self._commands: dict[str, tuple[str, ...]] = {
            "consumer": ("consumer", "--metrics-port", "0", "--flush-seconds", "5")
        }
        self._serve("consumer", *self._commands["consumer"])
        for name in GATEWAYS:
            port = str(_free_port())
            self._commands[name] = ("gateway", "--torchserve", self.torchserve, "--port", port, "--operation-port", "0")
            self.addresses.append(self._serve(name, *self._commands[name]))
        self._over = threading.Event()
        self.starting: set[str] = set()
        """Gateways that are being started again."""
        self._away: set[str] = set()
        """Parts that are not started again for now."""
        # One for each part: a gateway must not wait for another one's start.
        parts = [*self._commands, "redis"]
        self._supervisors = [threading.Thread(target=self._supervise, args=(name,)) for name in parts]
        for supervisor in self._supervisors:
            supervisor.start()
        undo.callback(self._end)

    def _end(self) -> None:
        self.settle()
        for name in GATEWAYS:
            self._stop(name)

    def _supervise(self, name: str) -> None:
        while not self._over.wait(0.2):
            if name in self._away or name not in self._running or self._running[name].poll() is None:
                continue
            self.starting.add(name)
            with suppress(RuntimeError):  # it ended again: the next look starts it again
                if name == "redis":
                    self.start_redis()
                else:
                    self._serve(name, *self._commands[name])
            self.starting.discard(name)

    def dead(self) -> list[str]:
        return [name for name, process in self._running.items() if process.poll() is not None]

    def settle(self) -> None:
        """Nothing is started again any more."""
        self._over.set()
        for supervisor in self._supervisors:
            supervisor.join()

    def processes(self, name: str) -> list[psutil.Process]:
        """Of a part, or of the `worker` or `server` of TorchServe."""
        if name in self._running:
            return [psutil.Process(self._running[name].pid)]
        children = psutil.Process(self._running["torchserve"].pid).children(recursive=True)
        java = [each for each in children if "java" in each.name()]
        return java if name == "server" else [each for each in children if each not in java and each.name() != "sh"]

    def kill(self, name: str) -> None:
        for process in self.processes(name):
            process.kill()

    def freeze(self, name: str, seconds: float) -> None:
        frozen = self.processes(name)
        for process in frozen:
            process.suspend()
        threading.Timer(seconds, lambda: [_resume(process) for process in frozen]).start()

    def fill_disk(self, name: str, seconds: float) -> None:
        """No file of a part can grow any more, as on a full disk; what it writes into a socket can."""
        full = self.processes(name)
        for process in full:
            process.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
        threading.Timer(seconds, lambda: [_free(process) for process in full]).start()

    def outage(self, name: str, seconds: float, hours: float) -> None:
        """A part is gone for hours, of which the load has its seconds before and after."""
        self._away.add(name)
        threading.Timer(seconds / 2, self.clock.go, (3600 * hours,)).start()
        threading.Timer(seconds, self._away.discard, (name,)).start()
        self.kill(name)

    def challenge(self, draw: random.Random, name: str, seconds: float, *, released: bool) -> None:
        """A challenger whose archive is damaged, since its release or since then, until it is rolled back; a gateway
        starts meanwhile."""
        with self._row:
            row = self._table.read(self.model)
            if row.challenger is not None:  # which is damaged further
                self._damage(draw)
                return
            shutil.copyfile(self._sound, self._challenger)
            if released:
                self._damage(draw)
            named = replace(self._named, archive_digest=archive.digest(self._challenger), registered=datetime.now(UTC))
            if not released:
                self._damage(draw)
            self._propose(_challenged(row, named), row, "a damaged archive")
        threading.Timer(seconds, self._rolled_back).start()
        self.kill(name)

    def _damage(self, draw: random.Random) -> None:
        """Of the challenger's archive: a flipped bit, or a cut end."""
        if draw.random() < 0.5:
            self.flip(self._challenger, draw)
        else:
            os.truncate(self._challenger, draw.randrange(self._challenger.stat().st_size))

    def _rolled_back(self) -> None:
        with self._row:
            row = self._table.read(self.model)
            if row.challenger is not None:
                back = roll_back(row, now=datetime.now(UTC), salt=lambda: "chaos")
                self._propose(back, row, "the end of a damaged challenger")

    def _propose(self, wanted: Rollout, row: Rollout, why: str) -> None:
        self._table.propose(DocumentChange(wanted, "chaos", why), row.version)

    def flip(self, path: Path, draw: random.Random) -> None:
        """One bit of a file; of a database while nobody has it open."""
        with suppress(OSError), path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(at := draw.randrange(max(size, 1)))
            if byte := file.read(1):
                file.seek(at)
                file.write(bytes([byte[0] ^ (1 << draw.randrange(8))]))


def _challenged(row: Rollout, challenger: ModelVersion) -> Rollout:
    begun = opened(row, challenger, now=datetime.now(UTC), salt=lambda: "chaos")
    return replace(begun, weight=CHALLENGED)


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def _free(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


def drawn(shop: ChaosShop, draw: random.Random) -> tuple[str, Callable[[], None]]:
    """A fault: what it is called, and what does it."""
    log, torchserve = workspace.event_log(shop.model), workspace.home() / "torchserve" / "soak"
    part = draw.choice([*GATEWAYS, "consumer", "redis", "worker", "server"])
    seconds = draw.uniform(0.5, 6)
    match draw.choice(KINDS):
        case "kill":
            return f"{part} killed", lambda: shop.kill(part)
        case "freeze":
            return f"{part} frozen", lambda: shop.freeze(part, seconds)
        case "full":
            return f"no room for {part}", lambda: shop.fill_disk(part, seconds)
        case "outage":
            name, hours = draw.choice([*GATEWAYS, "consumer", "redis"]), draw.uniform(*OUTAGE_HOURS)
            return f"{name} away for hours", lambda: shop.outage(name, seconds, hours)
        case "challenger":
            name, released = draw.choice(GATEWAYS), draw.random() < 0.5
            what = "a challenger released damaged" if released else "a challenger damaged on the disk"
            return what, lambda: shop.challenge(draw, name, 2 + 2 * seconds, released=released)
        case "segment":
            found = sorted((log / "segments").glob("*.jsonl"))
            return "bit flipped in a segment", lambda: [shop.flip(path, draw) for path in found[:1]] and None
        case "state":

            def damage() -> None:
                shop.kill("consumer")
                shop.flip(log / "consumer.db", draw)

            return "bit flipped in consumer.db", damage
        case "file":
            name = draw.choice(["rollout.json", "status.json", "inference.key"])
            return f"bit flipped in {name}", lambda: shop.flip(torchserve / name, draw)
        case "connections":
            address = draw.choice(shop.addresses)
            return "150 slow connections", lambda: _hold(address, seconds)
        case _:
            return "a burst", lambda: shop.bursts.append(seconds)
    raise AssertionError


def _hold(address: str, seconds: float) -> None:
    """Connections that send half a request and then nothing."""
    host, port = address.removeprefix("http://").split(":")
    held = []
    for _ in range(150):
        with suppress(OSError):
            held.append(socket.create_connection((host, int(port)), timeout=1))
            held[-1].sendall(b"POST /v1/recommendations HTTP/1.1\r\nHost")
    threading.Timer(seconds, lambda: [each.close() for each in held]).start()
