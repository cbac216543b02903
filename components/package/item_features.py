"""What the archive says of the features of an item that a shop sends by itself (`PUT /v1/items`)."""

import json
from pathlib import Path
from typing import Any

from feature_repo.card import DatasetCard
from feature_repo.kinds import KINDS


def item_features(card: DatasetCard, sequences: Path) -> dict[str, Any]:
    """Entries of serving.json: `item_features`, every feature of the catalogue, the model's and others, with what holds
    its value; `title`, the one that is an item's title; `as_of`, the moment as of which the catalogue knows them.

    A value may be null where the card lets some be missing. What is derived from events no shop has to send.
    """
    described = json.loads((sequences / "features.json").read_text())
    on_card = {feature.name: feature for feature in card.features}
    derived = {feature.name for feature in card.derived}
    entries: list[dict[str, Any]] = []
    for each in described["features"] + described.get("others", []):
        feature = on_card.get(each["name"])
        entry = {
            "name": each["name"],
            "holds": KINDS[each["kind"]].storage.name.lower(),
            "nullable": feature is None or feature.max_missing_rate > 0,
            "derived": each["name"] in derived,
        }
        if (dimension := each.get("dimension")) is not None:
            entry["dimension"] = dimension
        entries.append(entry)
    return {"item_features": entries, "title": described.get("title"), "as_of": described["as_of"]}
