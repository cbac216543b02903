"""What a training begins from, what it reports on its way, and the model that it ends with."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from heterrec.data.encoder import FeatureEncoder
from heterrec.inference.answers import Loaded
from heterrec.memory.neighbours import Memory
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import TrainConfig


class Update(NamedTuple):
    """Where a run stands after a step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    """Of this epoch."""
    loss: float
    sequences_per_second: float
    seconds_left: float
    validation_ndcg: float | None
    """Of the last finished epoch."""


class StartingModel(NamedTuple):
    """A trained model that another begins from."""

    model: HeterRecNetwork
    encoder: FeatureEncoder


class Progress(Protocol):
    """Told after each step; it must not change anything."""

    def __call__(self, update: Update) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model with the weights of its best epoch."""

    model: HeterRecNetwork | None
    """None where the tables answer alone."""
    encoder: FeatureEncoder
    memory: Memory | None = None
    """Over the catalogue of training."""
    item_ids: list[str] = field(default_factory=list)
    recipe: TrainConfig
    """What was asked for."""
    config: TrainConfig
    """The same with the sizes that the data gave it."""
    curve: list[dict[str, Any]]
    """{epoch, loss, validation_ndcg (None without validation queries), seconds, sequences_per_second}."""
    best_epoch: int
    """From 1; 0 where the champion it began from was never bettered."""
    validation_ndcg: float | None
    """Of these weights, without memory; None without validation queries."""

    @property
    def loaded(self) -> Loaded:
        """As it is read from its folder."""
        return Loaded(self.model, self.encoder, self.config, self.memory, self.item_ids)
