"""A tiny archive whose right answers can be computed by hand."""

import hashlib
import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heterrec.data.encoder import FeatureEncoder

ITEMS = [f"i{number}" for number in range(12)]
FEATURES = [
    {"name": "price", "kind": "numeric", "varies_in_time": True},
    {"name": "shelf", "kind": "categorical", "varies_in_time": True},
]
TAGS = [[] if number % 4 == 0 else [f"t{number % 3}", "odd" if number % 2 else "even"] for number in range(len(ITEMS))]
FILTERABLE = {"price": "numeric", "shelf": "categorical", "tags": "multi_categorical", "released": "numeric"}
ZONE = "Europe/Berlin"
RELEASED = [None if number == 6 else 20_453.5 + number for number in range(len(ITEMS))]
"""Noon (UTC) of New Year's Eve 2025, and of the days after."""
EVENTS = [9 if number == 7 else 4 if number == 2 else 0 for number in range(len(ITEMS))]
TREND = [3.0 if number == 4 else 1.5 if number == 2 else -1.0 for number in range(len(ITEMS))]
SINCE = [20_000.0 + number % 8 for number in range(len(ITEMS))]
AGAIN, RHYTHM = [(number % 4 + 1) / 10 for number in range(len(ITEMS))], 10.0
MAX_HISTORY = 4
ITEM_FEATURES = [
    {"name": "price", "holds": "number", "nullable": True, "derived": False},
    {"name": "shelf", "holds": "text", "nullable": False, "derived": False},
    {"name": "tags", "holds": "texts", "nullable": True, "derived": False},
    {"name": "released", "holds": "number", "nullable": True, "derived": False},
    {"name": "title", "holds": "text", "nullable": True, "derived": False},
    {"name": "bought", "holds": "number", "nullable": True, "derived": True},
]
AS_OF = "2026-01-05T00:00:00+00:00"


class LastItems(torch.nn.Module):
    """The signature of docs/contracts.md: sums item vectors weighted by position, plus the prices and shelves seen."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(torch.cat([torch.zeros(1, vectors.shape[1]), vectors]), requires_grad=False)

    def forward(
        self,
        item: torch.Tensor,
        time: torch.Tensor,
        varying_value: torch.Tensor,
        varying_missing: torch.Tensor,
        length: torch.Tensor,
    ) -> torch.Tensor:
        position = torch.arange(item.shape[1])[None] + 1
        weight = torch.where(position <= length[:, None], position / length[:, None], 0.0)
        known = (varying_value * ~varying_missing).sum(-1)
        hours = (time - time[:, :1]) / 3.6e9
        return (
            (weight + 0.1 * known * (weight > 0) + 0.01 * hours * (weight > 0))[..., None] * self.vectors[item]
        ).sum(1)


class ItemSide(torch.nn.Module):
    """The signature of docs/contracts.md: an item with an ID has the vector of its row; another has that of its shelf,
    longer the dearer it is."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.ids = torch.nn.Parameter(torch.cat([torch.zeros(1, vectors.shape[1]), vectors]), requires_grad=False)
        self.shelves = torch.nn.Parameter(vectors[:4] + vectors[4:8], requires_grad=False)

    def forward(
        self, item: torch.Tensor, missing: torch.Tensor, price: torch.Tensor, shelf: torch.Tensor
    ) -> torch.Tensor:
        of_shelf = self.shelves[shelf[:, 0]] * (10 + torch.where(missing[:, 0], 0.0, price))[:, None]
        return self.ids[item] + (item == 0)[:, None] * of_shelf


def vectors(seed: int, width: int = 5) -> torch.Tensor:
    return torch.randn(len(ITEMS), width, generator=torch.Generator().manual_seed(seed))


def popular(items: dict[str, Any]) -> dict[str, Any]:
    """The two items that anybody bought, over all and by shelf."""
    entries = [
        {
            "item_id": ITEMS[row],
            "events": EVENTS[row],
            "trend": TREND[row],
            "since": SINCE[row],
            "title": items["title"][row],
            "features": {name: values[row] for name, values in items["features"].items()},
        }
        for row in (7, 2)
    ]
    by_segment = {"low": entries[:1], "top": entries[1:]}
    return {
        "segment": "shelf", "overall": entries, "by_segment": by_segment, "trending": entries[1:], "new": entries,
    }  # fmt: skip


@cache
def program(seed: int, width: int = 5) -> bytes:
    """`program.pt2` of the model with these vectors; exporting it takes as long as all that is asked of it."""
    n = len(FEATURES)
    example = (
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, n),
        torch.zeros(2, 3, n, dtype=torch.bool),
        torch.tensor([3, 2]),
    )
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = ({0: batch, 1: time},) * 4 + ({0: batch},)
    written = io.BytesIO()
    torch.export.save(torch.export.export(LastItems(vectors(seed, width)), example, dynamic_shapes=shapes), written)
    return written.getvalue()


@cache
def item_program(seed: int, width: int = 5) -> bytes:
    """`items.pt2` of the same model."""
    n = len(FEATURES)
    example = (torch.zeros(2, dtype=torch.int64), torch.zeros(2, n, dtype=torch.bool), torch.zeros(2),
               torch.zeros(2, 1, dtype=torch.int64))  # fmt: skip
    items = {0: torch.export.Dim("items", min=1, max=4096)}
    written = io.BytesIO()
    torch.export.save(
        torch.export.export(ItemSide(vectors(seed, width)), example, dynamic_shapes=(items,) * 4), written
    )
    return written.getvalue()


def write_content(
    root: Path,
    *,
    version: str = "1.0",
    seed: int = 0,
    repeats: bool = False,
    network: bool = True,
    item_side: bool = True,
    width: int = 5,
) -> Path:
    """The content of an archive, before it is zipped; of before there was an item side without `item_side`. Without a
    network every item has one score for everybody, and no process that loads it imports torch's compiler, which is half
    of its start."""
    root.mkdir(parents=True)
    matrix = vectors(seed, width)
    if network:
        (root / "program.pt2").write_bytes(program(seed, width))
        if item_side:
            (root / "items.pt2").write_bytes(item_program(seed, width))
    else:
        matrix = matrix[:, -1:].contiguous()
    np.save(root / "item_matrix.npy", matrix.numpy())
    titles = [None if item == "i11" else f"Kettle {item}" for item in ITEMS]
    prices, shelves = [float(number + 1) for number in range(len(ITEMS))], ["top", "low"] * (len(ITEMS) // 2)
    features = {"price": [*prices[:-1], None], "shelf": [*shelves[:-1], None], "tags": TAGS, "released": RELEASED}
    items = {
        "item_id": ITEMS, "title": titles, "segment": features["shelf"], "events": EVENTS, "trend": TREND,
        "since": SINCE, "features": features,
    }  # fmt: skip
    if repeats:
        items["again"] = AGAIN
    (root / "items.json").write_text(json.dumps(items))
    encoder = FeatureEncoder.fit(
        FEATURES, {"price": prices, "shelf": shelves}, ITEMS, np.full(len(ITEMS), 9, dtype=np.int64)
    )
    (root / "encoder.json").write_text(encoder.to_json())
    shutil.copyfile(Path(__file__).parents[2] / "heterrec/data/encoder.py", root / "encoder.py")
    (root / "popular.json").write_text(json.dumps(popular(items)))
    history = [
        {"item_id": "i3", "event_time": "2026-01-05T10:00:00Z", "features": {"price": 12.5, "shelf": "it's top"}}
    ]
    goldens = [
        {"request": {"user_id": "new", "history": []}, "answer": popular_answer()},
        *(
            {
                "request": {"user_id": "u", "history": history * times, "exclude_seen": False},
                "answer": trained_answer(LastItems(matrix), encoder, history * times)
                if network
                else answer(matrix[:, 0]),
            }
            for times in (2, 9)
        ),
    ]
    (root / "goldens.jsonl").write_text("".join(json.dumps(line) + "\n" for line in goldens))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}
    contract = {
        "schema": 2,
        "model": "shop",
        "version": version,
        "width": matrix.shape[1],
        "max_history": MAX_HISTORY,
        "default_k": 3,
        "max_k": 10,
        "exclude_seen": not repeats,
        "retrieval": {"by": "exact", "scan": "float32"},
        "filterable": FILTERABLE,
        "filters_not": True,
        "dates": {"released": ZONE},
        "segment": "shelf",
        "network": network,
        "parts": {"network" if network else "popularity": matrix.shape[1]},
        "placements": ["for_you", *(["similar"] if network else []), "ranking", "popular"],
        "kinds": ["popular", "trending", "new"],
        "digests": digests,
    }
    if repeats:
        contract["rhythm"] = RHYTHM
    if item_side:
        contract |= {"item_features": ITEM_FEATURES, "title": "title", "as_of": AS_OF}
    (root / "serving.json").write_text(json.dumps(contract))
    return root


def popular_answer() -> dict[str, Any]:
    best = sorted(range(len(ITEMS)), key=lambda row: -EVENTS[row])[:3]
    return {"items": [{"item_id": ITEMS[row], "score": float(EVENTS[row])} for row in best], "unknown_items": 0}


def trained_answer(model: LastItems, encoder: FeatureEncoder, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model itself answers to events of one moment, without the scorer."""
    seen = history[-MAX_HISTORY:]
    columns = {name: [event["features"][name] for event in seen] for name in ("price", "shelf")}
    value, missing = encoder.encode_varying(columns, len(seen))
    rows = torch.tensor([[ITEMS.index(event["item_id"]) + 1 for event in seen]])
    varying = torch.from_numpy(value)[None], torch.from_numpy(missing)[None]
    user = model(rows, torch.zeros_like(rows), *varying, torch.tensor([len(seen)]))[0]
    return answer(model.vectors[1:] @ user)


def answer(scores: torch.Tensor) -> dict[str, Any]:
    """The three items with the highest of the scores (V,)."""
    best = scores.topk(3)
    scored = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"items": [{"item_id": ITEMS[row], "score": score} for row, score in scored], "unknown_items": 0}
