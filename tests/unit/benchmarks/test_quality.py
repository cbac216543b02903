"""`bench-quality`, from the rows of several calls to one table, over a tiny shop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.model.quality import Bench
from benchmarks.model.quality_rows import BASELINES, Model
from heterrec.data.sequences import Sequences, read_sequences
from heterrec.recipes import TrainConfig
from tests.unit.heterrec.shop import write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return replace(read_sequences(write_shop(tmp_path_factory.mktemp("shop"))), repeats=False)


def test_a_table_is_made_in_parts(shop: Sequences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))

    def small(config: TrainConfig) -> TrainConfig:
        return replace(config, sized=False, epochs=1, model=replace(config.model, width=8))

    models = {name: Model(name, recipe, small) for name, recipe in (("sasrec", "sasrec"), ("heterrec", "heterrec"))}
    path = tmp_path / "table.json"
    for rows, kept in ((("sasrec", 0), ("sasrec", 1)), False), ((("heterrec", 0),), False), ((("sasrec", 2),), True):
        bench = Bench(shop, "shop", "fast", Console(quiet=True))
        bench.baseline("popularity", BASELINES["popularity"])
        for name, seed in rows:
            bench.model(name, models[name], seed, kept=kept)
        table = bench.report(path)
    assert {name: row["seeds"] for name, row in table.rows.items()} == {"popularity": 1, "sasrec": 2, "heterrec": 1}
    against = table.rows["sasrec"]["against"]
    assert against["popularity"]["all"]["seeds"] == 2 and against["heterrec"]["all"]["seeds"] == 1
    assert 0 < against["popularity"]["rare_items"]["queries"] < against["popularity"]["all"]["queries"]


def test_unmasked_figures_are_of_the_same_users(shop: Sequences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where repeats are not wanted some users are asked nothing: their scores are not to be taken for others'."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    bench = Bench(shop, "shop", "fast", Console(quiet=True))
    assert len(bench.queries) < len(replace(shop, repeats=True).queries("test")), "nobody buys again: nothing is tested"

    def knows_all(queries):
        scores = np.zeros((len(queries), len(shop.catalogue)), dtype=np.float32)
        for n, query in enumerate(queries):
            scores[n, replace(shop, repeats=True).targets(bench.queries, int(query))] = 1
        return scores

    assert bench._measured(knows_all, tmp_path)["unmasked"]["hr@10"] == 1
