"""Who wants an item most: by chances that can be held against each other, and in any number of parts and processes."""

import csv
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.recommend.champion import champion_of
from components.recommend.parts import PARTS, OtherLists, part_of
from components.recommend.step import asked_of
from pipelines.audience import (
    ROWS,
    Audience,
    audience,
    of_champion,
    write,
)
from runtime.errors import InputError
from serving.scoring.scorer import Scorer
from tests.pipeline.test_batch import SHOPPERS, Made, kill_with
from tests.serving.tiny_archive import ITEMS, write_content


@pytest.fixture(scope="module", params=[False, True], ids=["once", "again"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a shop where an item is bought once, and of one where it is bought again."""
    return write_content(tmp_path_factory.mktemp("audience") / "content", repeats=request.param)


ASKED: dict[str, Any] = {
    "model": "shop", "version": "1.0", "archive_digest": "d", "users": SHOPPERS, "items": ["i2", "i5"], "top": 100,
}  # fmt: skip


def found(content: Path, **changes: Any) -> Audience:
    with TemporaryDirectory() as making:
        return audience(content=content, **{"histories": Made(), "making": Path(making) / "parts", **ASKED, **changes})


def by_hand(content: Path, items: list[str]) -> dict[str, float]:
    """Of each shopper with a history the chance of any of `items`, by the ten best items and these."""
    scorer, chances = Scorer.load(content), {}
    for user, history in Made()(SHOPPERS).items():
        if not any(event["item_id"] in ITEMS for event in history):
            continue
        (whole,) = scorer.score([{"history": history, "k": 10, "exclude_seen": False}])
        (given,) = scorer.score([{"history": history, "placement": "ranking", "items": items}])
        logits = {item["item_id"]: item["score"] for item in (*whole["items"], *given["items"])}
        total = sum(math.exp(logit) for logit in logits.values())
        chances[user] = sum(math.exp(logits[item]) for item in items) / total
    return chances


def test_the_best_shoppers_are_those_with_the_best_chances(content: Path) -> None:
    expected = by_hand(content, ["i2", "i5"])
    all_of_them = found(content, owners=True)
    assert {each.user_id: each.chance for each in all_of_them.best} == pytest.approx(expected, rel=1e-3)
    order = [each.chance for each in all_of_them.best]
    assert order == sorted(order, reverse=True)
    assert (all_of_them.shoppers, all_of_them.unknown) == (len(SHOPPERS), len(SHOPPERS) - len(expected))
    assert found(content, owners=True, top=3).best == all_of_them.best[:3]


def test_whoever_has_it_is_left_out_where_it_is_bought_once(content: Path) -> None:
    owners = {
        user
        for user, history in Made()(SHOPPERS).items()
        if not {"i2", "i5"}.isdisjoint(event["item_id"] for event in history)
    }
    assert owners
    everybody = {each.user_id for each in found(content, owners=True).best}
    assert {each.user_id for each in found(content, owners=False).best} == everybody - owners
    by_rule = {each.user_id for each in found(content).best}
    again = '"exclude_seen": false' in (content / "serving.json").read_text()
    assert by_rule == (everybody if again else everybody - owners)
    assert found(content).owners == len(owners)


def test_parts_and_order_of_the_shoppers_change_nothing(content: Path) -> None:
    whole = found(content, top=5)
    assert found(content, top=5, part=4, users=[*reversed(SHOPPERS), "u001"]) == whole


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_it_is_written_best_first_as_parquet_or_csv(content: Path, tmp_path: Path, kind: str) -> None:
    best, out = found(content, top=4), tmp_path / "new" / f"who.{kind}"
    write(best, out)
    if kind == "csv":
        with out.open() as file:
            rows = [{**row, "rank": int(row["rank"]), "chance": float(row["chance"])} for row in csv.DictReader(file)]
    else:
        assert pq.read_schema(out).equals(ROWS)
        rows = pq.read_table(out).to_pylist()
    assert [(row["rank"], row["user_id"], row["item_id"]) for row in rows] == [
        (rank, each.user_id, each.item_id) for rank, each in enumerate(best.best, start=1)
    ]
    assert [row["chance"] for row in rows] == pytest.approx([each.chance for each in best.best])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


KILLED = """
import sys
from pathlib import Path
from tests.pipeline.test_audience import found
from tests.pipeline.test_batch import Made

found(Path(sys.argv[1]), making=Path(sys.argv[2]), part=4, histories=Made(slow=0.2))
"""


def test_what_was_killed_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    content = write_content(tmp_path / "content")
    making, whole = tmp_path / "parts", found(content)
    kill_with(KILLED, content, making, least=2)
    untouched = {path: path.stat().st_mtime_ns for path in (making / PARTS).glob("part-*")}
    assert 2 <= len(untouched) < 6
    assert found(content, making=making, part=4) == whole
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    with pytest.raises(OtherLists, match="was begun with items"):
        found(content, making=making, part=4, items=["i2"])


def test_the_command_goes_on_with_its_own_question_and_begins_another_anew(tiny_home: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"top": 5, "owners": True, "processes": 1}
    whole, _ = of_champion("tiny", items=["i2"], out=tmp_path / "first.csv", **asked)
    making = tmp_path / ".who.csv.parts"
    with champion_of("tiny") as champion:  # as a killed command leaves it
        audience(**asked_of(champion), items=["i2"], making=making, **asked)
        kept = pq.read_table(part_of(making, 0))
        pq.write_table(kept.slice(0, 1), part_of(making, 0))
    again, _ = of_champion("tiny", items=["i2"], out=tmp_path / "who.csv", **asked)
    assert len(whole.best) > 1 and again.best == whole.best[:1], "what was there is not made anew"
    assert not making.exists() and (tmp_path / "who.csv").is_file()
    with champion_of("tiny") as champion:
        audience(**asked_of(champion), items=["i2"], making=making, **asked)
    other, _ = of_champion("tiny", items=["i5"], out=tmp_path / "who.csv", **asked)
    assert {each.item_id for each in other.best} == {"i5"} and not making.exists()


def test_an_item_that_there_is_not_is_named(content: Path) -> None:
    with pytest.raises(InputError, match=r"--item: found 'gone', expected an item of the catalogue"):
        found(content, items=["i2", "gone"])
