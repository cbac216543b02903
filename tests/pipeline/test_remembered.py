"""What releases remember of a deleted user, over real tables, a real rollout table and a real MLflow."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.shared.release_store import JUDGED, SERVED, store_release
from experiments.document import DocumentChange, ModelVersion
from experiments.table import RolloutTable
from heterrec.data.sequences import read_sequences
from heterrec.memory.neighbour_tables import alike, soonest_after
from heterrec.memory.neighbours import (
    BUCKETS,
    CHANNELS,
    Gate,
    Memory,
)
from heterrec.training.refit import without_pairs
from pipelines import remembered
from pipelines.remembered import Bought, leave_releases
from runtime import workspace
from runtime.manifest import NAME, Manifest
from serving.torchserve import archive as archives
from tests.pipeline.bought import with_pairs_alone
from tests.unit.heterrec.shop import write_shop


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Memory, list[str], str, Bought]:
    """Tables, their items, and a shopper with what only that one bought."""
    root = write_shop(tmp_path_factory.mktemp("remembered") / "sequences")
    data = read_sequences(root)
    events = pq.read_table(root / "events.parquet", filters=[("split", "=", "train")])
    gate = Gate(trust=1.0, bias_K=[0.0] * BUCKETS, gain_K=[1.0] * BUCKETS, weight_CK=[[1.0] * BUCKETS] * len(CHANNELS))
    memory = Memory(
        tables=(soonest_after(data), alike(data.catalogue)),
        decay_C=[0.8] * len(CHANNELS),
        count_V=data.training_counts,
        beside=gate,
        alone=gate,
    )
    return memory, data.catalogue.item_ids, *with_pairs_alone(events)


def release(memory: Memory, items: list[str], version: str, askers: list[str]) -> ModelVersion:
    """Stored as push stores one: judged tables, and what serves without their pairs; the archive has all of them."""
    made = workspace.home() / "made" / version
    folders = {name: made / name for name in (JUDGED, SERVED, "content")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    memory.save(folders[JUDGED] / "memory.npz")
    without_pairs(memory).save(folders[SERVED] / "memory.npz")
    for name in (JUDGED, SERVED):
        (folders[name] / "memory_items.json").write_text(json.dumps(items))
    content = folders.pop("content")
    memory.save(content / "memory.npz")
    (content / "items.json").write_text(json.dumps({"item_id": items}))
    (content / "serving.json").write_text(json.dumps({"digests": {"memory.npz": ""}, "version": version}))
    golden = (json.dumps({"request": {"user_id": asker}}) + "\n" for asker in askers)
    (content / "goldens.jsonl").write_text("".join(golden))
    digest = archives.build(content, made / "shop.mar", name="shop", version=version)
    stored = store_release(made / "shop.mar", folders, workspace.releases() / "shop" / version, digest=digest)
    about = {"version": version, "archive": str(stored), "archive_digest": digest, "recipe_digest": "r"}
    return ModelVersion(**about, registered=datetime(2026, 1, 5, tzinfo=UTC))


def serve(**arms: ModelVersion) -> None:
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read("shop")
        table.propose(DocumentChange(replace(row, **arms), "push", "test"), row.version)


def pairs(model: Path) -> Counter[tuple[int, int, float]]:
    table = Memory.load(model / "memory.npz").tables[0]
    owner = np.repeat(np.arange(len(table.first_V) - 1), np.diff(table.first_V))
    return Counter(zip(owner.tolist(), table.item_N.tolist(), table.weight_N.tolist(), strict=True))


def test_the_pairs_that_only_a_deleted_user_bought_leave_every_release_and_no_others_do(shop) -> None:
    """Whether it serves, is what refreshes are held against, or was replaced; named are archives that can serve."""
    memory, items, user, bought = shop
    made = {name: release(memory, items, name, []) for name in ("champion", "queued", "reference", "replaced")}
    serve(champion=made["champion"], reference=made["reference"], queue=(made["queued"],))
    models = {name: Path(version.archive).parent / JUDGED for name, version in made.items()}
    before = {name: pairs(model) for name, model in models.items()}
    assert leave_releases("shop", {user}, bought) == ["champion", "queued"]
    theirs = {items.index(item) for item in bought.users[user]}
    for name, model in models.items():
        gone = before[name] - pairs(model)
        assert gone and not pairs(model) - before[name], name
        for one, other, _ in gone:
            assert {one, other} <= theirs and bought.others[items[one]].isdisjoint(bought.others[items[other]])
        left = [(one, other) for one, other, _ in pairs(model) if {one, other} <= theirs]
        assert left, "what others bought too is theirs"
        assert not any(bought.others[items[one]].isdisjoint(bought.others[items[other]]) for one, other in left)
        whole = Memory.load(model / "memory.npz")
        assert whole.about() == memory.about() and np.array_equal(whole.count_V, memory.count_V)
        Manifest.verify(model.parent, kind="released")
        assert not list(model.glob(".*")), "nothing is left behind"
    copies = {(model / "memory.npz").read_bytes() for model in models.values()}
    assert len(copies) == 1, "the champion that was the reference still is the same tables"
    stamp = (models["champion"] / "memory.npz").stat().st_mtime_ns
    leave_releases("shop", {user}, bought)
    assert (models["champion"] / "memory.npz").stat().st_mtime_ns == stamp, "a second time changes nothing"


def test_an_archive_is_named_for_a_golden_request_alone_and_for_a_pair_alone(shop) -> None:
    memory, items, user, bought = shop
    nothing = without_pairs(memory)
    asked = release(nothing, items, "asked", [user])
    serve(champion=asked, queue=(release(nothing, items, "neither", ["another"]), release(memory, items, "pair", [])))
    assert leave_releases("shop", {user}, bought) == ["asked", "pair"]
    assert leave_releases("shop", {user}, Bought(users={}, others={})) == ["asked"], "a user without an event"
    assert leave_releases("never-released", {user}, bought) == []


def test_what_mlflows_server_was_given_is_replaced(shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls alone: what a real MLflow makes of them is in tests/component/test_push.py."""
    memory, items, user, bought = shop
    serve(champion=(made := release(memory, items, "1.0", [])))
    folder, asked = Path(made.archive).parent, []

    class Book:
        def __init__(self, url: str, name: str) -> None:
            self.name = name

        def replace(self, digest: str, release: Path, files: list[Path]) -> None:
            asked.append((self.name, digest, release, files))

    monkeypatch.setattr(remembered, "has_copies", lambda url: True)
    monkeypatch.setattr(remembered, "Registry", Book)
    for _ in range(2):
        leave_releases("shop", {user}, bought)
    changed = [folder / JUDGED / "memory.npz", folder / NAME]
    assert asked == [("shop", made.archive_digest, folder, changed)], "what serves had no pairs; a second time neither"
