"""Versions that were released to a bucket, served by machines that share no folder with who released them."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import fsspec
import pytest

from events.logged import latest
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from serving.releases import DamagedRelease, Releases
from serving.replay import replay
from serving.torchserve import archive
from serving.torchserve.client import HttpReply
from serving.torchserve.reconciler import Reconciler, Status
from serving.torchserve.server import TorchServe
from tests.s3_server import s3_bucket
from tests.serving.live_shop import fill
from tests.serving.open_gateway import NOW, OpenGateway, ask
from tests.serving.test_command import JSON
from tests.serving.test_scorer import GOOD
from tests.serving.test_server import within
from tests.serving.tiny_archive import write_content

ROOT = Path(__file__).parents[2]
AWAY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """torch traces every symbol of an export otherwise."""
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """The file system of a bucket, which the environment names."""
    with s3_bucket("models") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield fsspec.filesystem("s3", skip_instance_cache=True)


@pytest.fixture(scope="module")
def arms(bucket: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelVersion]:
    """Three versions, in the bucket only."""
    folder, found = tmp_path_factory.mktemp("made"), {}
    for seed, version in enumerate(("1.0", "2.0", "3.0")):
        content = write_content(folder / version, version=version, seed=seed, network=False)
        digest = archive.build(content, folder / "shop.mar", name="shop", version=version)
        address = f"s3://models/workspace/releases/shop/{version}/shop.mar"
        bucket.put_file(str(folder / "shop.mar"), address)
        (folder / "shop.mar").unlink()
        found[version] = ModelVersion(
            version=version, archive=address, archive_digest=digest, recipe_digest=version, registered=NOW
        )
    return found


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    with TorchServe(tmp_path_factory.mktemp("logs")) as running:
        yield running


def row(champion: ModelVersion, challenger: ModelVersion | None = None, version: int = 1) -> Rollout:
    experiment: dict[str, Any] = {"challenger": challenger, "stage": 0, "weight": 0.01} if challenger else {}
    return Rollout(model="shop", champion=champion, version=version, **experiment)


def follower(server: TorchServe, releases: Releases, says: list[Rollout], linger: float = 0.0) -> Reconciler:
    return Reconciler(server, read=releases.following(lambda: says[0]), archive_of=releases.at_hand, linger=linger)


def until(reconciler: Reconciler, holds: Callable[[Status], bool]) -> Status:
    """Looks, as `follow` does, until a status holds."""
    assert within(90, lambda: holds(reconciler.look())), reconciler.status
    return reconciler.status


def test_torchserve_serves_what_lies_in_the_bucket_only(
    torchserve: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    reconciler = follower(torchserve, Releases("shop", tmp_path), [row(arms["1.0"], arms["2.0"])])
    first = reconciler.look()
    assert first.versions == {"1.0": "loading", "2.0": "loading"} and not first.why and not first.ready
    status = until(reconciler, lambda status: set(status.versions.values()) == {"ready"})
    assert status.ready and not status.why
    assert torchserve.predict("shop", "2.0", GOOD).status == 200
    assert sorted(path.stem for path in (tmp_path / "shop").iterdir()) == sorted(
        arms[version].archive_digest for version in ("1.0", "2.0")
    )


def test_while_the_store_is_away_what_serves_answers_every_request_and_the_new_version_comes_later(
    torchserve: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says, now = [row(arms["1.0"])], [0.0]
    releases = Releases("shop", tmp_path, clock=lambda: now[0])
    reconciler = follower(torchserve, releases, says)
    until(reconciler, lambda status: status.ready)
    over, answers = threading.Event(), []

    def shop() -> None:
        while not over.is_set():
            try:
                answers.append(torchserve.predict("shop", "1.0", GOOD))
            except OSError as error:
                answers.append(HttpReply(0, str(error)))

    shopper = threading.Thread(target=shop)
    shopper.start()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", AWAY)
            says[0] = row(arms["3.0"], version=2)
            status = until(reconciler, lambda status: "3.0" in status.why)
            assert status.versions == {"3.0": "refused"} and not status.ready
            assert "3.0 cannot be had" in status.why["3.0"] and "is away or refuses" in status.why["3.0"]
            for _ in range(3):
                began = time.monotonic()
                reconciler.look()
                assert time.monotonic() - began < 5, "a look waits for no store"
            # A reconciler that starts meanwhile needs no archive for what is loaded.
            again = follower(torchserve, Releases("shop", tmp_path / "empty"), [row(arms["1.0"])])
            assert again.look().ready
        assert torchserve.versions("shop")["1.0"], "nothing is retired before what takes its place is ready"
        served = len(answers)
    finally:
        over.set()
        shopper.join()
    assert served > 10 and {reply.status for reply in answers} == {200}
    now[0] = 1e6
    assert until(reconciler, lambda status: status.ready).champion == "3.0"
    assert until(reconciler, lambda _: torchserve.versions("shop").keys() == {"3.0"})


def test_a_corrupted_object_is_refused_and_the_champion_goes_on(
    torchserve: TorchServe, arms: dict[str, ModelVersion], bucket: Any, tmp_path: Path
) -> None:
    address = "s3://models/workspace/releases/shop/9.0/shop.mar"
    bucket.pipe_file(address, bucket.cat_file(arms["2.0"].archive)[:-1] + b"x")
    corrupt = replace(arms["2.0"], archive=address)
    reconciler = follower(torchserve, Releases("shop", tmp_path), [row(arms["1.0"], corrupt)])
    status = until(reconciler, lambda status: status.ready and "2.0" in status.why)
    assert status.versions == {"1.0": "ready", "2.0": "refused"}
    assert f"{address}: found " in status.why["2.0"] and "is not served" in status.why["2.0"]
    assert "2.0" not in torchserve.versions("shop")
    # Beside it what is fetched once more may lie, in part.
    assert [path.stem for path in (tmp_path / "shop").glob("*.mar")] == [arms["1.0"].archive_digest]


def test_the_gateway_reads_popular_items_and_probes_from_the_bucket(
    torchserve: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path, open_gateway: OpenGateway
) -> None:
    releases = Releases("shop", tmp_path)
    client = open_gateway(row(arms["1.0"]), torchserve=AWAY, archive_of=releases.at_hand)
    assert within(60, lambda: client.get("/ready").status_code == 200)
    assert (answer := ask(client))["version"] == "popular" and answer["items"]
    reply = client.post("/v1/recommendations", json={"user_id": "u", "filters": {"colour": ["red"]}})
    assert reply.status_code == 422 and "no such filter" in reply.text


def test_a_gateway_that_starts_while_the_store_is_away_waits_and_says_so(
    arms: dict[str, ModelVersion], tmp_path: Path, open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    releases = Releases("shop", tmp_path, clock=lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", AWAY)
        client = open_gateway(row(arms["1.0"]), torchserve=AWAY, archive_of=releases.at_hand)
        assert within(60, lambda: "is away or refuses" in client.get("/ready").text)
        assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
        assert client.post("/v1/recommendations", json={"user_id": "u"}).status_code == 503
    now[0] = 1e6
    assert within(60, lambda: client.get("/ready").status_code == 200)


def test_a_gateway_holds_its_row_until_the_next_champions_archive_is_there(
    arms: dict[str, ModelVersion], tmp_path: Path, open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    says, now = [row(arms["1.0"])], [0.0]
    releases = Releases("shop", tmp_path, clock=lambda: now[0])
    client = open_gateway(lambda: says[0], torchserve=AWAY, archive_of=releases.at_hand)
    assert within(60, lambda: client.get("/ready").status_code == 200)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", AWAY)
        says[0] = row(arms["2.0"], version=2)
        assert within(60, lambda: "row 2 waits for its champion's archive" in client.get("/ready").text)
        assert client.get("/ready").status_code == 200 and ask(client)["items"]
        assert client.get("/ready").json()["out_of_traffic"] in ([], ["1.0"])
        # Back to the version before: its archive is known, so that no store has to answer.
        says[0] = row(arms["1.0"], version=3)
        assert within(30, lambda: "waits for" not in client.get("/ready").text)


def test_a_replay_asks_the_archives_of_the_bucket(
    torchserve: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path, open_gateway: OpenGateway
) -> None:
    releases = Releases("shop", tmp_path / "cache")
    until(follower(torchserve, releases, [row(arms["1.0"])]), lambda status: status.ready)
    client = open_gateway(row(arms["1.0"]), archive_of=releases.at_hand, torchserve=torchserve.address)
    assert within(60, lambda: client.get("/ready").status_code == 200)
    for number in range(5):
        assert ask(client, f"u{number}")["version"] == "1.0"
    shown = latest(tmp_path / "log", 10)
    elsewhere = Releases("shop", tmp_path / "elsewhere")
    done = replay(shown, arms, elsewhere.fetched)
    assert done.same == 5 and not done.differing
    with pytest.raises(DamagedRelease):
        replay(shown, {"1.0": replace(arms["1.0"], archive_digest="0" * 64)}, elsewhere.fetched)


@pytest.fixture
def machine(arms: dict[str, ModelVersion], tmp_path: Path) -> Path:
    """The workspace of a machine that has the rollout table, a feature store and no release."""
    home = tmp_path / "home"
    fill(home, name="shop")
    with RolloutTable(f"sqlite:///{home}/rollout.db") as table:
        table.propose(DocumentChange(replace(row(arms["1.0"]), since=NOW), "push", "the first"), 0)
    return home


@contextmanager
def process(home: Path, *arguments: str, ready: str) -> Iterator[re.Match[str]]:
    """`python -m serving …` on that machine, once it printed what `ready` finds; ended by a signal."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments], cwd=ROOT, env={**kept, "HETERREC_HOME": str(home)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    printed: list[str] = []
    try:
        assert running.stdout is not None
        for line in running.stdout:
            printed.append(line)
            if found := re.search(ready, line):
                yield found
                return
        raise AssertionError("".join(printed))
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)


def status(url: str, body: object = None) -> int:
    """Of an answer; 0 where there is none."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), JSON)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return int(reply.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_command_up_serves_a_version_that_this_machine_never_had(machine: Path) -> None:
    with process(machine, "up", "--dataset", "shop", ready=r"^curl -s (\S+) ") as found:
        assert status(found[1], GOOD) == 200
    (archives,) = (machine / "archives").rglob("*.mar*")
    assert archives.suffix == ".mar"
    assert not (machine / "releases").exists()


def test_the_command_gateway_answers_from_an_archive_that_this_machine_never_had(machine: Path) -> None:
    card = str(machine / "shop.yaml")
    with process(
        machine, "gateway", "--dataset", card, "--torchserve", AWAY, "--port", "0", ready=r"(http://\S+)/v1"
    ) as found:
        assert within(60, lambda: status(f"{found[1]}/ready") == 200)
        assert status(f"{found[1]}/v1/recommendations", {"user_id": "u1", "k": 3}) == 200


def test_the_command_ask_answers_from_an_archive_that_this_machine_never_had(machine: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    told = subprocess.run(
        [sys.executable, "-m", "pipelines", "ask", "--dataset", str(machine / "shop.yaml"), "--user", "u1"], cwd=ROOT,
        timeout=120, env={**kept, "HETERREC_HOME": str(machine)}, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "u1" in told.stdout and "1.0" in told.stdout


def test_a_command_whose_archive_cannot_be_had_says_so_in_one_line(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", AWAY)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    told = subprocess.run(
        [sys.executable, "-m", "pipelines", "ask", "--dataset", str(machine / "shop.yaml"), "--user", "u1"], cwd=ROOT,
        timeout=120, env={**kept, "HETERREC_HOME": str(machine)}, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 1 and told.stderr.startswith("error s3://models/workspace/releases/shop/1.0/shop.mar: ")
    assert len(told.stderr.splitlines()) == 1 and "is away or refuses" in told.stderr
