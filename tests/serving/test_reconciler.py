"""TorchServe made to match the rollout row: the real server, with tokens, swapped under load and killed."""

import json
import logging
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest

from experiments.document import ModelVersion, Rollout
from serving.torchserve import archive, readiness
from serving.torchserve.client import HttpReply, TorchServeClient
from serving.torchserve.keys import INFERENCE_KEY, Keys
from serving.torchserve.reconciler import FIRST_REST, STATUS, Reconciler
from serving.torchserve.server import MAX_REQUEST_BYTES, TorchServe
from tests.serving.damaged_reconciler import (  # noqa: F401
    as_it_was,
    environment,
    test_a_reconciler_starts_on_damaged_files_and_what_serves_goes_on,
    test_an_emptied_table_beside_a_damaged_copy_takes_nothing_out,
)
from tests.serving.test_scorer import GOOD
from tests.serving.tiny_archive import write_content

NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """torch traces every symbol of an export otherwise."""
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """A TorchServe that asks for tokens."""
    with TorchServe(tmp_path_factory.mktemp("logs"), tokens=True) as running:
        yield running


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelVersion]:
    folder = tmp_path_factory.mktemp("arms")
    return {version: arm(folder, version, seed=seed) for seed, version in enumerate(("1.0", "2.0", "3.0"))}


def arm(folder: Path, version: str, *, seed: int, **changed: Any) -> ModelVersion:
    content = write_content(folder / f"content{version}", version=version, seed=seed, network=False)
    digest = archive.build(content, folder / f"{version}.mar", name="shop", version=version)
    plain = {"archive": str(folder / f"{version}.mar"), "archive_digest": digest, "recipe_digest": version}
    return ModelVersion(version=version, registered=NOW, **{**plain, **changed})


def broken(folder: Path) -> ModelVersion:
    """A version whose items are other ones than those that it was trained with."""
    content = write_content(folder / "broken", version="9.0", network=False)
    np.save(content / "item_matrix.npy", np.roll(np.load(content / "item_matrix.npy"), 1, axis=0))
    contract = json.loads((content / "serving.json").read_text())
    contract["digests"]["item_matrix.npy"] = archive.digest(content / "item_matrix.npy")
    (content / "serving.json").write_text(json.dumps(contract))
    digest = archive.build(content, folder / "9.0.mar", name="shop", version="9.0")
    return ModelVersion(
        version="9.0", archive=str(folder / "9.0.mar"), archive_digest=digest, recipe_digest="9", registered=NOW
    )


def row(champion: ModelVersion, challenger: ModelVersion | None = None, version: int = 1) -> Rollout:
    experiment: dict[str, Any] = {"challenger": challenger, "stage": 0, "weight": 0.01} if challenger else {}
    return Rollout(model="shop", champion=champion, version=version, **experiment)


def test_versions_are_ready_once_proven_and_what_is_named_no_longer_is_retired(
    guarded: TorchServe, arms: dict[str, ModelVersion]
) -> None:
    now, says = [0.0], [row(arms["1.0"], arms["2.0"])]
    reconciler = Reconciler(guarded, read=lambda: says[0], linger=30, clock=lambda: now[0])
    assert not reconciler.status.ready
    status = reconciler.look()
    assert status.ready and status.versions == {"1.0": "ready", "2.0": "ready"} and not status.why
    written = json.loads((guarded.folder / STATUS).read_text())
    assert (written["ready"], written["champion"], written["row"]) == (True, "1.0", 1)
    says[0] = row(arms["2.0"], version=2)
    assert reconciler.look().versions == {"2.0": "ready"}
    assert guarded.call("inference", "POST", "/predictions/shop", json.dumps(GOOD).encode()).body["version"] == "2.0"
    now[0] = 29.0
    reconciler.look()
    assert guarded.versions("shop").keys() == {"1.0", "2.0"}, "a gateway may still ask the one before"
    now[0] = 31.0
    reconciler.look()
    assert guarded.versions("shop") == {"2.0": True}
    assert [path.name for path in (guarded.folder / "store").iterdir()] == ["shop-2.0.mar"]


def test_swapping_versions_under_load_fails_no_request(guarded: TorchServe, arms: dict[str, ModelVersion]) -> None:
    says = [row(arms["1.0"])]
    reconciler = Reconciler(guarded, read=lambda: says[0], linger=1.0)
    assert reconciler.look().ready
    over, answers = threading.Event(), []

    def shop() -> None:
        """As a gateway does: ask the champion of the latest status that was ready."""
        while not over.is_set():
            version = ready[0]
            try:
                answers.append((version, guarded.predict("shop", version, GOOD)))
            except OSError as error:
                answers.append((version, HttpReply(0, {"version": str(error)})))

    ready = ["1.0"]
    shoppers = [threading.Thread(target=shop) for _ in range(8)]
    for shopper in shoppers:
        shopper.start()
    try:
        for number, version in enumerate(("2.0", "3.0", "1.0"), start=2):
            says[0] = row(arms[version], version=number)
            deadline = time.monotonic() + 90
            while guarded.versions("shop").keys() != {version}:
                assert time.monotonic() < deadline
                status = reconciler.look()
                if status.ready and status.champion:
                    ready[0] = status.champion
                time.sleep(0.2)
    finally:
        over.set()
        for shopper in shoppers:
            shopper.join()
    assert {reply.status for _, reply in answers} == {200}
    assert all(reply.body["version"] == version for version, reply in answers)
    assert {version for version, _ in answers} == {"1.0", "2.0", "3.0"}


def test_an_altered_archive_and_wrong_answers_are_refused_once_and_never_ready(
    guarded: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    altered, wrong, now = arm(tmp_path, "4.0", seed=4, archive_digest="0" * 64), broken(tmp_path), [0.0]
    says = [row(arms["1.0"], altered)]
    reconciler = Reconciler(guarded, read=lambda: says[0], linger=0, clock=lambda: now[0])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            status = reconciler.look()
            assert status.ready and status.versions == {"1.0": "ready", "4.0": "refused"}
        assert caplog.messages == [status.why["4.0"]] and "expected 000000000000; refused" in caplog.text
        caplog.clear()
        says[0] = row(wrong, version=2)
        for _ in range(3):
            status = reconciler.look()
            assert not status.ready and status.versions == {"9.0": "refused"}
        assert len(caplog.messages) == 1 and "6 of 9 golden requests are answered otherwise" in caplog.text
    assert guarded.versions("shop") == {"1.0": True}, "what served goes on serving"
    # The right file is put in place: it is tried at once, without waiting for the rest to end.
    says[0] = row(replace(altered, archive_digest=archive.digest(Path(altered.archive))), version=3)
    assert reconciler.look().ready
    assert now[0] < FIRST_REST


def test_a_table_that_is_away_changes_nothing_not_even_for_a_reconciler_started_meanwhile(
    guarded: TorchServe, arms: dict[str, ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Rollout:
        raise RuntimeError("no route to the database")

    assert Reconciler(guarded, read=lambda: row(arms["1.0"], version=7), linger=0).look().ready
    registered: list[Path] = []
    monkeypatch.setattr(guarded, "register", lambda mar, **_: registered.append(mar))
    status = Reconciler(guarded, read=away, linger=0).look()
    assert status.ready and (status.row, status.champion) == (7, "1.0")
    assert "no route to the database" in status.why["rollout"]
    assert not registered, "what is loaded and right is proven, not loaded again"


def test_a_table_that_was_emptied_neither_stops_what_serves_nor_takes_the_last_copy_of_the_row(
    guarded: TorchServe, arms: dict[str, ModelVersion]
) -> None:
    says = [row(arms["1.0"], version=8)]
    before = Reconciler(guarded, read=lambda: says[0], linger=0)
    assert before.look().ready
    copy = (guarded.folder / "rollout.json").read_text()
    says[0] = Rollout(model="shop")
    started_meanwhile = Reconciler(guarded, read=lambda: says[0], linger=0)
    for reconciler in (before, started_meanwhile):
        status = reconciler.look()
        assert status.ready and (status.row, status.champion) == (8, "1.0")
        assert "it was emptied" in status.why["rollout"]
        assert (guarded.folder / "rollout.json").read_text() == copy
    says[0] = row(arms["1.0"], version=1)  # restored from a backup
    assert before.look().row == 1 and json.loads((guarded.folder / "rollout.json").read_text())["version"] == 1


def test_a_folder_that_cannot_be_written_is_told_once_and_stops_no_version(
    guarded: TorchServe, arms: dict[str, ModelVersion], caplog: pytest.LogCaptureFixture
) -> None:
    blocked = guarded.folder / f".partial-{os.getpid()}-status.json"
    blocked.mkdir()
    try:
        reconciler = Reconciler(guarded, read=lambda: row(arms["2.0"], version=9), linger=0)
        assert reconciler.look().ready and reconciler.look().ready
    finally:
        blocked.rmdir()
    (told,) = [record for record in caplog.records if "cannot be written" in record.message]
    assert "status.json" in told.message and told.exc_info is None


def test_a_fault_that_lasts_is_logged_once_and_again_when_it_comes_back(
    guarded: TorchServe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = iter([KeyError("x"), KeyError("x"), None, KeyError("x")])
    stop = threading.Event()

    def look() -> None:
        fault = next(looks, stop)
        if fault is stop:
            stop.set()
        elif fault is not None:
            raise fault

    reconciler = Reconciler(guarded, read=lambda: Rollout(model="shop"))
    monkeypatch.setattr(reconciler, "look", look)
    reconciler.follow(stop, every=0.0)
    assert sum("a look at TorchServe failed" in line for line in caplog.messages) == 2


def test_a_killed_torchserve_is_not_ready_and_gets_its_versions_back(
    guarded: TorchServe, arms: dict[str, ModelVersion]
) -> None:
    reconciler = Reconciler(guarded, read=lambda: row(arms["1.0"], arms["2.0"]), linger=0)
    assert reconciler.look().ready
    assert guarded._process is not None
    os.killpg(guarded._process.pid, signal.SIGKILL)
    guarded._process.wait()
    assert not guarded.alive
    status = reconciler.look()
    assert not status.ready and status.versions == {"1.0": "loading", "2.0": "loading"}
    assert "TorchServe does not answer" in status.why["torchserve"]
    address, key = guarded.address, guarded.key_file and guarded.key_file.read_text()
    guarded.restart()
    assert reconciler.look().versions == {"1.0": "ready", "2.0": "ready"}
    assert guarded.address == address
    assert guarded.key_file is None or guarded.key_file.read_text() != key
    assert guarded.predict("shop", "2.0", GOOD).status == 200


def test_the_inference_key_is_published_to_its_user_only_and_renewed_before_it_expires(
    guarded: TorchServe, arms: dict[str, ModelVersion]
) -> None:
    reconciler = Reconciler(guarded, read=lambda: row(arms["1.0"]), linger=0)
    path = guarded.folder / INFERENCE_KEY
    reconciler.look()
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    reconciler.look()
    assert path.read_text() == first
    at = [datetime.now(UTC)]
    guarded.keys = Keys(guarded.folder, clock=lambda: at[0])
    reconciler.look()
    at[0] += timedelta(minutes=31)
    reconciler.look()
    second = path.read_text()
    assert second != first
    assert ask_with(guarded, first) == 400 and ask_with(guarded, second) == 200
    at[0] += timedelta(hours=5)  # the reconciler was away for longer than a key lives
    reconciler.look()
    assert reconciler.status.ready and path.read_text() not in (first, second)


def ask_with(server: TorchServe, key: str | None) -> int:
    """Status of a prediction asked for with `key`."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(
        f"{server.address}/predictions/shop/1.0", json.dumps(GOOD).encode(), headers, method="POST"
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            return int(reply.status)
    except HTTPError as error:
        return error.code


def test_wrong_keys_large_bodies_and_foreign_archives_are_refused(
    guarded: TorchServe, arms: dict[str, ModelVersion], mar: Path
) -> None:
    assert Reconciler(guarded, read=lambda: row(arms["1.0"]), linger=0).look().ready
    assert guarded.keys is not None
    keys = guarded.keys.read()
    wrong = [None, "wrong", keys["management"].key, keys["API"].key]
    assert [ask_with(guarded, key) for key in wrong] == [400] * 4
    assert ask_with(guarded, keys["inference"].key) == 200
    large = {**GOOD, "exclude": ["x" * 100] * (MAX_REQUEST_BYTES // 100)}
    assert guarded.predict("shop", "1.0", large).status == 413
    assert guarded.predict("shop", "1.0", GOOD).status == 200
    shutil.copy(mar, guarded.folder / "elsewhere.mar")
    for url in (f"file://{guarded.folder}/elsewhere.mar", "http://127.0.0.1:9/shop.mar", "../elsewhere.mar"):
        assert guarded.call("management", "POST", f"/models?url={url}").status >= 400, url
    without = TorchServeClient(
        inference=guarded.address,
        management=guarded._addresses["management"],
        folder=guarded.folder,
        tokens=False,
    )
    assert (
        without.predict("shop", "1.0", GOOD).body["type"] == "InvalidKeyException"
    )  # what tells a gateway to read anew
    assert without.call("management", "GET", "/models").status == 400
    assert without.call("management", "DELETE", "/models/shop/1.0").status == 400
    assert guarded.versions("shop") == {"1.0": True}


def test_beyond_loopback_tokens_are_not_to_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beyond loopback TorchServe has to ask for tokens"):
        TorchServe(tmp_path, host="0.0.0.0", tokens=False)


def test_probes_are_told_over_http(guarded: TorchServe, arms: dict[str, ModelVersion]) -> None:
    reconciler = Reconciler(guarded, read=lambda: row(arms["1.0"]), linger=0)
    with readiness.served(lambda: reconciler.status, host="127.0.0.1", port=0) as port:

        def get(path: str) -> tuple[int, Any]:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(f"http://127.0.0.1:{port}{path}") as reply:
                    return reply.status, json.loads(reply.read())
            except HTTPError as error:
                return error.code, json.loads(error.read())

        assert get("/ready")[0] == 503 and get("/health")[0] == 200 and get("/else")[0] == 404
        reconciler.look()
        assert get("/ready") == (200, reconciler.status.to_json())


class Overloaded(TorchServeClient):
    """The server behind it, whose queue is full for all askings but one in `let_through`."""

    let_through, asked = 10**9, 0

    def predict(self, model: str, version: str, request: object, *, timeout: float = 30.0) -> HttpReply:
        self.asked += 1
        if self.asked % self.let_through:
            return HttpReply(503, {"code": 503, "type": "ServiceUnavailableException", "message": "no worker"})
        return super().predict(model, version, request, timeout=timeout)


def test_without_an_answer_nothing_is_proven_and_nothing_is_taken_out(
    guarded: TorchServe, arms: dict[str, ModelVersion]
) -> None:
    says = [row(arms["1.0"])]
    assert Reconciler(guarded, read=lambda: says[0], linger=0).look().ready
    management = guarded._addresses["management"]
    full = Overloaded(
        inference=guarded.address, management=management, folder=guarded.folder, tokens=bool(guarded.keys)
    )
    started_meanwhile = Reconciler(full, read=lambda: says[0], linger=0)
    for _ in range(3):
        assert started_meanwhile.look().ready, "proven before, still loaded"
        assert guarded.versions("shop") == {"1.0": True}
        assert "no answer (such as status 503)" in started_meanwhile.status.why["goldens of 1.0"]
    # What was never proven is not ready before it is, however long that takes, and is not unloaded meanwhile.
    says[0] = row(arms["1.0"], arms["2.0"], version=2)
    assert started_meanwhile.look().versions == {"1.0": "ready", "2.0": "loading"}
    assert guarded.versions("shop") == {"1.0": True, "2.0": True}
    full.let_through = 7
    deadline = time.monotonic() + 60
    while (status := started_meanwhile.look()).versions != {"1.0": "ready", "2.0": "ready"} or status.why:
        assert time.monotonic() < deadline, status


def test_the_word_of_a_process_before_is_not_taken_once_an_answer_is_wrong(
    guarded: TorchServe, arms: dict[str, ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    says = row(arms["1.0"])
    assert Reconciler(guarded, read=lambda: says, linger=0).look().ready
    other = Reconciler(guarded, read=lambda: says, linger=0)
    raised = HttpReply(503, {"code": 503, "type": "InternalServerException", "message": "Prediction failed"})
    monkeypatch.setattr(guarded, "predict", lambda *_, **__: raised)
    status = other.look()
    assert not status.ready and status.versions == {"1.0": "refused"}, "a handler that raises has answered"
    assert "1.0" not in guarded.versions("shop")


def test_what_serves_is_not_unloaded_for_a_damaged_copy_or_archive(
    guarded: TorchServe, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    mine = tmp_path / "1.0.mar"
    shutil.copy(arms["1.0"].archive, mine)
    says = row(replace(arms["1.0"], archive=str(mine)))
    assert Reconciler(guarded, read=lambda: says, linger=0).look().ready
    for path in (mine, guarded.copy_of("shop", "1.0")):
        path.write_bytes(path.read_bytes()[:-100])
    status = Reconciler(guarded, read=lambda: says, linger=0).look()
    assert "refused, an archive is code" in status.why["1.0"]
    assert guarded.versions("shop") == {"1.0": True} and guarded.predict("shop", "1.0", GOOD).status == 200
    shutil.copy(arms["1.0"].archive, mine)
    assert Reconciler(guarded, read=lambda: says, linger=0).look().ready
