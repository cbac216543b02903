"""What a training will take, said before it begins: steps, processor time and memory, and what these follow from."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.shared.model_names import name_of
from heterrec.cost import Cost, estimate
from heterrec.recipes import TrainConfig, sized


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What there is to learn from: events, items sold in them, the catalogue that is ranked, features of an item."""

    events: int
    sold: int
    catalogue: int
    features: int

    @classmethod
    def of(cls, sequences: Path) -> "Learned":
        """Of a `sequences` artifact."""
        table = pq.read_table(sequences / "events.parquet", columns=["item_id", "split"])
        trained = table.filter(pc.equal(table["split"], "train"))
        features = json.loads((sequences / "features.json").read_text())["features"]
        return cls(
            events=len(trained),
            sold=pc.count_distinct(trained["item_id"]).as_py(),
            catalogue=pq.read_metadata(sequences / "catalogue.parquet").num_rows,
            features=len(features),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training as it will go."""

    model: str
    learned: Learned
    batch: int
    candidates: int | None
    cost: Cost

    @property
    def sentence(self) -> str:
        """Such as "2,000 steps of 1,024 events over 27,955 items sold, ...: about 6 processor minutes, 1.6 GiB"."""
        if not self.cost.steps:
            return "nothing is trained: the neighbour tables are counted"
        drawn = "all of them scored at each step" if self.candidates is None else f"{self.candidates:,} drawn at each"
        return (
            f"{self.cost.steps:,} steps of {self.batch:,} events over {self.learned.sold:,} items sold, {drawn}: about "
            f"{duration_text(self.cost.cpu_seconds)} of one core, {self.cost.memory_mib / 1024:.1f} GiB"
        )

    def to_json(self) -> dict[str, Any]:
        return {**self.cost._asdict(), "learned": asdict(self.learned), "sentence": self.sentence}


def duration_text(seconds: float) -> str:
    """Seconds as people say them: 40 seconds, 7 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def plan(config: TrainConfig, learned: Learned) -> TrainingPlan:
    """How `config` will be trained on what is `learned` from."""
    whole = sized(config, items=max(1, learned.sold), events=max(1, learned.events), catalogue=learned.catalogue)
    epoch = min(learned.events, whole.epoch_events or learned.events)
    steps = max(1, math.ceil(epoch / whole.batch_events))
    epochs = max(whole.epochs, math.ceil(whole.least_steps / steps)) if whole.network else 0
    cost = estimate(
        learned=epochs * epoch,
        batch=whole.batch_events,
        catalogue=learned.catalogue,
        candidates=whole.loss.candidates,
        features=1 + learned.features if whole.model.features else 1,
        events=learned.events,
    )
    return TrainingPlan(
        model=name_of(config), learned=learned, batch=whole.batch_events, candidates=whole.loss.candidates, cost=cost
    )
