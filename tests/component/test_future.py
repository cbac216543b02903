"""Nothing that came to be known after a moment enters what was decided at it: planted feeds, and a scan of every path.

The feeds are what shops have: reviews, stock, bestseller rank and age of a listing, and of each shopper what was bought
last. Each is right as of every moment, and tells, as of now, what was bought in the held-out days.
"""

import ast
import inspect
import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from components.features import splits, step
from components.shared.tables import USERS as USERS_FILE
from heterrec.data.sequences import (
    NOW,
    Catalogue,
    Queries,
    Sequences,
    read_sequences,
)
from heterrec.evaluation.metrics import rank
from heterrec.inference import answers
from heterrec.inference.answers import Answers, judged
from heterrec.model import htfl
from heterrec.recipes import LossConfig, ModelConfig, TrainConfig
from heterrec.training.loop import train
from tests.component.make_events import (
    CARD,
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)
from tests.component.test_features import latest

ROOT = Path(__file__).parents[2]
DAYS, USERS, ITEMS = 12, 20, 12
TEST = 10
FEEDS = {"reviews": "numeric", "stock": "categorical", "rank": "numeric", "age": "numeric"}
CONFIG = TrainConfig(
    model=ModelConfig(width=8, item_layers=1, max_history=6, min_events=1),
    loss=LossConfig(token_candidates=5),
    epochs=2,
    batch_events=64,
)


def shop_with_feeds(folder: Path, *, until: float | None = None) -> Sequences:
    """A shop whose feeds follow what is bought; from the day `until` on they say something else, and those of a shopper
    from the first purchase after it on."""
    card = make_card(
        features=[{"name": "brand", "kind": "categorical"}]
        + [{"name": name, "kind": kind, "varies_in_time": True} for name, kind in FEEDS.items()],
        source={**CARD["source"], "users": "users.csv"},
        user_features=[{"name": "bought_last", "kind": "categorical"}],
        title=None,
    )
    rng = random.Random(0)
    shopping = [
        event(f"u{user:02d}", f"i{rng.randrange(ITEMS):02d}", at(day + rng.uniform(0.1, 0.9)))
        for user in range(USERS)
        for day in sorted(rng.sample(range(DAYS), 6))
    ]
    last = at(DAYS)
    shopping.append(event("u00", "i00", last))  # where the windows are counted from
    rows = []
    for day in range(DAYS + 1):
        sold = Counter(row["item_id"] for row in shopping if row["event_time"] < at(day))
        places = {name: place for place, (name, _) in enumerate(sold.most_common())}
        for number in range(ITEMS):
            name = f"i{number:02d}"
            told = {"reviews": float(sold[name]), "rank": float(places.get(name, ITEMS)), "age": float(day)}
            told["stock"] = "low" if sold[name] > 1.2 * day else "high"
            if until is not None and day > until:
                told = {"reviews": 1e4 * rng.random(), "rank": 1e3 * rng.random(), "age": 1e3, "stock": "gone"}
            rows.append({"item_id": name, "event_time": at(day), **told})
    users = bought_last(shopping, DAYS + 1 if until is None else until)
    items = [item(f"i{n:02d}") for n in range(ITEMS)]
    events = write_events(folder / "events", card, shopping, items, rows, users=users)
    inputs = {"events": events, "facts": write_facts(folder / "facts", last), "feast_root": folder / "feast"}
    step.run(card=card, **inputs, sequences=folder / "sequences")
    return read_sequences(folder / "sequences")


def bought_last(shopping: list[dict], until: float) -> list[dict]:
    """Of each user what was bought last, a row a microsecond after each purchase; once the first one of the day `until`
    or later is made, a thing that nobody sells."""
    rows, over = [], set()
    for row in sorted(shopping, key=lambda row: row["event_time"]):
        over |= {row["user_id"]} if row["event_time"] >= at(until) else set()
        said = "gone" if row["user_id"] in over else row["item_id"]
        since = row["event_time"] + timedelta(microseconds=1)
        rows.append({"user_id": row["user_id"], "event_time": since, "bought_last": said})
    return rows


def test_feeds_that_know_the_held_out_days_change_nothing_that_came_before_them(tmp_path: Path) -> None:
    whole = shop_with_feeds(tmp_path / "whole")
    queries = whole.queries("test")
    numbers = np.arange(len(queries))
    then, now = (np.array(whole.catalogue.columns(n)["reviews"]) for n in (int(whole.slices(queries)[0]), NOW))
    assert (now > then).any()
    leak = rank(lambda asked: np.repeat((now - then)[None], len(asked), axis=0).astype(np.float32), whole, queries)
    trained = train(whole, CONFIG)
    told = np.array(whole.catalogue.item_ids) == np.array(last_of(tmp_path / "whole", whole, queries))[:, None]
    by_user = rank(lambda asked: told[asked].astype(np.float32), whole, queries)
    assert by_user.mean("ndcg", 10) > 0.4, "what is known of the user as of now tells it too"
    assert trained.model.asker.table.abs().sum() > 0, "what is known of the user is learned from"
    assert leak.mean("ndcg", 10) > 0.4, "the feed as of now tells what was bought"

    cut = shop_with_feeds(tmp_path / "test", until=TEST)
    again = train(cut, CONFIG)
    assert [(p["loss"], p["validation_ndcg"]) for p in again.curve] == [
        (p["loss"], p["validation_ndcg"]) for p in trained.curve
    ]
    assert again.memory.beside == trained.memory.beside and again.memory.alone == trained.memory.alone
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    np.testing.assert_array_equal(
        judged(again.loaded, cut, queries)(numbers), judged(trained.loaded, whole, queries)(numbers)
    )
    served = [Answers.to_serve(trained.loaded, data).items for data in (whole, cut)]
    assert not np.allclose(*served), "what serves follows the newest values"


def last_of(folder: Path, data: Sequences, queries: Queries) -> list[str]:
    """What the users table tells, as of now, of who asks each query."""
    table = pq.read_table(folder / "sequences" / USERS_FILE)
    told = dict(zip(table["user_id"].to_pylist(), table["bought_last"].to_pylist(), strict=True))
    return [told[data.user_ids[user]] for user in queries.user]


@pytest.mark.parametrize("by", ["time", "order"])
def test_a_slice_holds_what_was_known_when_it_began(tmp_path: Path, by: str) -> None:
    """Against brute force over random timelines with corrections written down late and items that come later."""
    rng = random.Random(by)
    names = [f"i{n}" for n in range(6)]

    def moment() -> datetime:
        return at(rng.randrange(12), us=rng.choice([0, 0, 1, 999_999]))

    taken = sorted({(name, moment()) for name in rng.choices(names, k=60)})
    changes = [change(name, time, round(rng.uniform(1, 9), 2), rng.choice([None, "sale"])) for name, time in taken]
    changes += [
        {**row, "price": 99.0, "created_time": row["event_time"] + timedelta(days=rng.choice([1, 2, 900]))}
        for row in rng.sample(changes, 12)
    ]
    arrives = {name: at(-10) if n < 3 else at(2 * n) for n, name in enumerate(names)}
    items = [item(name, event_time=arrives[name]) for name in names]
    shopping = [event(f"u{rng.randrange(9)}", name, max(moment(), arrives[name])) for name in rng.choices(names, k=120)]
    card = make_card(split={"by": by, **({"validation_days": 2, "test_days": 2} if by == "time" else {})})
    last = max(row["event_time"] for row in shopping)
    inputs = {
        "events": write_events(tmp_path / "events", card, shopping, items, changes),
        "facts": write_facts(tmp_path / "facts", last),
        "feast_root": tmp_path / "feast",
    }
    step.run(card=card, **inputs, sequences=tmp_path / "sequences")
    rows = pq.read_table(tmp_path / "sequences" / "slices.parquet").to_pylist()
    since = sorted({row["__since"] for row in rows})
    first = min(row["event_time"] for row in shopping)
    assert since[0] == first
    if by == "time":
        assert since[-2:] == [last - timedelta(days=4), last - timedelta(days=2)] and len(since) <= splits.SLICES + 2
    else:
        assert 2 < len(since) <= splits.SLICES and since[-1] <= last
    assert len(rows) == len(since) * len(names)
    known_from = {
        name: min([arrives[name], *(row["event_time"] for row in shopping if row["item_id"] == name)]) for name in names
    }
    for row in rows:
        asked = max(row["__since"], known_from[row["item_id"]])
        for name in ("price", "label"):
            assert row[name] == latest(changes, row["item_id"], asked, name), row
    data = read_sequences(tmp_path / "sequences")
    for split in ("validation", "test"):
        queries = data.queries(split)
        numbers, times = data.slices(queries), data.time[queries.stop]
        begins = np.array([each.since for each in data.catalogue.slices])
        assert ((begins[numbers] < times) | (numbers == 0)).all() and (numbers < len(begins) - 1).all()


READS = {
    "components/features/step.py": "writes both",
    "heterrec/data/sequences.py": "reads both, the slices beside the catalogue of now",
    "heterrec/data/sequence_files.py": "writes both, as the features step does",
    "components/package/item_metadata.py": "what serves, as of now",
    "components/materialise/step.py": "the online store, as of now",
    "components/materialise/parity.py": "the online store against the catalogue of now",
    "benchmarks/serving/serving_shop.py": "writes a shop to serve",
    "benchmarks/features/stages.py": "ids alone",
    "components/train/plan.py": "how many items there are",
}
"""Who may name the files that say what items are like."""
READS_USERS = {
    "components/shared/tables.py": "names the file",
    "components/features/step.py": "writes it",
    "components/materialise/step.py": "the online store, as of now",
    "components/materialise/parity.py": "the online store against what is known now",
    "components/recommend/parts.py": "who is asked for, a file of its own",
}
"""Who may name the file that says what users are like as of now: nothing that trains or judges."""
SERVES = {
    "heterrec/data/sequences.py": "names it",
    "heterrec/data/sequence_files.py": "writes it beside the slices",
    "heterrec/inference/best.py": "what the library recommends is for now",
    "heterrec/inference/filtering.py": "filters of what is recommended now",
    "heterrec/inference/answers.py": "`Answers.to_serve`",
    "benchmarks/serving/scorer.py": "measures what serves",
    "benchmarks/serving/serving_shop.py": "makes a shop to serve",
}
"""Who may ask for the values as of now."""
FIXED = {
    "heterrec/data/sequences.py": "holds them",
    "heterrec/memory/neighbour_tables.py": "what is alike, by what lasts",
    "benchmarks/model/tables.py": "draws a shop",
    "heterrec/beyond.py": "how lists differ, by what lasts: it ranks nothing",
}
SLICES = {
    "heterrec/data/sequences.py": "holds them",
    "heterrec/data/sequence_files.py": "writes them",
    "heterrec/model/htfl.py": "encodes those of training, with when they begin",
}


def sources() -> list[tuple[str, ast.AST]]:
    folders = ("heterrec", "components", "pipelines", "benchmarks", "serving", "events", "experiments", "runtime")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths]


def of_a_catalogue(node: ast.Attribute) -> bool:
    owner = node.value
    return (isinstance(owner, ast.Name) and owner.id == "catalogue") or (
        isinstance(owner, ast.Attribute) and owner.attr == "catalogue"
    )


def names_users(node: ast.AST) -> bool:
    imported = isinstance(node, ast.ImportFrom) and node.module == "components.shared.tables"
    return imported and any(alias.name == "USERS" for alias in node.names)


def test_every_path_that_reads_what_items_are_like_says_as_of_when() -> None:
    """A new one must take a moment, or be named above with its reason."""
    found: dict[str, set[str]] = {name: set() for name in ("files", "users", "now", "fixed", "slices")}
    for name, tree in sources():
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if text in ("catalogue.parquet", "slices.parquet"):
                found["files"].add(name)
            if text == USERS_FILE or names_users(node):
                found["users"].add(name)
            if isinstance(node, ast.ImportFrom) and node.module == "heterrec.data.sequences":
                found["now"] |= {name for alias in node.names if alias.name == "NOW"}
            if isinstance(node, ast.Attribute) and node.attr in ("fixed", "slices") and of_a_catalogue(node):
                found[node.attr].add(name)
    named = {"files": READS, "users": READS_USERS, "now": SERVES, "fixed": FIXED, "slices": SLICES}
    for what, names in found.items():
        assert names <= named[what].keys(), f"{what}: as of when? {sorted(names - named[what].keys())}"
    assert (found["files"], found["users"]) == (READS.keys(), READS_USERS.keys())
    assert "heterrec/inference/answers.py" in found["now"]


@pytest.mark.parametrize(
    ("reader", "moment"),
    [
        (Catalogue.columns, "number"),
        (Catalogue.known_by, "time"),
        (htfl.encode_catalogue, "number"),
        (htfl.encode_slices, "count"),
        (answers.item_matrix, "number"),
        (answers.user_vectors, "number"),
        (Answers.__init__, "number"),
    ],
)
def test_the_moment_has_no_default(reader, moment: str) -> None:
    assert inspect.signature(reader).parameters[moment].default is inspect.Parameter.empty


def test_a_catalogue_gives_no_features_without_a_moment() -> None:
    """But for those that last, and what is made of a card that has no others; of users it has the names alone."""
    fields = {"item_ids", "available_at", "fixed", "slices", "features", "title", "event_types", "asking"}
    assert set(Catalogue.__dataclass_fields__) == fields
