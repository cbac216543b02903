"""One way to lock a file."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from runtime.locks import try_lock
from runtime.workspace import ROOT
from tests.unit.runtime.test_sql import ROOMS


def test_nothing_else_asks_the_kernel_for_a_lock() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    asking = {str(path.relative_to(ROOT)) for path in files if "fcntl" in path.read_text()}
    assert asking == {"runtime/locks.py"}


def hold(path: Path, there: Connection) -> None:
    with path.open("a") as file:
        there.send(try_lock(file))
        there.recv()


def test_a_lock_is_one_holders_until_it_closes_the_file_or_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as first, path.open("a") as second:
        assert try_lock(first) and try_lock(first), "who holds it may ask again"
        assert not try_lock(second)
        first.close()
        assert try_lock(second)
    here, there = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(path, there))
    holder.start()
    try:
        assert here.recv() is True
        with path.open("a") as third:
            assert not try_lock(third)
            holder.kill()
            holder.join()
            assert try_lock(third)
    finally:
        holder.kill()
        holder.join()
