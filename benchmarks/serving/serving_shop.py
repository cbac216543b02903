"""A shop of any size with a model of default shape, packaged: what serving is measured on. Weights are random: speed
does not ask what was learned.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.package import step as package
from feature_repo.card import DatasetCard
from heterrec import recipes
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, SINCE, read_sequences
from heterrec.model.network import HeterRecNetwork
from heterrec.training.export import save_model
from heterrec.training.trained import Trained

START = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY = 50
_WORDS, _STYLE = 400, 16
_TIME = pa.timestamp("us", "UTC")
FEATURES: list[dict[str, Any]] = [
    {"name": "title", "kind": "text"},
    {"name": "brand", "kind": "categorical"},
    {"name": "category", "kind": "categorical"},
    {"name": "style", "kind": "embedding", "dimension": _STYLE},
    {"name": "price", "kind": "numeric", "varies_in_time": True},
    {"name": "stock", "kind": "numeric", "varies_in_time": True, "token": False},
]
CARD = DatasetCard.model_validate(
    {
        "name": "bench",
        "description": "made up",
        "source": {"adapter": "files", "interactions": "x", "items": "y"},
        "features": FEATURES,
        "title": "title",
        "segment": "category",
        "split": {"by": "time"},
    }
)


def packaged(root: Path, *, items: int, users: int = 200, seed: int = 0, **options: Any) -> Path:
    """Write sequences, model and archive of a shop below `root`; returns the folder of the archive."""
    sequences, model, archive = (root / name for name in ("sequences", "model", "archive"))
    for folder in (sequences, model, archive):
        folder.mkdir(parents=True)
    _write_sequences(sequences, items, users, np.random.default_rng(seed))
    _write_model(sequences, model, seed)
    package.run(card=CARD, sequences=sequences, model=model, archive=archive, name="bench", version="1.0", **options)
    return archive


def requests(archive_items: dict[str, Any], count: int, *, k: int = 100, seed: int = 1) -> list[dict[str, Any]]:
    """Requests of shoppers with a history of 50 events."""
    rng = np.random.default_rng(seed)
    ids, found = archive_items["item_id"], []
    for number in range(count):
        history = [
            {
                "item_id": ids[row],
                "event_time": (START + timedelta(hours=hour)).isoformat().replace("+00:00", "Z"),
                "features": {"price": round(float(price), 2)},
            }
            for hour, (row, price) in enumerate(
                zip(rng.integers(0, len(ids), HISTORY), rng.uniform(1, 100, HISTORY), strict=True)
            )
        ]
        found.append({"user_id": f"u{number}", "history": history, "k": k})
    return found


def _write_sequences(root: Path, items: int, users: int, rng: np.random.Generator) -> None:
    events = users * HISTORY
    row = rng.integers(0, items, events)
    price = rng.lognormal(3, 1, items)
    catalogue = {
        "item_id": pa.array([f"i{number:07d}" for number in range(items)]),
        "available_at": pa.array([START] * items, _TIME),
        "title": pa.array([" ".join(f"word{n}" for n in words) for words in rng.integers(0, _WORDS, (items, 3))]),
        "brand": pa.array([f"brand{n}" for n in rng.integers(0, 200, items)]),
        "category": pa.array([f"category{n}" for n in rng.integers(0, 40, items)]),
        "style": pa.array(list(rng.normal(size=(items, _STYLE)).astype(np.float32)), pa.list_(pa.float32())),
        "price": pa.array(price),
        "stock": pa.array(rng.integers(0, 5, items).astype(float)),
    }
    pq.write_table(pa.table(catalogue), root / "catalogue.parquet")
    slices = {SINCE: catalogue["available_at"], "item_id": catalogue["item_id"], "price": catalogue["price"]}
    pq.write_table(pa.table(slices), root / "slices.parquet")
    place = np.tile(np.arange(HISTORY), users)
    table = {
        "user_id": pa.array(np.repeat([f"u{number}" for number in range(users)], HISTORY)),
        "item_id": pa.array([f"i{number:07d}" for number in row]),
        "event_time": pa.array([START + timedelta(hours=int(hour)) for hour in place], _TIME),
        "position": pa.array(np.arange(events)),
        "basket": pa.array(place),
        "split": pa.array(np.where(place < HISTORY - 4, "train", np.where(place < HISTORY - 2, "validation", "test"))),
        "price": pa.array(price[row]),
    }
    pq.write_table(pa.table(table), root / "events.parquet")
    described = [{"varies_in_time": False, "dimension": None, **feature} for feature in FEATURES]
    about = {
        "features": [feature for feature in described if feature.get("token", True)],
        "others": [feature for feature in described if not feature.get("token", True)],
        "repeats": False,
        "title": "title",
        "as_of": (START + timedelta(hours=HISTORY)).isoformat(),
        "dataset": "bench",
    }
    (root / "features.json").write_text(json.dumps(about))


def _write_model(sequences: Path, root: Path, seed: int) -> None:
    torch.manual_seed(seed)
    data = read_sequences(sequences)
    catalogue = data.catalogue
    config = replace(recipes.heterrec(seed=seed), sized=False)
    encoder = FeatureEncoder.fit(
        catalogue.features, catalogue.columns(NOW), catalogue.item_ids, data.training_counts, min_events=0
    )
    model = HeterRecNetwork(config.model, encoder).eval()
    with torch.no_grad():  # layers that begin at zero would make all shoppers alike
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    settings = {"recipe": config, "config": config}
    trained = Trained(model=model, encoder=encoder, **settings, curve=[], best_epoch=0, validation_ndcg=None)
    save_model(trained, root)
