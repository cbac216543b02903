"""A real redis-server of a test's own, on a free loopback port, gone when the test is."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("redis-server")
MISSING = "redis-server is not installed (apt-get install redis-server; .ci/run does)"


class RedisServer:
    """`start` and `stop` (which kills) may alternate: the port stays the same, the data is lost unless `durable`."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder, self.durable = folder, durable
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port, as Feast's `connection_string` wants it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> "RedisServer":
        assert PROGRAM is not None, MISSING
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": self.folder}
        settings |= {"appendonly": "yes", "appendfsync": "always"} if self.durable else {"appendonly": "no"}
        command = [PROGRAM, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < deadline, f"redis-server did not answer on {self.address}"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False
