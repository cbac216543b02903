"""What a benchmark trains on: a card's data through the pipeline's own steps, or made-up data of any size.

`python -m benchmarks.model.data amazon_beauty FOLDER` writes a card's sequences, for a machine that has torch alone.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heterrec.data.sequences import Catalogue, Sequences, read_sequences

if TYPE_CHECKING:
    from feature_repo.card import DatasetCard

DAY = 86_400_000_000


def sequences_of(name: str, changes: str = "") -> Sequences:
    """Sequences of the card `name`; `changes` to the options of its source, as `days=40,users=800`."""
    with tempfile.TemporaryDirectory() as folder:
        write(name, Path(folder), changes)
        return read_sequences(Path(folder))


def card_of(name: str, changes: str = "") -> "DatasetCard":
    """The card `name` with `changes` to the options of its source; the last of a name counts."""
    from feature_repo.card import load_card

    card = load_card(name)
    changed = {key: int(value) for key, value in (part.split("=") for part in changes.split(",") if part)}
    source = card.source.model_copy(update={"options": {**card.source.options, **changed}})
    return card.model_copy(update={"source": source})


def write(name: str, sequences: Path, changes: str = "") -> None:
    """The `sequences` artifact of the card `name`, as the pipeline writes it."""
    from components.features import step as features
    from components.ingest import step as ingest
    from components.resolve import step as resolve
    from runtime.manifest import Manifest

    card = card_of(name, changes)
    sequences.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        events, facts = root / "events", root / "facts"
        for path in (events, facts):
            path.mkdir()
        ingest.run(card=card, events=events)
        Manifest.seal(events, kind="events")
        resolve.run(card=card, events=events, as_of=None, facts=facts)
        Manifest.seal(facts, kind="facts")
        features.run(card=card, events=events, facts=facts, feast_root=root / "feast", sequences=sequences)


def synthetic(*, items: int, history: int, features: int, events: int = 100_000, seed: int = 0) -> Sequences:
    """Users of `history` events each, of Zipf-popular items with categories of 1,000 values; nothing to learn."""
    rng = np.random.default_rng(seed)
    users = max(2, events // history)
    row = np.minimum((rng.pareto(1.0, users * history) * items / 100).astype(np.int64), items - 1)
    place = np.tile(np.arange(history), users)
    names = [f"category_{number}" for number in range(features)]
    catalogue = Catalogue(
        item_ids=[f"i{number}" for number in range(items)],
        available_at=np.zeros(items, dtype=np.int64),
        fixed={name: [f"v{value}" for value in rng.integers(0, 1000, items)] for name in names},
        features=[{"name": name, "kind": "categorical", "varies_in_time": False, "dimension": None} for name in names],
    )
    return Sequences(
        user_ids=[f"u{number}" for number in range(users)],
        offsets=np.arange(users + 1) * history,
        row=row,
        time=place * DAY,
        basket=place,
        split=np.zeros(users * history, dtype=np.int64),
        varying={},
        catalogue=catalogue,
        repeats=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write(options.dataset, options.folder)
    print(json.dumps({"written": str(options.folder)}))
