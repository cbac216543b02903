"""The training loop: seeds, AdamW, early stop by validation NDCG@10, checkpoints, exact resumption."""

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from heterrec import checkpoint
from heterrec.batches import Events, TrainingBatch, TrainingBatches, encode_events
from heterrec.encoder import FeatureEncoder
from heterrec.htfl import Columns, encode_catalogue
from heterrec.inference import embeddings, product, vectors
from heterrec.lmp import LMP, NEVER
from heterrec.metrics import rank
from heterrec.model import HeterRec
from heterrec.recipes import TrainConfig
from heterrec.sequences import Queries, Sequences

ALWAYS = np.iinfo(np.int64).min
GATE_PACE = 10.0
"""See `_optimiser`."""


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


class Progress(Protocol):
    """Told after each step; it must not change anything."""

    def __call__(self, update: Update) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model with the weights of its best epoch."""

    model: HeterRec
    encoder: FeatureEncoder
    config: TrainConfig
    curve: list[dict[str, Any]]
    """{epoch, loss, validation_ndcg (None without validation queries), seconds, sequences_per_second}."""
    best_epoch: int


def train(
    sequences: Sequences,
    config: TrainConfig,
    *,
    scratch: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
) -> Trained:
    """Train on the training split of `sequences`.

    With `scratch`, goes on from the checkpoint there and writes one after each epoch and every `checkpoint_seconds`
    within; a run that was killed ends with the very weights and losses of one that was not (on one machine, on a
    CPU). Raises `ValueError` where the data has nothing to learn from.
    """
    return _Run(sequences, config, scratch, progress, device, checkpoint_seconds).run()


class _Run:
    def __init__(
        self,
        sequences: Sequences,
        config: TrainConfig,
        scratch: Path | None,
        progress: Progress | None,
        device: str,
        checkpoint_seconds: float,
    ) -> None:
        torch.manual_seed(config.seed)
        self.checkpoint_seconds = checkpoint_seconds
        self.config, self.device = config, device
        self.scratch, self.progress = scratch, progress
        counts = sequences.training_counts
        if not counts.any():
            raise ValueError("sequences: no events in the training split; take more days, or check what was ingested")
        catalogue = sequences.catalogue
        self.sequences = sequences
        self.encoder = FeatureEncoder.fit(
            catalogue.features, catalogue.columns, catalogue.item_ids, counts, min_events=config.model.min_events
        )
        self.batches = TrainingBatches(
            sequences,
            self.encoder,
            steps=config.model.steps,
            window=config.loss.window,
            max_history=config.model.max_history,
            batch_events=config.batch_events,
            epoch_events=config.epoch_events,
            seed=config.seed,
            shuffle_targets=config.shuffle_targets,
            device=device,
        )
        self.columns: Columns = encode_catalogue(self.encoder, catalogue).to(device)
        self.events: Events = encode_events(sequences, self.encoder, device)
        self.validation = _sample(sequences.queries("validation"), config.validation_queries, config.seed)
        self.model = HeterRec(config.model, self.encoder).to(device)
        self.optimiser = _optimiser(self.model, config)
        self.loss = LMP(
            config.loss,
            self.columns,
            torch.from_numpy(_since(sequences, config.loss.only_available)).to(device),
            torch.from_numpy(np.append(0, counts)).to(device),
            int(sequences.time[sequences.split == 0].min()),
        )

    def run(self) -> Trained:
        self.identity = self._identity()
        done = checkpoint.Progressed()
        if self.scratch is not None:
            done = checkpoint.load(self.scratch, self.identity, self.model, self.optimiser)
        while done.epoch < self.config.epochs and done.epoch - done.best_epoch < self.config.patience:
            self._epoch(done)
            self._save(done)
        self.model.load_state_dict(done.best_weights)
        self.model.eval()
        return Trained(
            model=self.model, encoder=self.encoder, config=self.config, curve=done.curve, best_epoch=done.best_epoch
        )

    def _save(self, done: checkpoint.Progressed) -> None:
        if self.scratch is not None:
            checkpoint.save(self.scratch, self.identity, self.model, self.optimiser, done)

    def _epoch(self, done: checkpoint.Progressed) -> None:
        started = saved = time.monotonic()
        before = done.seconds
        # In the middle of an epoch the checkpoint has brought the generator's state along.
        if not done.losses:
            torch.manual_seed(int(np.random.default_rng([self.config.seed, done.epoch, 1]).integers(2**62)))
        self.model.train()
        batches = self.batches.epoch(done.epoch)
        for step in range(len(done.losses), len(batches)):
            done.losses.append(self._step(batches[step], done.epoch + step / len(batches)))
            done.lists += len(batches[step].length)
            now = time.monotonic()
            done.seconds = before + now - started
            if self.progress is not None:
                self.progress(self._update(done, len(batches)))
            if now - saved > self.checkpoint_seconds:
                self._save(done)
                saved = now
        ndcg = self._validate()
        done.epoch += 1
        # Without validation queries nothing can be told from the epochs, and the last one counts.
        if ndcg is None or ndcg > done.best or not done.best_weights:
            done.best = -math.inf if ndcg is None else ndcg
            done.best_epoch = done.epoch
            done.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        done.curve.append(
            {
                "epoch": done.epoch,
                "loss": sum(done.losses) / len(done.losses),
                "validation_ndcg": ndcg,
                "seconds": round(before + time.monotonic() - started, 3),
                "sequences_per_second": round(done.lists / done.seconds, 1),
            }
        )
        done.losses, done.lists, done.seconds = [], 0, 0.0

    def _step(self, batch: TrainingBatch, epochs_done: float) -> float:
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        rate = self.config.learning_rate * _schedule(epochs_done / self.config.epochs, self.config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = group["pace"] * rate
        self.optimiser.step()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"training: loss {value} after {epochs_done:.2f} epochs; lower the learning_rate")
        return value

    def _loss(self, batch: TrainingBatch) -> Tensor:
        histories = batch.histories()
        drawn, item_S, steps = self.loss.draw(histories.item_S, batch.targets(histories.layout))
        columns = self.columns if drawn.rows_R is None else self.columns.take(drawn.rows_R)
        items = self.model.items(columns, drawn.newborn_S)
        states = self.model.states(items.tokens, items.channel_RD, histories._replace(item_S=item_S))
        loss: Tensor = self.loss(self.model, items, states, drawn, steps)
        return loss

    def _validate(self) -> float | None:
        if not len(self.validation):
            return None
        users = vectors(self.model, self.columns, self.events, self.validation)
        return rank(product(users, embeddings(self.model, self.columns)), self.sequences, self.validation).mean(
            "ndcg", 10
        )

    def _update(self, done: checkpoint.Progressed, steps: int) -> Update:
        step = len(done.losses)
        left = (self.config.epochs - done.epoch) * steps - step
        return Update(
            epoch=done.epoch + 1,
            epochs=self.config.epochs,
            step=step,
            steps=steps,
            loss=sum(done.losses) / step,
            sequences_per_second=done.lists / max(done.seconds, 1e-9),
            seconds_left=left * done.seconds / step,
            validation_ndcg=done.curve[-1]["validation_ndcg"] if done.curve else None,
        )

    def _identity(self) -> str:
        """Of the recipe, the data and the threads: sums in another order are other weights."""
        digest = hashlib.sha256(self.config.to_json().encode())
        digest.update(f"{self.device} {torch.get_num_threads()}".encode())
        digest.update(self.encoder.to_json().encode())
        for array in (self.sequences.row, self.sequences.time, self.sequences.basket, self.sequences.split):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _optimiser(model: HeterRec, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; feature parameters decay on their own, and ID embeddings, biases and norms not at all.

    Gates and scales, single numbers that say how far a feature or a channel counts, learn GATE_PACE times as fast:
    where features tell nothing they must be out of the way before the rest has learned from them (ours).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        feature = name.startswith(("htfl.values", "htfl.maps", "item_side", "token_", "fuse"))
        decay = config.feature_weight_decay if feature else config.weight_decay
        plain = parameter.ndim < 2 or name in ("htfl.ids.weight", "item_side.tower_FDD")
        pace = GATE_PACE if name.endswith(("gate_F", "gate_G", "scale")) else 1.0
        groups.setdefault((0.0 if plain else decay, pace), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": each, "weight_decay": decay, "pace": pace} for (decay, pace), each in groups.items()],
        lr=config.learning_rate,
        fused=True,
    )


def _schedule(done: float, warmup: float) -> float:
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _sample(queries: Queries, count: int, seed: int) -> Queries:
    if len(queries) <= count:
        return queries
    return queries.take(np.sort(np.random.default_rng(seed).permutation(len(queries))[:count]))


def _since(sequences: Sequences, only_available: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(V + 1,) time from which a row is a candidate; items that were never bought in training are none.

    As negatives that are never a positive they would teach that a null ID is never chosen.
    """
    traded = sequences.training_counts > 0
    since = sequences.catalogue.available_at if only_available else np.full(len(traded), ALWAYS)
    return np.append(NEVER, np.where(traded, since, NEVER))
