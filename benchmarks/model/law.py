"""The law of the embedded shop as rows of `bench-quality`: how much there is to find, and without what."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from benchmarks.model.quality_rows import Baseline
from components.ingest.sources.marketplace import config_of
from feature_repo.card import DatasetCard
from heterrec.data.sequences import Ints, Queries, Sequences
from heterrec.evaluation.metrics import Scores
from marketplace.config import MarketplaceConfig
from marketplace.shop import Marketplace


def laws(card: DatasetCard) -> dict[str, Baseline]:
    """Of a card of the marketplace the true law, and where order counts in it, the same law without that; else none."""
    if card.source.adapter != "marketplace":
        return {}
    config = config_of(card)
    found = {"law": Baseline("the shop's own law", _fit(config), "benchmarks.model.law")}
    if config.order:
        found["law_without_order"] = Baseline(
            "its law without the order", _fit(replace(config, order=0.0)), "benchmarks.model.law"
        )
    return found


def _fit(config: MarketplaceConfig):  # type: ignore[no-untyped-def]
    return lambda data, queries: law_scores(config, data, queries)


def law_scores(config: MarketplaceConfig, data: Sequences, queries: Queries) -> Scores:
    """The probability that the law of the shop gives each item at the moment of the query's target."""
    shop = Marketplace(config)
    place = {item: row for row, item in enumerate(shop.item_ids.to_pylist())}
    rows = np.array([place[item] for item in data.catalogue.item_ids])

    def scores(numbers: Ints) -> np.ndarray:
        found = np.empty((len(numbers), len(rows)), dtype=np.float32)
        for n, query in enumerate(numbers.tolist()):
            history = data.row[queries.start[query] : queries.stop[query]]
            when = datetime.fromtimestamp(data.time[queries.stop[query]] / 1e6, UTC)
            user = data.user_ids[queries.user[query]]
            found[n] = shop.choice_probabilities(user, [data.catalogue.item_ids[row] for row in history], when)[rows]
        return found

    return scores
