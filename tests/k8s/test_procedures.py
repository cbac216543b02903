"""The procedures of docs/operations.md that can be executed here, executed: by the command lines that it names."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    release,
)
from experiments.table import InterimAnalysis, RolloutTable
from runtime import workspace
from serving import __main__ as serving
from tests import redis_server
from tests.k8s import postgres_server
from tests.k8s.cluster import K8S
from tests.k8s.postgres_server import Postgres

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def told(command: str) -> None:
    """What is executed here has to be in the text."""
    assert command in OPERATIONS.read_text(), f"docs/operations.md does not name {command!r}"


def version(number: str) -> ModelVersion:
    return ModelVersion(
        version=number, archive=f"releases/shop/{number}/shop.mar", archive_digest=number * 8,
        recipe_digest=number, registered=NOW,
    )  # fmt: skip


def fill(url: str) -> Rollout:
    """A champion and its challenger, and one look at them."""
    row = Rollout(model="shop")
    with RolloutTable(url, clock=lambda: NOW) as table:
        for number in ("1.0", "2.0"):
            outcome = release(row, version(number), now=NOW, salt=lambda: "salt")
            row = table.propose(DocumentChange(outcome.rollout, "push", outcome.why), row.version)
        table.record("shop", InterimAnalysis(at=NOW, salt="salt", action="hold", why="too early", evidence={}))
    return row


@pytest.fixture(scope="module")
def postgres():
    if postgres_server.PROGRAMS is None:
        pytest.skip("Postgres is not installed (apt-get install postgresql; .ci/run does)")
    with Postgres() as server:
        for database in ("rollout", "registry", "mlflow"):
            server.client("createdb", database)
        yield server


def test_a_person_rolls_back_by_hand_on_the_cluster_s_database(postgres, monkeypatch, capsys):
    url = postgres.url("rollout")
    fill(url)
    monkeypatch.setenv("HETERREC_ROLLOUT_URL", url)
    why = ("--why", "shoppers complain", "--who", "ann")
    for action, more in (("status", ()), ("pause", why), ("rollback", why)):
        told(f"python -m serving rollout {action}")
        assert serving.main(["rollout", action, "--dataset", "shop", *more]) == 0
    assert "challenger 2.0" in capsys.readouterr().out
    with RolloutTable(url) as table:
        row, last = table.read("shop"), table.history("shop")[-1]
    assert row.champion == version("1.0") and row.challenger is None and row.weight == 0
    assert (last.who, last.why) == ("ann", "rollback: shoppers complain")


def test_two_writers_of_the_cluster_s_database_do_not_overwrite_each_other(postgres):
    from experiments.table import StaleRollout

    postgres.client("createdb", "raced")
    url = postgres.url("raced")
    row = fill(url)
    with RolloutTable(url) as first, RolloutTable(url) as second:
        first.propose(DocumentChange(row, "first", "moves"), row.version)
        with pytest.raises(StaleRollout):
            second.propose(DocumentChange(row, "second", "is late"), row.version)
        assert [entry.who for entry in second.history("shop")][-1] == "first"


def test_the_rollout_table_comes_back_from_its_backup(postgres, tmp_path):
    """Lost whole, restored into a new database: what serves, its history and its looks."""
    postgres.client("createdb", "precious")
    fill(postgres.url("precious"))
    saving = ("--no-owner", "--clean", "--if-exists")
    restoring = ("--single-transaction", "--set", "ON_ERROR_STOP=1")
    told(" ".join(("pg_dump", *saving)))
    told(" ".join(("psql", *restoring)))
    backup = postgres.client("pg_dump", *saving, "precious")
    postgres.client("dropdb", "precious")
    postgres.client("createdb", "restored")
    with RolloutTable(postgres.url("restored")) as table:  # a gateway that restarted meanwhile
        assert table.read("shop").champion is None
    postgres.client("psql", "--quiet", *restoring, "restored", given=backup)
    with RolloutTable(postgres.url("restored")) as table:
        row = table.read("shop")
        assert row.roles == {"champion": version("1.0"), "challenger": version("2.0")} and row.version == 2
        assert [entry.rollout.version for entry in table.history("shop")] == [1, 2]
        assert [look.why for look in table.decisions("shop", "salt")] == ["too early"]
        # It is a table that can be written, numbers of looks included.
        table.record("shop", InterimAnalysis(at=NOW, salt="salt", action="hold", why="again", evidence={}))
        table.propose(DocumentChange(row, "ann", "goes on"), row.version)


def test_a_row_is_written_anew_from_what_a_reconciler_kept(tmp_path):
    """Without a backup: by the lines of the text itself, from the file that lies in every TorchServe's folder."""
    row = fill(f"sqlite:///{tmp_path}/lost.db")
    (tmp_path / "rollout.json").write_text(json.dumps(row.to_json()))
    (script,) = re.findall(r"```python\n(.*?)```", OPERATIONS.read_text(), re.S)
    new = f"sqlite:///{tmp_path}/new.db"
    done = subprocess.run(
        [sys.executable, "-", str(tmp_path / "rollout.json")],
        input=script, cwd=workspace.ROOT, env={**os.environ, "HETERREC_ROLLOUT_URL": new},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with RolloutTable(new) as table:
        found = table.read("shop")
    assert found.roles == row.roles and (found.weight, found.salt, found.stage) == (row.weight, row.salt, row.stage)


@pytest.mark.skipif(redis_server.PROGRAM is None, reason=redis_server.MISSING)
def test_the_online_store_is_filled_again_after_redis_was_lost(tmp_path, monkeypatch):
    """Redis comes back empty; materialise, which every run and every refresh of the catalogue has, fills it again."""
    from feature_repo.online import online, user_history
    from feature_repo.store import connect
    from tests.component.make_events import (
        at,
        change,
        event,
        item,
        make_card,
        write_events,
        write_facts,
    )

    told("python -m pipelines catalogue")
    server = redis_server.RedisServer(tmp_path).start()
    try:
        monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
        monkeypatch.setenv("REDIS_ADDRESS", server.address)
        card = make_card()
        interactions = [event(f"u{n % 3}", f"i{n % 5}", at(n / 10)) for n in range(30)]
        items = [item(f"i{n}") for n in range(5)]
        prices = [change(f"i{n}", at(0), 10.0 + n) for n in range(5)]
        inputs = {
            "card": card,
            "events": write_events(tmp_path / "events", card, interactions, items, prices),
            "facts": write_facts(tmp_path / "facts", at(5)),
            "sequences": tmp_path / "sequences",
            "feast_root": tmp_path / "feast",
        }
        from components.features import step as features
        from components.materialise import step as materialise

        features.run(**inputs)

        def answers() -> object:
            store = connect(card.name, tmp_path / "feast")
            told_of = online(store, ["item_varying:price"], [{"item_id": "i3"}])["price"]
            return told_of, [user_history(store, f"u{n}") for n in range(3)]

        materialise.run(**inputs, materialised=tmp_path / "first")
        before = answers()
        assert before[0] == [13.0] and all(before[1])
        server.stop()
        server.start()
        assert answers() == ([None], [[], [], []])
        materialise.run(**inputs, materialised=tmp_path / "second")
        assert answers() == before
    finally:
        server.stop()


@pytest.mark.skipif(redis_server.PROGRAM is None, reason=redis_server.MISSING)
def test_redis_starts_with_the_manifest_s_own_settings_and_keeps_what_it_answered(tmp_path):
    """Its very configuration, with the users' file as docs/operations.md makes it; killed, and started again."""
    import socket
    import time

    import redis

    from events.stream import StreamSink

    (line,) = re.findall(r'users\.acl="\$\((printf .*?)\)"', OPERATIONS.read_text())
    made = subprocess.run(["sh", "-c", line], env={"REDIS": "s3cret", "PATH": os.environ["PATH"]}, capture_output=True)
    (tmp_path / "users.acl").write_bytes(made.stdout)
    config = (K8S / "base" / "redis.conf").read_text()
    config = config.replace("/etc/redis/users", str(tmp_path)).replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "redis.conf").write_text(config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start() -> tuple[subprocess.Popen[bytes], redis.Redis]:
        process = subprocess.Popen(
            [redis_server.PROGRAM, tmp_path / "redis.conf", "--port", str(port), "--bind", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis(port=port, username="heterrec", password="s3cret")
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                return process, client
            except redis.ConnectionError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

    process, client = start()
    try:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        sink = StreamSink(f"redis://heterrec:s3cret@127.0.0.1:{port}/0", "shop")
        sink.open()
        sink.write([b'{"n": 1}\n', b'{"n": 2}\n'])
        sink.close()
        process.kill()
        process.wait()
        process, client = start()
        assert client.xlen("events:shop") == 2
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.config_set("appendfsync", "no")
    finally:
        process.kill()
        process.wait()
