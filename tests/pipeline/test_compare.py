"""Recipes as files, and `compare`: what a table says is what training and ranking by hand give."""

import json
from pathlib import Path

import numpy as np
import pytest

from heterrec.changes import recipe
from heterrec.data.sequences import Sequences, read_sequences
from heterrec.evaluation.comparison import paired_bootstrap
from heterrec.evaluation.metrics import Ranking, rank
from heterrec.inference.answers import judged
from heterrec.recipes import by_name
from heterrec.training.loop import train
from pipelines.__main__ import main
from pipelines.compare import compare
from pipelines.recipe_files import recipe_of
from runtime.errors import InputError

CARD = """
name: tiny
description: A shop of five brands
source: {adapter: files, interactions: clicks.csv, items: items.csv}
columns: {user_id: user, item_id: item, item_key: item, event_time: at}
features: [{name: brand, kind: categorical}]
title: brand
split: {by: time, validation_days: 4, test_days: 4}
"""
PLUGINS = """
import numpy as np


def newest(sequences, queries):
    since = sequences.catalogue.available_at.astype(np.float32)
    return lambda numbers: np.broadcast_to(since, (len(numbers), len(since)))


BASELINES = {"newest <b>first</b>": newest}
RECIPES = {"forgetful": {"base": "neighbours", "memory": ["content"]}}
"""
SMALL = {"epochs": 1, "model.width": 16, "model.item_layers": 1}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    (root / "tiny.yaml").write_text(CARD)
    rng = np.random.default_rng(0)
    lines = [
        f"u{user},i{(5 * rng.integers(8) + user % 5)},2025-01-{1 + day:02}T{rng.integers(24):02}:00:00Z"
        for day in range(20)
        for user in rng.permutation(70)[:40]
    ]
    (root / "clicks.csv").write_text("user,item,at\n" + "\n".join(lines) + "\n")
    (root / "items.csv").write_text("item,brand\n" + "".join(f"i{n},b{n % 5}\n" for n in range(40)))
    (root / "mine.py").write_text(PLUGINS)
    (root / "small.toml").write_text("epochs = 1\n[model]\nwidth = 16\nitem_layers = 1\n")
    return root


def test_the_table_is_what_training_and_ranking_by_hand_give(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(shop / "home"))
    newest = "newest <b>first</b>"
    names = [str(shop / "small.toml"), "neighbours", "forgetful", newest]
    code = main(["compare", str(shop / "tiny.yaml"), *names, "--seeds", "2", "--plugins", str(shop / "mine.py")])
    shown = capsys.readouterr().out
    assert code == 0, shown
    (result,) = (shop / "home" / "compare" / "tiny").glob("*/comparison.json")
    about = json.loads(result.read_text())
    rows = {row["model"]: row for row in about["rows"]}
    assert list(rows) == ["small", "neighbours", "forgetful", newest, "popularity"]
    assert [row["seeds"] for row in rows.values()] == [2, 1, 1, 1, 1]
    (sequences,) = (path.parent for path in (shop / "home").glob("**/events.parquet"))
    data = read_sequences(sequences)
    ours = [ranked(data, recipe(SMALL, seed=seed)) for seed in range(2)]
    theirs = ranked(data, recipe({"base": "neighbours", "memory": ["content"]}))
    assert rows["small"]["ndcg"] == pytest.approx(np.mean([each.mean("ndcg", 10) for each in ours]))
    assert rows["forgetful"]["hr"] == pytest.approx(theirs.mean("hr", 10))
    own = [each.per_query("ndcg", 10) for each in ours]
    expected = paired_bootstrap(np.stack([theirs.per_query("ndcg", 10)] * 2), np.stack(own))
    found = rows["forgetful"]
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert rows["small"]["low"] is None
    page = (result.parent / "page.html").read_text()
    assert "newest &lt;b&gt;first&lt;/b&gt;" in page and "<b>first" not in page
    assert all(title in shown for title in rows) and str(result.parent / "page.html") in shown.replace("\n", "")


def ranked(data: Sequences, config) -> Ranking:
    queries = data.queries("test")
    return rank(judged(train(data, config).loaded, data, queries), data, queries)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "base: sasrec\nmodel: {width: 32}\nlearning_rate: 0.001\n"),
        ("a.yml", "{base: sasrec, model.width: 32, learning_rate: 0.001}"),
        ("a.toml", 'base = "sasrec"\nlearning_rate = 0.001\n[model]\nwidth = 32\n'),
        ("a.json", '{"base": "sasrec", "model": {"width": 32}, "learning_rate": 0.001}'),
    ],
)
def test_a_recipe_is_the_same_in_every_kind_of_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    path = str(tmp_path / name)
    for budget in ("fast", "full"):
        base = recipe("sasrec", budget=budget, seed=4)
        found = recipe_of(path, budget=budget, seed=4, settings=["epochs=3", "model.heads=4"])
        assert (found.model.width, found.learning_rate, found.epochs, found.model.heads) == (32, 0.001, 3, 4)
        assert recipe_of(path, budget=budget, seed=4, settings=["model.width=64", "learning_rate=0.002"]) == base


def test_a_name_is_the_recipe_that_it_always_was() -> None:
    for name in ("heterrec", "sasrec", "neighbours"):
        assert recipe_of(name, budget="fast", seed=2) == by_name(name, seed=2)
        assert recipe_of(name, budget="full", seed=2) == by_name(f"{name}_full", seed=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.yaml", None, r"none\.yaml: no such file"),
        ("a.yaml", "epochs: [", r"a\.yaml: cannot be read"),
        ("a.toml", "epochs = ", r"a\.toml: cannot be read"),
        ("a.json", "{", r"a\.json: cannot be read"),
        ("a.yaml", "- epochs", r"a\.yaml: holds list, expected fields"),
        ("a.yaml", "epochs: many", r"a\.yaml: config\.epochs: found 'many', expected int"),
        ("a.yaml", "model: {dropout: 0.3}", r"a\.yaml: recipe\.model\.dropout: is derived from the data"),
    ],
)
def test_a_file_that_is_no_recipe_ends_a_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name, text, message
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        recipe_of(str(tmp_path / name), budget="fast", seed=0)
    assert main(["run", "--recipe", str(tmp_path / name)]) == 2
    assert main(["run", "--set", "model.widht=3"]) == 2
    assert "--set: config.model.widht: no such field" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["heterrec", "heterrec"], "'heterrec' comes twice"),
        (["small.yaml", "other/small.yaml"], "'small' comes twice"),
        (["heterrek"], "recipe 'heterrek' is unknown"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(names: list[str], message: str) -> None:
    from feature_repo.card import load_card

    with pytest.raises(InputError, match=message):
        compare(load_card("marketplace"), names, budget="fast", seeds=1, run_id="none")
