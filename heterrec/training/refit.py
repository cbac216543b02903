"""After the blessing the network goes on over all events, the held-out days too: it is asked about the days after them.

What was judged has never seen the days that were held out to judge it, and has no ID for the items of those days. It
goes on from its own weights for a stated part of its training, so that it stays the model that was blessed; new items
begin at the ID that their features suggest (`warm_start`). The gates stay as they were fitted, on days that neither
network nor tables had seen; the tables are counted anew, as at every packaging.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from heterrec.data.sequences import Sequences
from heterrec.inference.answers import Loaded
from heterrec.memory.gates import over, renewed
from heterrec.memory.neighbours import Memory, NeighbourTable
from heterrec.recipes import TrainConfig
from heterrec.training.loop import train
from heterrec.training.trained import Progress, StartingModel, Trained

SHARE = 0.25
"""Of the epochs (and of the least steps) of the training, rounded up."""
RATE = 1 / 3
"""Of its learning rate."""


def refit(
    blessed: Loaded,
    recipe: TrainConfig,
    sequences: Sequences,
    *,
    scratch: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    sharded: bool = False,
) -> Trained:
    """`blessed`, trained on over every event of `sequences` (those of its own training and those held out).

    `recipe` is what was asked for, and stays what the model is of. Resumes from `scratch` as `train` does, and raises
    what it raises: `FloatingPointError` where the loss is no number.
    """
    assert blessed.model is not None, "tables alone have nothing to refit"
    everything = replace(sequences, split=np.zeros_like(sequences.split))
    trained = train(
        everything,
        budget(blessed.config),
        scratch=scratch,
        progress=progress,
        device=device,
        champion=StartingModel(blessed.model, blessed.encoder),
        sharded=sharded,
    )
    memory = blessed.memory
    if memory is not None:
        memory = renewed(over(memory, blessed.item_ids, sequences.catalogue), sequences)
    return replace(trained, memory=memory, recipe=recipe, config=blessed.config)


def budget(config: TrainConfig) -> TrainConfig:
    """The settings by which the network goes on. The sizes that training derived from its data stay: with another
    temperature or dropout it would be another model."""
    epochs = math.ceil(SHARE * config.epochs)
    return replace(
        config,
        memory=(),
        epochs=epochs,
        patience=epochs,
        least_steps=math.ceil(SHARE * config.least_steps),
        learning_rate=RATE * config.learning_rate,
        warm_start=False,
    )


def without_pairs(memory: Memory) -> Memory:
    """Gates, counts and what is alike, without what was bought together: packaging counts that from the events there
    are, so that no second copy of it outlives a deleted user."""
    none = NeighbourTable(
        first_V=np.zeros(len(memory.count_V) + 1, dtype=np.int64),
        item_N=np.zeros(0, dtype=np.int32),
        weight_N=np.zeros(0, dtype=np.float32),
    )
    return Memory(
        tables=(none, *memory.tables[1:]),
        decay_C=memory.decay_C,
        count_V=memory.count_V,
        beside=memory.beside,
        alone=memory.alone,
    )
