"""A tiny model, really trained, packaged, and served by the real TorchServe."""

import json
import math
import shutil
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.infra_validate import step as infra_validate
from components.package import step as package
from feature_repo.card import Serving
from heterrec import recipes
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, read_sequences
from heterrec.inference.answers import Answers, judged
from heterrec.memory import neighbours
from heterrec.memory.neighbours import Memory
from heterrec.recipes import TrainConfig
from heterrec.training.export import load_model, save_model
from heterrec.training.loop import train
from runtime.code_digest import reached
from runtime.decision import Decision
from runtime.errors import InputError
from runtime.files import digest_file
from serving.gateway.archive import read_contents
from serving.gateway.tables import NeighbourAnswers
from serving.scoring.forms import HOLDS
from serving.scoring.item_tower import ItemTower, load_item_program
from serving.scoring.remembering import Remembering
from serving.scoring.scorer import Scorer
from serving.torchserve import archive as archives
from serving.torchserve.client import HttpReply
from serving.torchserve.goldens import differences
from tests.component import shop_card
from tests.pipeline.bought import with_pairs_alone
from tests.unit.heterrec.shop import VARYING, write_shop
from tests.unit.heterrec.test_kinds import typed

ROOT = Path(__file__).parents[2]
OTHERS = [
    {"name": "left", "kind": "numeric", "varies_in_time": True, "dimension": None},
    {"name": "name", "kind": "text", "varies_in_time": False, "dimension": None},
]
MAX_HISTORY = 6
CARD = shop_card.CARD.model_copy(update={"title": "title"})


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_shop(tmp_path_factory.mktemp("package") / "sequences")
    about = json.loads((root / "features.json").read_text())
    (root / "features.json").write_text(json.dumps(about | {"title": "title"}))
    return root


@pytest.fixture(scope="session")
def model(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = replace(recipes.heterrec(), epochs=1)
    tiny = replace(tiny, model=replace(tiny.model, width=16, item_layers=1, max_history=MAX_HISTORY))
    root = tmp_path_factory.mktemp("package") / "model"
    save_model(train(read_sequences(sequences), tiny), root)
    return root


def packaged(sequences: Path, model: Path, archive: Path, **changed: Any) -> dict[str, Any]:
    archive.mkdir(parents=True)
    return package.run(card=CARD, sequences=sequences, model=model, archive=archive, name="shop", **changed)


@pytest.fixture(scope="session")
def archive(sequences: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package") / "archive"
    packaged(sequences, model, root)
    return root


def goldens(archive: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in archives.read(archive / "shop.mar", "goldens.jsonl").splitlines()]


def test_the_archive_holds_the_contract_and_nothing_of_this_machine(archive: Path) -> None:
    assert {path.name for path in archive.iterdir()} == {"shop.mar", "report.json"}
    contents = zipfile.ZipFile(archive / "shop.mar")
    assert set(contents.namelist()) == {
        "program.pt2", "item_matrix.npy", "items.json", "encoder.json", "encoder.py", "goldens.jsonl", "serving.json",
        "popular.json", "memory.npz", "neighbours.py", "items.pt2", "MAR-INF/MANIFEST.json", *archives.code(),
    }  # fmt: skip
    for name in contents.namelist():
        assert str(ROOT).encode() not in contents.read(name), name


def test_every_item_has_by_its_raw_values_and_the_item_program_the_vector_that_the_archive_has_of_it(
    archive: Path, sequences: Path, tmp_path: Path
) -> None:
    """Of all kinds of features, missing values among them, with an ID of its own or not, and with what memory adds."""
    zipfile.ZipFile(archive / "shop.mar").extractall(tmp_path)
    contract, items = (json.loads((tmp_path / name).read_text()) for name in ("serving.json", "items.json"))
    encoder = FeatureEncoder.from_json((tmp_path / "encoder.json").read_text())
    assert {each["holds"] for each in contract["item_features"]} == {*HOLDS}, "every form of a value"
    assert len(encoder.ids) > 0 and contract["as_of"] == json.loads((sequences / "features.json").read_text())["as_of"]
    tower = ItemTower(
        load_item_program(tmp_path),
        encoder=encoder,
        contract=contract,
        rows={item: row for row, item in enumerate(items["item_id"])},
        items=items,
        memory=Remembering(tmp_path, neighbours, alone=False),
    )
    table = pq.read_table(sequences / "catalogue.parquet").select([each["name"] for each in contract["item_features"]])
    entries = [
        {"item_id": item, "features": values, "since": 0.0}
        for item, values in zip(items["item_id"], table.to_pylist(), strict=True)
    ]
    assert any(None in entry["features"].values() for entry in entries)
    upserts = tower.of(entries)
    np.testing.assert_allclose(upserts.vector_ND, np.load(tmp_path / "item_matrix.npy"), atol=1e-5)
    assert upserts.titles == items["title"] and tower.of(entries) is upserts, "made once"


def memory_of(archive: Path) -> Memory:
    return Memory.load(BytesIO(archives.read(archive / "shop.mar", "memory.npz")))


def test_what_serves_remembers_the_held_out_days_too(sequences: Path, model: Path, archive: Path) -> None:
    """What was judged does not: its folder has the tables of the training events."""
    data, served, judged = read_sequences(sequences), memory_of(archive), Memory.load(model / "memory.npz")
    np.testing.assert_array_equal(judged.count_V, data.training_counts)
    np.testing.assert_array_equal(served.count_V, np.bincount(data.row, minlength=len(data.catalogue)))
    assert len(served.tables[0].item_N) > len(judged.tables[0].item_N)
    assert served.about() == judged.about(), "the gates are those that were fitted"


def test_a_deleted_users_pairs_leave_with_the_next_package(sequences: Path, model: Path, tmp_path: Path) -> None:
    """The model folder may still have them: what is packaged is counted anew."""
    events = pq.read_table(sequences / "events.parquet")
    user, bought = with_pairs_alone(events)
    packaged(sequences, model, tmp_path / "before")
    left = shutil.copytree(sequences, tmp_path / "left", copy_function=shutil.copy)
    pq.write_table(events.filter(pc.not_equal(events["user_id"], user)), left / "events.parquet")
    packaged(left, model, tmp_path / "after")
    items = read_sequences(sequences).catalogue.item_ids
    left_of = [bought.alone(memory_of(tmp_path / name).tables[0], items).sum() for name in ("before", "after")]
    assert left_of[0] > 0 == left_of[1]


def test_an_archive_answers_by_todays_values_and_the_model_was_judged_by_those_of_its_window(tmp_path: Path) -> None:
    """Of everything that an archive shows or reckons with: vectors of items, and what a filter sees."""
    data = read_sequences(sequences := write_shop(tmp_path / "sequences", users=40, changing=True))
    tiny = replace(recipes.heterrec(), epochs=1)
    tiny = replace(tiny, model=replace(tiny.model, width=16, item_layers=1, max_history=MAX_HISTORY))
    save_model(train(data, tiny), tmp_path / "model")
    packaged(sequences, tmp_path / "model", tmp_path / "archive")
    mar, loaded, queries = tmp_path / "archive" / "shop.mar", load_model(tmp_path / "model"), data.queries("test")
    (window,) = np.unique(data.slices(queries)).tolist()
    then, now = (data.catalogue.columns(number) for number in (window, NOW))
    assert then["price"] != now["price"] and then["stock"] != now["stock"]
    shown = json.loads(archives.read(mar, "items.json"))["features"]
    assert all(shown[name] == now[name] for name in VARYING)

    today = Answers.to_serve(loaded, data)
    of_window = Answers(loaded, data.catalogue, window)
    matrix = np.load(BytesIO(archives.read(mar, "item_matrix.npy")))
    np.testing.assert_array_equal(matrix, today.items)
    judged_by = judged(loaded, data, queries)(numbers := np.arange(len(queries)))
    np.testing.assert_array_equal(judged_by, of_window.scores(data, queries)(numbers))
    of_window.memory = today.memory  # all else alike
    assert not np.allclose(matrix, of_window.items), "the item vectors move with the values"


def test_tables_alone_are_packaged_and_served(sequences: Path, tmp_path: Path) -> None:
    """Without a network there is no program; the scorer answers the goldens all the same."""
    save_model(train(read_sequences(sequences), recipes.neighbours()), tmp_path / "model")
    packaged(sequences, tmp_path / "model", tmp_path / "archive")
    archives_of = zipfile.ZipFile(tmp_path / "archive/shop.mar")
    assert not {"program.pt2", "items.pt2"} & set(archives_of.namelist())
    archives_of.extractall(tmp_path / "content")
    scorer = Scorer.load(tmp_path / "content")
    for golden in goldens(tmp_path / "archive"):
        (answer,) = scorer.score([golden["request"]])
        expected = golden["answer"]["items"]
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected]
        np.testing.assert_allclose(
            [item["score"] for item in answer["items"]], [item["score"] for item in expected], atol=1e-4
        )


def test_the_same_model_gives_the_same_archive_wherever_and_whenever(
    sequences: Path, model: Path, archive: Path, tmp_path: Path
) -> None:
    first = json.loads((archive / "report.json").read_text())
    moved = shutil.copytree(model, tmp_path / "elsewhere", copy_function=shutil.copy)
    assert packaged(sequences, moved, tmp_path / "again") == first
    assert archives.digest(tmp_path / "again/shop.mar") == first["archive_digest"]
    assert first["version"].startswith("20260210-")


def test_a_change_of_what_the_archive_runs_makes_another_archive() -> None:
    known = reached("components.package.step")
    packaged = {entry.removesuffix(".py").replace("/", ".") for entry in archives.code() if entry != "handler.py"}
    assert {"serving.torchserve.handler", *packaged - {"serving.__init__", "serving.scoring.__init__"}} <= known


def test_a_recipe_is_settings_and_features_but_not_the_seed(sequences: Path, model: Path, tmp_path: Path) -> None:
    catalogue = read_sequences(sequences).catalogue

    def digest(**changed: Any) -> str:
        recipe = json.loads((model / "recipe.json").read_text())
        (tmp_path / "recipe.json").write_text(json.dumps(recipe | changed))
        return package.recipe_digest(tmp_path, catalogue)

    assert digest(seed=7) == digest() == package.recipe_digest(model, catalogue)
    assert digest(epochs=99) != digest()
    assert package.recipe_digest(model, replace(catalogue, features=catalogue.features[1:])) != digest()


def test_a_retraining_on_other_data_is_of_the_same_recipe_though_its_sizes_differ(
    sequences: Path, model: Path, tmp_path: Path
) -> None:
    data, asked = read_sequences(sequences), TrainConfig.from_json((model / "recipe.json").read_text())
    assert asked.sized, "sizes are to be derived from the data"
    trained = train(data, asked)
    later = replace(trained.config, model=replace(trained.config.model, dropout=trained.config.model.dropout - 0.01))
    save_model(replace(trained, config=later), tmp_path)
    assert package.recipe_digest(tmp_path, data.catalogue) == package.recipe_digest(model, data.catalogue)


def test_goldens_are_real_histories_of_all_lengths_and_the_two_strangers(sequences: Path, archive: Path) -> None:
    found = goldens(archive)
    assert len(found) >= 20
    lengths = [len(golden["request"]["history"]) for golden in found]
    assert min(lengths) == 0 and max(lengths) > MAX_HISTORY
    assert {golden["request"].get("exclude_seen") for golden in found} == {True, False, None}
    assert any(None in event["features"].values() for golden in found for event in golden["request"]["history"][:-1])
    assert sorted(golden["answer"]["unknown_items"] for golden in found)[-2:] == [0, 1]
    data = read_sequences(sequences)
    request = found[3]["request"]
    user = data.user_ids.index(request["user_id"])
    bought = data.row[data.offsets[user] : data.offsets[user + 1]]
    expected = [data.catalogue.item_ids[row] for row in bought][: len(request["history"])]
    assert [event["item_id"] for event in request["history"]] == expected


def test_what_is_told_of_items_is_that_of_the_catalogue_also_what_the_model_does_not_see(
    model: Path, tmp_path: Path
) -> None:
    sequences = write_shop(tmp_path / "sequences")
    about = json.loads((sequences / "features.json").read_text())
    others = [{**each, "date": "Europe/Berlin"} if each["name"] == "left" else each for each in OTHERS]
    (sequences / "features.json").write_text(json.dumps(about | {"title": "name", "others": others}))
    table = pq.read_table(sequences / "catalogue.parquet")
    ids, brands = table["item_id"].to_pylist(), table["brand"].to_pylist()
    left = [math.nan if row == 0 else float(row) for row in range(len(ids))]
    named = table.append_column("left", pa.array(left)).append_column("name", pa.array([f"Thing {i}" for i in ids]))
    pq.write_table(named, sequences / "catalogue.parquet")
    packaged(sequences, model, tmp_path / "archive")
    items, popular, contract = (
        json.loads(archives.read(tmp_path / "archive/shop.mar", name))
        for name in ("items.json", "popular.json", "serving.json")
    )
    assert contract["filterable"] == {
        "brand": "categorical", "tags": "multi_categorical", "price": "numeric", "stock": "categorical",
        "left": "numeric",
    }  # fmt: skip
    assert contract["dates"] == {"left": "Europe/Berlin"}
    assert items["features"].keys() == contract["filterable"].keys()
    assert items["features"]["left"] == [None, *left[1:]]
    assert (items["item_id"], items["title"]) == (ids, [f"Thing {i}" for i in ids])
    assert (contract["segment"], popular["segment"], items["segment"]) == ("brand", "brand", brands)
    data = read_sequences(sequences)
    counts = dict(zip(ids, np.bincount(data.row, minlength=len(ids)).tolist(), strict=True))
    assert sum(counts.values()) > data.training_counts.sum(), "what is popular is so today, held out or not"
    assert items["events"] == [*counts.values()]
    best = sorted(ids, key=lambda item: (-counts[item], item))
    assert [(entry["item_id"], entry["events"]) for entry in popular["overall"]] == [(i, counts[i]) for i in best]
    assert popular["by_segment"].keys() == {brand for brand in brands if brand}
    of_one = [entry["item_id"] for entry in popular["by_segment"]["brand1"]]
    assert of_one == [item for item in best if brands[ids.index(item)] == "brand1"]
    first = popular["overall"][0]
    assert first["title"] == f"Thing {first['item_id']}"
    assert first["features"] == {name: values[ids.index(best[0])] for name, values in items["features"].items()}


def test_goldens_ask_by_every_feature_that_a_request_may_filter_by(archive: Path) -> None:
    for_you = [golden for golden in goldens(archive) if "placement" not in golden["request"]]
    asked = [golden for golden in for_you if "filters" in golden["request"]]
    assert {name for golden in asked for name in golden["request"]["filters"]} == {"brand", "tags", "price", "stock"}
    assert all(golden["request"]["exclude"] for golden in asked)
    assert sum(bool(golden["answer"]["items"]) for golden in asked) > len(asked) / 2
    assert any(not golden["request"]["history"] for golden in asked)


def test_the_scorer_answers_the_goldens_as_the_trained_model_does(archive: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(archive / "shop.mar").extractall(tmp_path)
    found = goldens(archive)
    answers = Scorer.load(tmp_path).score([golden["request"] for golden in found])
    for golden, answer in zip(found, answers, strict=True):
        assert differences(golden, HttpReply(200, answer)) == []
    assert answers[0]["items"][0]["title"].split()[1] == "thing"
    (newcomer,) = (
        answer for golden, answer in zip(found, answers, strict=True)
        if golden["request"] == {"user_id": "new", "history": [], "k": 10}
    )  # fmt: skip
    popular = [item["score"] for item in newcomer["items"]]
    assert newcomer["fallback"] == "popular" and popular == sorted(popular, reverse=True)


@pytest.mark.parametrize("recipe", ["heterrec", "neighbours"])
def test_an_archive_of_several_kinds_of_events_answers_as_the_model_does(tmp_path: Path, recipe: str) -> None:
    types = [{"name": "buy", "predict": True}, {"name": "view"}, {"name": "wave", "negative": True}]
    data = typed(tmp_path / "sequences", types, repeats=False)
    config = replace(recipes.by_name(recipe), epochs=1, least_steps=0)
    if recipe == "heterrec":
        config = replace(config, model=replace(config.model, width=16, item_layers=1, max_history=MAX_HISTORY))
    save_model(train(data, config), tmp_path / "model")
    card = CARD.model_copy(update={"repeats": False, "title": None})
    archive = tmp_path / "archive"
    archive.mkdir()
    package.run(card=card, sequences=tmp_path / "sequences", model=tmp_path / "model", archive=archive, name="shop")
    content = tmp_path / "content"
    with zipfile.ZipFile(archive / "shop.mar") as mar:
        mar.extractall(content)
    scorer = Scorer.load(content)
    goldens = [json.loads(line) for line in (content / "goldens.jsonl").read_text().splitlines()]
    assert {
        event["event_type"] for golden in goldens for event in golden["request"]["history"] if "event_type" in event
    }
    for golden in goldens:
        (answer,) = scorer.score([golden["request"]])
        assert not differences(golden, HttpReply(200, answer)), golden["request"]
    whole = [golden["request"] for golden in goldens if not golden["answer"]["unknown_items"]]
    asked = max(whole, key=lambda each: len(each["history"]))
    tables = NeighbourAnswers.read(archive / "shop.mar")
    assert tables is not None

    def answered(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (answer,) = scorer.score(
            [{**asked, "filters": {}, "exclude": [], "k": 40, "exclude_seen": True, "history": history}]
        )
        found: list[dict[str, Any]] = answer.get("items", [answer])
        return found

    def as_kind(kind: Any) -> list[dict[str, Any]]:
        return [{**event, "event_type": kind} for event in asked["history"]]

    own = {event["item_id"] for event in asked["history"]}
    shown = {kind: {each["item_id"] for each in answered(as_kind(kind))} for kind in ("buy", "view", "wave", None)}
    assert not shown["buy"] & own and not shown[None] & own, "what the shopper has is not shown again"
    assert own <= shown["view"] and own <= shown["wave"], "what was looked at is"
    # A kind that no history of training had is no part of one.
    extra = [{**asked["history"][-1], "event_type": "scroll"}]
    assert answered(asked["history"] + extra) == answered(asked["history"])
    assert "history[0].event_type" in str(answered([{**asked["history"][0], "event_type": 3}]))
    mar = archive / "shop.mar"
    contents = read_contents(mar, digest_file(mar))
    assert contents.had(as_kind("view")) == set() and contents.had(as_kind("buy")) == own


def test_an_index_has_its_recall_on_the_models_own_users_and_answers_the_goldens(model: Path, tmp_path: Path) -> None:
    sequences = write_shop(tmp_path / "sequences", items=400, users=60)
    card = CARD.model_copy(update={"serving": Serving(retrieval="approximate"), "title": None})
    digests = []
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        report = package.run(card=card, sequences=sequences, model=model, archive=tmp_path / folder, name="shop")
        digests.append(report["archive_digest"])
    assert digests[0] == digests[1], "the same model gives the same archive"
    contract = json.loads(archives.read(tmp_path / "first/shop.mar", "serving.json"))
    assert contract["retrieval"]["by"] == "approximate" and contract["retrieval"]["recall_at_100"] >= 0.99
    assert "index.faiss" in contract["digests"]
    zipfile.ZipFile(tmp_path / "first/shop.mar").extractall(tmp_path / "content")
    found = goldens(tmp_path / "first")
    assert any("filters" in golden["request"] for golden in found) and len(found) > 15
    answers = Scorer.load(tmp_path / "content").score([golden["request"] for golden in found])
    assert [differences(golden, HttpReply(200, answer)) for golden, answer in zip(found, answers, strict=True)] == [
        [] for _ in found
    ]


def test_answers_of_another_models_items_are_found_wrong(archive: Path, tmp_path: Path) -> None:
    content = altered(archive, tmp_path / "archive", lambda matrix: np.roll(matrix, 1, axis=0))
    found = goldens(archive)
    answers = Scorer.load(content).score([golden["request"] for golden in found])
    replies = [HttpReply(200, answer) for answer in answers]
    wrong, _, names = infra_validate.same_answers(found, replies, "shop", "another")
    assert not wrong.held and wrong.found > len(found) / 2
    assert wrong.evidence[0]["differences"][0].startswith("place 1")
    assert not names.held and names.found == len(found)


def test_infra_validation_serves_replays_and_measures(archive: Path, tmp_path: Path) -> None:
    decision = infra_validate.run(archive=archive, validation=tmp_path, max_p99_ms=0.001)
    assert [reason.check for reason in decision.blocking] == ["latency_p99_ms"]  # too strict a limit, all else held
    assert Decision.read(tmp_path) == decision
    found = decision.summary()["found"]
    assert found["archive"] == archives.digest(archive / "shop.mar")
    assert found["golden_answers_wrong"] == found["malformed_requests_not_refused"] == 0
    assert found["largest_score_difference"] < 1e-4
    assert 0 < found["latency_p50_ms"] <= found["latency_p99_ms"]
    assert found["latency_ratio"] is None, "nothing serves yet"


def test_a_slower_archive_is_told_by_what_serves_and_not_by_the_clock(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that serves answers as the new one does, on whatever machine; a planted wait is three times as long."""
    served = tmp_path / "served"
    zipfile.ZipFile(archive / "shop.mar").extractall(served)
    for folder in ("MAR-INF", "serving"):
        shutil.rmtree(served / folder)
    archives.build(served, tmp_path / "served.mar", name="shop", version="0.9")
    told = infra_validate.run(archive=archive, validation=tmp_path / "same", serving=tmp_path / "served.mar")
    same = next(reason for reason in told.reasons if reason.check == "latency_ratio")
    assert told.passed and same.level == "block" and same.found > 0, told.blocking
    assert next(reason for reason in told.reasons if reason.check == "latency_p99_ms").level == "info"


@pytest.mark.parametrize("busy", [1.0, 30.0])
@pytest.mark.parametrize(("slower", "held"), [(1.0, True), (1.6, True), (3.0, False)])
def test_a_busy_machine_blocks_no_good_archive_and_hides_no_bad_one(busy: float, slower: float, held: bool) -> None:
    rng = np.random.default_rng(0)
    theirs, ours = (busy * rng.lognormal(1, 0.5, infra_validate.REQUESTS) for _ in range(2))
    found = {reason.check: reason for reason in infra_validate._latency(list(slower * ours), list(theirs), None)}
    assert found["latency_ratio"].held == held
    assert found["latency_p99_ms"].held, "no bound of its own"
    unlike = infra_validate._latency(list(slower * ours), list(theirs), None, alike=False)[-1]
    assert (unlike.check, unlike.held, unlike.level) == ("latency_ratio", True, "info"), "of a network beside tables"


def test_infra_validation_blocks_an_archive_that_does_not_load(archive: Path, tmp_path: Path) -> None:
    altered(archive, tmp_path / "archive", lambda matrix: matrix[1:])
    decision = infra_validate.run(archive=tmp_path / "archive", validation=tmp_path)
    assert [reason.check for reason in decision.blocking] == ["loads"]
    assert "does not fit items.json" in decision.blocking[0].message
    with pytest.raises(InputError, match=r"report\.json: no such file"):
        infra_validate.run(archive=tmp_path, validation=tmp_path)


def altered(archive: Path, target: Path, change: Any) -> Path:
    """Write the archive with another item matrix, and digests that say it is right; returns its content."""
    content = target.parent / "content"
    zipfile.ZipFile(archive / "shop.mar").extractall(content)
    for folder in ("MAR-INF", "serving"):  # the builder adds them anew
        shutil.rmtree(content / folder)
    np.save(content / "item_matrix.npy", change(np.load(content / "item_matrix.npy")))
    contract = json.loads((content / "serving.json").read_text())
    contract["digests"]["item_matrix.npy"] = archives.digest(content / "item_matrix.npy")
    (content / "serving.json").write_text(json.dumps(contract))
    target.mkdir()
    report = json.loads((archive / "report.json").read_text())
    digest = archives.build(content, target / "shop.mar", name="shop", version=report["version"])
    (target / "report.json").write_text(json.dumps(report | {"archive_digest": digest}))
    return content
