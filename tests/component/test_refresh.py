"""The archive of what serves over another day's catalogue: of neighbour tables, which are packaged in a moment."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.package import step as package
from components.refresh import step
from components.refresh.step import patch
from components.shared.release_store import JUDGED, SERVED
from experiments.document import ModelVersion
from feature_repo.card import DatasetCard, Serving
from heterrec import recipes
from heterrec.data.sequences import read_sequences
from heterrec.memory.neighbours import Memory
from heterrec.training.export import save_model
from heterrec.training.loop import train
from runtime.errors import InputError
from serving.torchserve import archive as archives
from tests.component.shop_card import CARD
from tests.unit.heterrec.shop import write_shop

VERSION = "20260210-0123abcd"


class Shop:
    """A shop in which tables serve that look at more than those that were judged."""

    def __init__(self, root: Path) -> None:
        self.sequences, self.released = write_shop(root / "sequences", basket=3), root / "releases" / "shop" / VERSION
        data = read_sequences(self.sequences)
        for folder, recipe in (
            (JUDGED, replace(recipes.neighbours(), memory=("content",))),
            (SERVED, recipes.neighbours()),
        ):
            save_model(train(data, recipe), self.released / folder)
        package.run(
            card=CARD, sequences=self.sequences, model=self.released / SERVED, archive=self.released, name="shop",
            version=VERSION,
        )  # fmt: skip

    def refresh(self, archive: Path, sequences: Path | None = None, card: DatasetCard = CARD) -> dict[str, Any]:
        serving = ModelVersion(
            version=VERSION, archive=str(self.released / "shop.mar"), archive_digest="d", recipe_digest="of the arm",
            registered=datetime(2026, 2, 10, tzinfo=UTC), network=False,
        )  # fmt: skip
        archive.mkdir()
        return step.run(card=card, sequences=sequences or self.sequences, serving=serving, archive=archive)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("refresh"))


def memory_of(mar: Path) -> Memory:
    return Memory.load(BytesIO(archives.read(mar, "memory.npz")))


def test_on_a_day_on_which_nothing_came_nothing_changes(shop: Shop, tmp_path: Path) -> None:
    told = shop.refresh(tmp_path / "archive")
    assert (told["changed"], told["new_items"]) == (False, 0)
    assert (told["refreshes"], told["version"]) == (VERSION, f"{VERSION}.1")
    assert told["recipe_digest"] == "of the arm", "the code may have moved on, its weights have not"
    assert json.loads((tmp_path / "archive" / "report.json").read_text()) == told
    mar = tmp_path / "archive" / "shop.mar"
    goldens = [json.loads(line)["request"] for line in archives.read(mar, "goldens.jsonl").splitlines()]
    offered = json.loads(archives.read(mar, "serving.json"))["placements"]
    assert {golden.get("placement", "for_you") for golden in goldens} == set(offered), "it is proven everywhere"


def test_it_is_made_of_what_serves_and_not_of_what_was_judged(shop: Shop, tmp_path: Path) -> None:
    """And of a release that has but one model, of that."""
    shop.refresh(tmp_path / "archive")
    whole = memory_of(shop.released / "shop.mar").about()
    assert memory_of(tmp_path / "archive" / "shop.mar").about() == whole
    (shop.released / SERVED).rename(tmp_path / "away")
    try:
        assert shop.refresh(tmp_path / "again")["changed"]
        assert memory_of(tmp_path / "again" / "shop.mar").about() != whole
    finally:
        (tmp_path / "away").rename(shop.released / SERVED)


Edit = Callable[[pa.Table], pa.Table]


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Edit:
    def edit(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, table.field(place), pa.array(change(table[name].to_pylist()), table[name].type))

    return edit


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("events", lambda table: table.filter(pc.not_equal(table["user_id"], "u0003"))),
        ("events", column("basket", lambda baskets: list(range(len(baskets))))),
        ("catalogue", column("price", lambda prices: [9.5, *prices[1:]])),
        ("catalogue", column("tags", lambda tags: [["another"], *tags[1:]])),
    ],
    ids=["a deleted user", "other baskets", "a price", "tags"],
)
def test_whatever_the_archive_answers_by_is_a_change(file: str, edit: Edit, shop: Shop, tmp_path: Path) -> None:
    moved = shutil.copytree(shop.sequences, tmp_path / "sequences", copy_function=shutil.copy)
    pq.write_table(edit(pq.read_table(moved / f"{file}.parquet")), moved / f"{file}.parquet")
    told = shop.refresh(tmp_path / "archive", moved)
    assert (told["changed"], told["new_items"]) == (True, 0)


def test_the_same_catalogue_of_a_later_moment_is_no_change(shop: Shop, tmp_path: Path) -> None:
    later = shutil.copytree(shop.sequences, tmp_path / "later", copy_function=shutil.copy)
    about = json.loads((later / "features.json").read_text())
    (later / "features.json").write_text(json.dumps(about | {"as_of": "2026-03-01T00:00:00+00:00"}))
    told = shop.refresh(tmp_path / "archive", later)
    assert (told["changed"], told["new_items"]) == (False, 0)
    contract = json.loads(archives.read(tmp_path / "archive" / "shop.mar", "serving.json"))
    assert contract["as_of"] == "2026-03-01T00:00:00+00:00" != about["as_of"]


@pytest.mark.parametrize("changed", [{"repeats": False}, {"serving": Serving(retrieval="approximate")}], ids=str)
def test_a_card_that_asks_for_other_answers_is_a_change(changed: dict[str, Any], shop: Shop, tmp_path: Path) -> None:
    """Nobody trains for it: the next run of the catalogue brings it."""
    card = DatasetCard.model_validate(CARD.model_dump() | changed)
    assert shop.refresh(tmp_path / "archive", card=card)["changed"]


def test_of_an_archive_only_its_own_check_its_code_and_its_names_are_no_answer(shop: Shop) -> None:
    """Whatever else a contract has, or will have, is one."""
    contract = json.loads(archives.read(shop.released / "shop.mar", "serving.json"))
    names = [*contract, *contract["digests"]]

    def other(name: str) -> dict[str, Any]:
        digests = {file: "another" if file == name else digest for file, digest in contract["digests"].items()}
        return {**contract, "digests": digests, **({name: "another"} if name in contract else {})}

    told = {name for name in names if name != "digests" and step._answers(other(name)) == step._answers(contract)}
    assert told == {"goldens.jsonl", "encoder.py", "neighbours.py", "version", "recipe_digest", "as_of"}


def test_an_item_that_came_is_counted_and_one_that_left_is_not(shop: Shop, tmp_path: Path) -> None:
    moved = shutil.copytree(shop.sequences, tmp_path / "sequences", copy_function=shutil.copy)
    for file in ("catalogue", "slices", "events"):
        table = pq.read_table(moved / f"{file}.parquet")
        gone = table.filter(pc.not_equal(table["item_id"], "i007"))
        renamed = column("item_id", lambda ids: [{"i003": "i003b"}.get(each, each) for each in ids])(gone)
        pq.write_table(renamed, moved / f"{file}.parquet")
    assert shop.refresh(tmp_path / "archive", moved)["new_items"] == 1


def test_a_release_without_its_model_is_told(shop: Shop, tmp_path: Path) -> None:
    (shop.released / JUDGED).rename(tmp_path / "away")
    try:
        with pytest.raises(InputError, match=rf"{JUDGED}: version {VERSION} has none. Restore the release folder."):
            shop.refresh(tmp_path / "archive")
    finally:
        (tmp_path / "away").rename(shop.released / JUDGED)


@pytest.mark.parametrize("version", ["1.0", "20260105-1f0c9a7e", "20260105-12345678", "12.34", "v1"])
def test_patches_are_counted_and_never_one_version_twice(version: str) -> None:
    found = [version]
    for _ in range(11):
        found.append(patch(found[-1]))
    assert found[1:] == [f"{version}.{number}" for number in range(1, 12)] or version == "v1"
    assert len(set(found)) == 12
