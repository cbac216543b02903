"""What a benchmark trains on: a card's data, through the pipeline's own steps."""

import tempfile
from pathlib import Path

from components.features import step as features
from components.ingest import step as ingest
from components.manifest import Manifest
from components.resolve import step as resolve
from feature_repo.card import load_card
from heterrec.sequences import Sequences, read_sequences


def sequences_of(name: str, changes: str = "") -> Sequences:
    """Sequences of the card `name`; `changes` to the options of its source, as `days=40,users=800`."""
    card = load_card(name)
    changed = {key: int(value) for key, value in (part.split("=") for part in changes.split(",") if part)}
    source = card.source.model_copy(update={"options": {**card.source.options, **changed}})
    card = card.model_copy(update={"source": source})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        events, facts, sequences = (root / part for part in ("events", "facts", "sequences"))
        for path in (events, facts, sequences):
            path.mkdir()
        ingest.run(card=card, events=events)
        Manifest.seal(events, kind="events")
        resolve.run(card=card, events=events, as_of=None, facts=facts)
        Manifest.seal(facts, kind="facts")
        features.run(card=card, events=events, facts=facts, feast_root=root / "feast", sequences=sequences)
        return read_sequences(sequences)
