"""The neighbour tables alone as a model: a contender of every run, and its release where no other is better.

In the artifact `model` of the recipe `neighbours`, whatever recipe was trained.
"""

from pathlib import Path
from typing import Any

from heterrec.data.sequences import read_sequences
from heterrec.recipes import neighbours
from heterrec.training.export import load_model, save_model, tables_of
from heterrec.training.loop import train


def run(*, sequences: Path, model: Path, tables: Path) -> dict[str, Any]:
    """Write the model folder `tables`: those that `model` was given, where it has all of them, else fitted in seconds
    on the same training events of `sequences`."""
    given = tables_of(load_model(model))
    trained = given or train(read_sequences(sequences), neighbours())
    save_model(trained, tables)
    assert trained.memory is not None
    return {"items": len(trained.item_ids), "decay_of_memory": list(trained.memory.decay_C), "fitted": given is None}
