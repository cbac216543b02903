"""A real Postgres of a test's own, on a free loopback port, gone when the test is."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest


def _folder() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file()), None)


PROGRAMS = _folder()
needed = pytest.mark.skipif(
    PROGRAMS is None, reason="Postgres is not installed (apt-get install postgresql; .ci/run does)"
)
_NOBODY = 65534


class Postgres:
    """`with Postgres(folder) as server:`; `url(database)` is what SQLAlchemy is given, `run` one of its programs."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    def __enter__(self) -> "Postgres":
        self._data.mkdir()
        # It refuses to run as root, and who runs tests in a container often is.
        if os.geteuid() == 0:
            for place in (self._data, *self._data.parents):
                if place.owner() == "root" and place.is_relative_to("/tmp") and place != Path("/tmp"):
                    place.chmod(place.stat().st_mode | 0o011)
            os.chown(self._data, _NOBODY, _NOBODY)
        self.run("initdb", "--pgdata", self._data, "--username", "heterrec", "--auth", "trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self.run("pg_ctl", "start", "--wait", "--pgdata", self._data, "--log", self._data / "log", "--options", options)
        return self

    def __exit__(self, *exception: object) -> None:
        self.run("pg_ctl", "stop", "--mode", "immediate", "--pgdata", self._data)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://heterrec@127.0.0.1:{self.port}/{database}"

    def client(self, program: str, *arguments: str | Path, given: str | None = None) -> str:
        """Run a program that connects to it."""
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--username", "heterrec")
        return self.run(program, *where, *arguments, given=given)

    def run(self, program: str, *arguments: str | Path, given: str | None = None) -> str:
        assert PROGRAMS is not None
        demoted = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        # Not through pipes where a server stays behind: it would keep them open.
        if program == "pg_ctl":
            done = subprocess.run([PROGRAMS / program, *arguments], stdout=subprocess.DEVNULL, cwd="/", **demoted)
            assert done.returncode == 0, (self._data / "log").read_text()
            return ""
        done = subprocess.run(
            [PROGRAMS / program, *arguments], capture_output=True, text=True, input=given, cwd="/", **demoted
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
