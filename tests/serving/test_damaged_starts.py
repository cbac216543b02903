"""Processes that are really started where what they read has flipped bits and cut ends: they live, do their work, and
tell what was damaged."""

import asyncio
import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from events.consumer.erasure import NAME
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from feature_repo.forgotten import Forgotten, digest
from runtime.checksum import to_file
from serving import __main__ as serving
from serving.torchserve import archive
from tests.serving.forgotten_shop import within
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)

SEEDS = range(3)
TOKENS = [f"token-number-{number}-of-a-shop" for number in range(3)]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HANGS = 60.0


def damage(path: Path, draw: random.Random) -> None:
    """A flipped bit, or a cut end that is not the end of a line, which nobody could tell."""
    content = bytearray(path.read_bytes())
    if len(content) < 2:
        return
    if draw.random() < 0.5:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        del content[draw.randrange(1, len(content)) :]
        if content[-1:] == b"\n":
            del content[-1:]
    path.write_bytes(content)


class Started:
    """`python -m serving ...` as a process of its own: a fork of this one, which spares it the imports."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self._out = out
        self._pid = os.fork()
        if self._pid == 0:
            self._be(arguments)

    def _be(self, arguments: tuple[str, ...]) -> None:
        status = 1
        try:
            file = os.open(self._out, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            logging.getLogger().handlers.clear()
            status = serving.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    @property
    def told(self) -> str:
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    @property
    def lives(self) -> bool:
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def address(self, of: str) -> str:
        """The first one in a line of its output that begins with `of`."""

        def found() -> Any:
            assert self.lives, self.told
            return re.search(rf"^{of}.*(http://[\d.]+:\d+)", self.told, re.MULTILINE)

        within(HANGS, found)
        return str(found()[1])

    def ended(self) -> int:
        os.kill(self._pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@contextmanager
def started(out: Path, *arguments: str) -> Iterator[Started]:
    process = Started(out, *arguments)
    try:
        yield process
        assert process.ended() == 0, process.told
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(process._pid, signal.SIGKILL)
            os.waitpid(process._pid, 0)
        raise


def asked(url: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=HANGS) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def be(**settings: object) -> None:
        for name in [name for name in os.environ if name.startswith("HETERREC_")]:
            monkeypatch.delenv(name)
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))

    return be


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose log has days, a segment that was read, and one that was not."""
    home = tmp_path_factory.mktemp("filled") / "home"
    fill(home)
    shop = Transport(home)

    async def shopping(name: str) -> None:
        with shop.writer(roll_seconds=3600) as writer:
            for number in range(12):
                await writer.append("exposures", exposure(f"{name}{number}", f"u{number % 4}", ["i1", "i2"]))
                await writer.append("outcomes", outcome(f"{name}{number}", "i1"))

    asyncio.run(shopping("days-"))
    with shop.consumer() as consumer:
        shop.settle(consumer)
        asyncio.run(shopping("read-"))
        consumer.round()
    asyncio.run(shopping("unread-"))
    listed = Forgotten(home / "forgotten" / f"{shop.name}.txt")
    listed.add(["somebody", "else"], LONG_AGO)
    (shop.log / NAME).write_bytes(to_file({digest("somebody"): 1, digest("else"): 1}))
    return home


@pytest.mark.parametrize("seed", SEEDS)
def test_a_consumer_starts_on_damaged_files_and_no_acknowledged_line_goes_in_silence(
    seed: int, filled: Path, tmp_path: Path, environment: Callable[..., None]
) -> None:
    draw, home = random.Random(seed), tmp_path / "home"
    shutil.copytree(filled, home)
    environment(HETERREC_HOME=home)
    shop = Transport(home)
    read, unread = sorted((shop.log / "segments").glob("*.jsonl"))
    (day,) = (shop.log / "exposures").glob("day=*/*.parquet")
    for path in (read, unread, day, shop.log / "consumer.db", shop.log / NAME, home / "forgotten" / "tiny.txt"):
        damage(path, draw)
    card, options = str(home / "tiny.yaml"), ("--metrics-port", "0", "--flush-seconds", "0.1")
    with started(tmp_path / "out", "consumer", "--dataset", card, *options) as process:
        metrics = process.address("metrics")
        within(HANGS, lambda: not list((shop.log / "segments").glob("*.jsonl")))
        _, page = asked(f"{metrics}/metrics")
        assert "consumer_failures_total{" in page
    day.unlink()
    exposures, outcomes, interactions = (
        [row["request_id"] for row in shop.rows(table)] for table in ("exposures", "outcomes", "interactions")
    )
    for segment, name in ((read, "read-"), (unread, "unread-")):
        acknowledged = {f"{name}{number}" for number in range(12)}
        if acknowledged - set(exposures) or acknowledged - set(outcomes):
            assert f"{segment.name}, offset" in process.told
            assert re.search(r'consumer_set_aside_total{why="damaged"} [1-9]', page)
    assert all(len(rows) == len(set(rows)) for rows in (exposures, outcomes, interactions)), "nothing is doubled"
    assert {*exposures} & {*outcomes} <= {*interactions}, "what was acknowledged and is there has its interaction"


def test_a_segment_that_is_cut_after_it_was_read_is_told(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(filled, home := tmp_path / "home")
    shop = Transport(home)
    read, _ = sorted((shop.log / "segments").glob("*.jsonl"))
    first, *_ = read.read_bytes().splitlines(keepends=True)
    read.write_bytes(first)
    with shop.consumer() as consumer:
        consumer.round()
        assert consumer.metrics.lag_events._value.get() == 0, "what is gone is not waited for"
        shop.settle(consumer)
        assert consumer.metrics.set_aside.labels("damaged")._value.get() == 1
    (told,) = [row for row in shop.rows("set_aside") if "damaged" in row["reason"]]
    assert f"bytes of {read.name} are gone since they were read" in told["reason"]
    assert f"{read}, offset {len(first)}" in caplog.text
    assert len([row for row in shop.rows("interactions") if row["request_id"].startswith("read-")]) == 12


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gateway_starts_on_damaged_files_and_answers(
    seed: int, filled: Path, mar: Path, tmp_path: Path, environment: Callable[..., None]
) -> None:
    draw, home = random.Random(seed), tmp_path / "home"
    shutil.copytree(filled, home)
    optional, tokens, key = home / "challenger.mar", home / "tokens", home / "inference.key"
    shutil.copyfile(mar, optional)
    tokens.write_text("\n".join(TOKENS))
    key.write_text("k" * 8)
    damage(optional, draw)
    # Of some the file was damaged since the release, of the others it was released so.
    now = archive.digest(optional if seed % 2 and optional.stat().st_size < mar.stat().st_size else mar)
    champion = ModelVersion(
        version="1.0", archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="a", registered=LONG_AGO
    )
    challenger = ModelVersion(
        version="2.0", archive=str(optional), archive_digest=now, recipe_digest="b", registered=LONG_AGO
    )
    row = Rollout(
        model="tiny", champion=champion, challenger=challenger, stage=0, weight=0.5, salt="s", since=LONG_AGO, version=1
    )
    with RolloutTable(f"sqlite:///{home}/rollout.db") as table:
        table.propose(DocumentChange(row, "push", "a release"), 0)
    for path in (tokens, key, *(path for path in (home / "feast").rglob("*") if path.is_file())):
        damage(path, draw)
    environment(HETERREC_HOME=home, HETERREC_API_TOKENS_FILE=tokens, HETERREC_TORCHSERVE_KEYS=key)
    where = ("--torchserve", "http://127.0.0.1:1", "--port", "0")
    with started(tmp_path / "out", "gateway", "--dataset", "tiny", *where) as process:
        address, operation = process.address("tiny is recommended"), process.address("health")
        within(HANGS, lambda: asked(f"{operation}/ready")[0] == 200)
        kept = []
        for token in TOKENS:
            for user in "aef":  # of both arms
                status, body = asked(f"{address}/v1/recommendations", {"user_id": user}, token)
                assert status in (200, 401)
                if status == 200:
                    kept.append(found := json.loads(body))
                    event = {"request_id": found["request_id"], "event_type": "click"}
                    assert found["items"] and asked(f"{address}/v1/events", event, token)[0] == 202
        assert kept and {found["variant"] for found in kept} == {"champion", "challenger"}
        assert asked(f"{operation}/health")[0] == 200
    assert f"{optional}: the archive cannot be read, so 2.0 is not probed" in process.told
