"""The same shop as separate processes that can be killed: TorchServe with reconciler, gateway, consumer, Redis."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import redis
from rich.console import Console

from experiments.document import DocumentChange, ModelVersion
from experiments.table import RolloutTable
from feature_repo.store import histories_path
from runtime import workspace
from serving.torchserve import archive

START_SECONDS = 90.0
_SERVERS = ("org.pytorch.serve", "serving.plain.server")
_WORKERS = ("model_service_worker", "plain/worker.py")
"""In the commands of TorchServe and of the plain server, and of their workers."""


class ShopProcesses:
    """`with ShopProcesses("marketplace", {"users": 1200}, console) as shop:`; trains a model where none is released.

    What goes wrong on the way is in `<workspace>/soak/<part>.log`.
    """

    def __init__(self, model: str, size: dict[str, int], console: Console, *, server: str = "torchserve") -> None:
        self.model, self._size, self._console, self._server = model, size, console, server
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._logs = workspace.home() / "soak"
        self._program: tuple[str, ...] = ("serving",)
        """Module, and its arguments before the command, that starts gateway and consumer."""

    def __enter__(self) -> "ShopProcesses":
        with ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._undo.close()

    def _start(self, undo: ExitStack) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._table = undo.enter_context(RolloutTable(workspace.rollout_url()))
        if self._table.read(self.model).champion is None:
            self._train()
        undo.callback(self._stop_all)
        self._redis_data = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="soak-redis-")))
        self._redis_port = _free_port()
        self.start_redis()
        os.environ["HETERREC_EVENT_LOG_REDIS"] = f"redis://127.0.0.1:{self._redis_port}/0"
        shutil.rmtree(workspace.event_log(self.model), ignore_errors=True)
        folder = workspace.home() / "torchserve" / "soak"
        self.torchserve = self._serve("torchserve", "up", "--folder", str(folder), "--server", self._server)
        self.gateway = self._serve("gateway", "gateway", "--torchserve", self.torchserve, "--port", "0")
        self._serve("consumer", "consumer", "--metrics-port", "0", "--flush-seconds", "5")

    @property
    def parts(self) -> tuple[str, ...]:
        """Those whose memory must not grow; a TorchServe that was killed is another one afterwards."""
        return ("gateway", "consumer")

    def users(self) -> list[str]:
        rows = pq.read_table(histories_path(workspace.feature_store(self.model)), columns=["user_id"])
        return list(rows["user_id"].to_pylist())

    def memory(self) -> dict[str, int]:
        """Bytes that each part alone holds."""
        return {name: psutil.Process(self._running[name].pid).memory_full_info().uss for name in self.parts}

    def swap(self, make: Callable[[Path, Path], str]) -> None:
        """Another version becomes champion, as a refresh does; the archive is made by `make(from, to)`."""
        row = self._table.read(self.model)
        champion = row.champion
        assert champion is not None
        out = self._logs / "swapped.mar"
        version = make(Path(champion.archive), out)
        swapped = ModelVersion(
            version=version,
            archive=str(out),
            archive_digest=archive.digest(out),
            recipe_digest=champion.recipe_digest,
            registered=datetime.now(UTC),
        )
        self._table.propose(DocumentChange(replace(row, champion=swapped), "soak", "a swap under load"), row.version)

    def kill_worker(self) -> None:
        """The process that runs the model within TorchServe, or the plain server."""
        self._of_server(_WORKERS)[0].kill()

    def kill_server(self) -> None:
        """TorchServe, or the plain server, and all of its workers; `python -m serving up` is to start it again."""
        for server in self._of_server(_SERVERS):
            for process in (*server.children(recursive=True), server):
                process.kill()

    def _of_server(self, words: tuple[str, ...]) -> list[psutil.Process]:
        children = psutil.Process(self._running["torchserve"].pid).children(recursive=True)
        found = [each for each in children if any(word in " ".join(each.cmdline()) for word in words)]
        if not found:
            raise RuntimeError(f"no process of {self._server} with {' or '.join(words)} in its command is running")
        return found

    def start_redis(self) -> None:
        options = ["--port", self._redis_port, "--bind", "127.0.0.1", "--dir", self._redis_data, "--save", ""]
        command = ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "always"]
        log = (self._logs / "redis.log").open("a")
        self._running["redis"] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, text=True)
        client, end = redis.Redis(port=self._redis_port), time.monotonic() + START_SECONDS
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"Redis does not start: {error}. See {log.name}.") from error
                time.sleep(0.05)

    def restart_redis(self) -> None:
        """Killed as by a power cut; started again on the same file two seconds later, aside of the caller."""
        self._running["redis"].kill()
        self._running["redis"].wait()
        threading.Timer(2.0, self.start_redis).start()

    def flush(self) -> None:
        """End the consumer, which writes its partitions first."""
        self._stop("consumer")

    def _train(self) -> None:
        self._console.print("training a model first")
        size = [part for name, value in self._size.items() for part in ("--option", f"{name}={value}")]
        command = [sys.executable, "-m", "pipelines", "run", "--dataset", self.model, "--recipe", "sasrec", *size]
        subprocess.run(command, check=True)

    def _serve(self, name: str, *arguments: str) -> str:
        """Start `python -m serving ...`, and return the first address that it says."""
        command = [sys.executable, "-m", *self._program, *arguments, "--dataset", self.model]
        log = self._logs / f"{name}.log"
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("a"), text=True)
        self._running[name] = process
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return "/".join(line[line.index("http://") :].split()[0].split("/")[:3])
        raise RuntimeError(f"{name} ended with {process.wait()}: {log.read_text()[-1000:]}")

    def _stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def _stop_all(self) -> None:
        for name in ("consumer", "gateway", "torchserve", "redis"):
            self._stop(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
