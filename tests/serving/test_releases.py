"""Archives in an object store, on a real server of its protocol: fetched by their digest, or told why not."""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest

from experiments.document import ModelVersion, Rollout
from runtime.errors import InputError
from serving import releases
from serving.releases import (
    FIRST_REST,
    LONGEST_REST,
    UNUSED_SECONDS,
    DamagedRelease,
    Releases,
    Unreached,
)
from serving.torchserve import archive
from tests.s3_server import s3_bucket
from tests.serving.test_server import within

ROOT = Path(__file__).parents[2]
AWAY = "http://127.0.0.1:9"
CONTENT = bytes(range(256)) * 8192
"""2 MiB."""
files: list[Any] = []
"""The file system of the bucket."""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_bucket("models") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        files.append(fsspec.filesystem("s3", skip_instance_cache=True))
        yield environment


@pytest.fixture
def bucket(server: dict[str, str], tmp_path: Path) -> Callable[..., ModelVersion]:
    """Puts content into the bucket; returns the version whose archive it is."""

    def put(content: bytes = CONTENT, *, version: str = "1.0", digest: str | None = None) -> ModelVersion:
        address = f"s3://models/{tmp_path.name}/releases/shop/{version}/shop.mar"
        files[-1].pipe_file(address, content)
        (tmp_path / "plain").write_bytes(content)
        return ModelVersion(
            version=version, archive=address, archive_digest=digest or archive.digest(tmp_path / "plain"),
            recipe_digest="r", registered=datetime(2026, 1, 5, tzinfo=UTC),
        )  # fmt: skip

    return put


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def row(*arms: ModelVersion) -> Rollout:
    return Rollout(model="shop", champion=arms[0], queue=arms[1:], version=1)


def test_an_archive_is_fetched_once_and_its_file_is_named_by_its_digest(bucket, cache, monkeypatch):
    arm = bucket()
    found = Releases("shop", cache).fetched(arm)
    assert found == cache / "shop" / f"{arm.archive_digest}.mar" and found.read_bytes() == CONTENT
    assert names(cache) == [found.name]
    monkeypatch.setenv("AWS_ENDPOINT_URL", AWAY)
    assert Releases("shop", cache).fetched(arm) == found, "another process finds it without the store"


def test_a_path_is_left_to_its_reader_and_nothing_is_cached(cache, tmp_path):
    arm = replace(a_version(), archive=str(tmp_path / "shop.mar"))
    assert Releases("shop", cache).fetched(arm) == Releases("shop", cache).at_hand(arm) == tmp_path / "shop.mar"
    assert not cache.exists()


def a_version() -> ModelVersion:
    return ModelVersion(
        version="1.0",
        archive="",
        archive_digest="0" * 64,
        recipe_digest="r",
        registered=datetime(2026, 1, 5, tzinfo=UTC),
    )


@pytest.mark.parametrize("wrong", [CONTENT[:-1], b"x" + CONTENT[1:], b""], ids=["cut short", "altered", "empty"])
def test_what_was_not_released_is_refused_and_leaves_nothing(bucket, cache, wrong):
    released = bucket().archive_digest
    arm = bucket(wrong, digest=released)
    with pytest.raises(DamagedRelease) as fault:
        Releases("shop", cache).fetched(arm)
    told = str(fault.value)
    assert told.startswith(f"{arm.archive}: found ") and f"({len(wrong):,} bytes), but {released[:12]} was" in told
    assert names(cache) == []


def test_a_damaged_file_of_the_cache_is_fetched_again(bucket, cache):
    arm = bucket()
    found = Releases("shop", cache).fetched(arm)
    found.write_bytes(CONTENT[:-7])
    assert Releases("shop", cache).fetched(arm).read_bytes() == CONTENT


FETCH = """
import os, sys, time
from datetime import UTC, datetime
from pathlib import Path
from serving import releases
from experiments.document import ModelVersion
address, digest, cache, pause = sys.argv[1:]
releases.BLOCK = 1 << 18
blocks = releases._blocks
def slow(*arguments):
    for number, block in enumerate(blocks(*arguments)):
        print(arguments[1], number, flush=True)
        yield block
        time.sleep(float(pause))
releases._blocks = slow
plain = {"version": "1.0", "recipe_digest": "r", "registered": datetime.now(UTC)}
arm = ModelVersion(archive=address, archive_digest=digest, **plain)
releases.Releases("shop", Path(cache)).fetched(arm)
"""


def fetching(arm: ModelVersion, cache: Path, *, pause: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, arm.archive, arm.archive_digest, str(cache), str(pause)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed_after(arm: ModelVersion, cache: Path, blocks: int) -> Path:
    """Of a process that was killed while it fetched: its half file."""
    partial = cache / "shop" / f"{arm.archive_digest}.mar.partial"
    with fetching(arm, cache, pause=0.3) as process:
        try:
            assert within(60, lambda: partial.is_file() and partial.stat().st_size >= blocks << 18)
        finally:
            process.send_signal(signal.SIGKILL)
    return partial


def test_a_killed_download_goes_on_where_it_was(bucket, cache, monkeypatch):
    arm = bucket()
    partial = killed_after(arm, cache, blocks=2)
    size = partial.stat().st_size
    assert 0 < size < len(CONTENT)
    begun: list[int] = []
    blocks = releases._blocks
    monkeypatch.setattr(releases, "_blocks", lambda *arguments: begun.append(arguments[1]) or blocks(*arguments))
    assert Releases("shop", cache).fetched(arm).read_bytes() == CONTENT
    assert begun == [size] and names(cache) == [f"{arm.archive_digest}.mar"]


def test_a_half_file_of_something_else_is_begun_anew(bucket, cache):
    arm = bucket()
    partial = cache / "shop" / f"{arm.archive_digest}.mar.partial"
    partial.parent.mkdir(parents=True)
    for other in (b"other", CONTENT + b"longer"):
        partial.write_bytes(other)
        found = Releases("shop", cache).fetched(arm)
        assert found.read_bytes() == CONTENT and names(cache) == [found.name]
        found.unlink()


def test_processes_that_fetch_the_same_archive_take_turns(bucket, cache):
    arm = bucket()
    with fetching(arm, cache, pause=0.1) as first, fetching(arm, cache, pause=0.1) as second:
        told = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert sorted(map(len, told)) == [0, 8], "one of them fetched all of it"
    assert names(cache) == [f"{arm.archive_digest}.mar"]


def test_threads_that_fetch_the_same_archive_take_turns(bucket, cache):
    arm = bucket()
    here, found = Releases("shop", cache), []
    threads = [threading.Thread(target=lambda: found.append(here.fetched(arm).read_bytes())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 6 and len(names(cache)) == 1


@pytest.mark.parametrize(
    ("changed", "address", "told"),
    [
        ({"AWS_ENDPOINT_URL": AWAY}, None, "the object store is away or refuses (EndpointConnectionError"),
        ({}, "s3://models/nothing/shop.mar", "the store has no such object"),
        ({}, "s3://no-such-bucket/shop.mar", "the store has no such object"),
    ],
    ids=["away", "no object", "no bucket"],
)
def test_what_cannot_be_had_is_told_in_one_message(bucket, cache, monkeypatch, changed, address, told):
    arm = bucket()
    arm = replace(arm, archive=address or arm.archive)
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unreached) as fault:
        Releases("shop", cache).fetched(arm)
    assert str(fault.value).startswith(f"{arm.archive}: {told}") and "\n" not in str(fault.value)


def test_credentials_stay_out_of_messages_and_addresses(bucket, cache):
    arm = replace(bucket(), archive="s3://key:hush@models/shop.mar")
    with pytest.raises(InputError, match="has credentials in it") as fault:
        Releases("shop", cache).fetched(arm)
    assert "hush" not in str(fault.value)
    with pytest.raises(InputError, match="Expected an address such as"):
        Releases("shop", cache).fetched(replace(arm, archive="ess-three://models/shop.mar"))


def test_a_disk_that_fills_up_gets_its_room_back_and_the_message_says_what_to_set(bucket, cache):
    arm = bucket()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, before[1]))
    try:
        with pytest.raises(Unreached, match=r"cannot be kept in .* Set HETERREC_ARCHIVES"):
            Releases("shop", cache).fetched(arm)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(cache) == []
    assert Releases("shop", cache).fetched(arm).read_bytes() == CONTENT


def test_an_archive_larger_than_the_room_is_not_begun(bucket, cache, monkeypatch):
    arm = bucket()
    disk = type("Disk", (), {"free": 1000})
    monkeypatch.setattr("serving.releases.shutil.disk_usage", lambda folder: disk)
    with pytest.raises(Unreached, match=r"2,097,152 bytes to fetch and room for 1,000 only"):
        Releases("shop", cache).fetched(arm)


def test_who_must_not_wait_gets_the_archive_once_it_is_there_and_the_store_is_asked_again(bucket, cache, monkeypatch):
    arm, now = bucket(), [0.0]
    here = Releases("shop", cache, clock=lambda: now[0])
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", AWAY)
    began = time.monotonic()
    assert here.at_hand(arm) is None and time.monotonic() - began < 1
    assert within(60, lambda: not here._running)
    for _ in range(3):
        with pytest.raises(Unreached, match="is away or refuses"):
            here.at_hand(arm)
    assert not here._running, "it rests"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    now[0] = FIRST_REST
    with pytest.raises(Unreached):  # of the attempt before, while the next one runs
        here.at_hand(arm)
    assert within(60, lambda: not here._running)
    found = here.at_hand(arm)
    assert found is not None and found.read_bytes() == CONTENT


def test_a_store_that_takes_the_call_and_never_answers_keeps_nobody_waiting(bucket, cache, monkeypatch):
    arm = bucket()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        here = Releases("shop", cache)
        for _ in range(3):
            began = time.monotonic()
            assert here.at_hand(arm) is None
            assert time.monotonic() - began < 3
        assert here._running, "one attempt is under way"
        assert len([thread for thread in threading.enumerate() if thread.name == "archive"]) == 1
    assert within(120, lambda: not here._running)


def test_wrong_credentials_are_told_without_being_shown(bucket, cache, monkeypatch, server):
    arm = bucket()

    def checks_after(calls: str) -> None:
        address = f"{server['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(address, calls.encode(), plain)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request):
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush-hush")
    checks_after("0")
    try:
        with pytest.raises(
            Unreached, match=r"is away or refuses \(PermissionError: .*Check .* the credentials"
        ) as fault:
            Releases("shop", cache).fetched(arm)
    finally:
        checks_after("inf")
    assert "hush" not in str(fault.value)


def test_rests_grow_to_minutes_and_no_further(cache):
    arm, now, waited = replace(a_version(), archive="ess-three://models/shop.mar"), [0.0], []
    here = Releases("shop", cache, clock=lambda: now[0])
    for _ in range(8):
        with pytest.raises(InputError, match="ess-three") if waited else nullcontext():
            here.at_hand(arm)
        assert within(60, lambda: not here._running)
        _, until, rest = here._failed[arm.archive_digest]
        waited.append(rest)
        now[0] = until
    assert waited == [FIRST_REST, 20, 40, 80, 160, LONGEST_REST, LONGEST_REST, LONGEST_REST]


def test_the_cache_keeps_what_the_row_names_and_what_was_used_within_the_hour(bucket, cache, tmp_path):
    arms = [bucket(CONTENT + version.encode(), version=version) for version in ("1.0", "2.0", "3.0", "4.0")]
    here = Releases("shop", cache)
    paths = [here.fetched(arm) for arm in arms]
    other = Releases("another", cache).fetched(arms[0])
    junk = cache / "shop" / f"{'f' * 64}.mar.partial"
    junk.write_bytes(b"half")
    old = time.time() - UNUSED_SECONDS - 60
    for path in (*paths[:3], other, junk):
        os.utime(path, (old, old))
    before = set(cache.rglob("*.mar*"))
    emptied = row(arms[0])
    assert here.following(lambda: replace(emptied, champion=None, reference=None))().champion is None
    assert set(cache.rglob("*.mar*")) == before, "a table that was emptied says nothing about what serves"
    read = here.following(lambda: row(arms[0], arms[1]))
    assert read() == row(arms[0], arms[1])
    assert {path for path in cache.rglob("*.mar*")} == {paths[0], paths[1], paths[3], other}


def test_messages_and_log_lines_have_no_secret(bucket, cache, monkeypatch, caplog):
    arm = bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush-hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", AWAY)
    caplog.set_level(logging.INFO, logger="serving")
    here = Releases("shop", cache)
    here.at_hand(arm)
    assert within(60, lambda: not here._running)
    with pytest.raises(Unreached) as fault:
        here.at_hand(arm)
    assert "hush" not in str(fault.value) + caplog.text
