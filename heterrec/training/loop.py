"""The training loop: seeds, early stop by validation NDCG@10, checkpoints, exact resumption."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from heterrec import distributed
from heterrec.data.sequences import Sequences
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import Network
from heterrec.loss.batches import (
    Events,
    TrainingBatch,
    TrainingBatches,
    encode_events,
)
from heterrec.loss.fixed_lmp import FixedLMP
from heterrec.loss.lmp import LMP
from heterrec.loss.objective import Objective
from heterrec.loss.padded_batches import Rectangle, Rectangles
from heterrec.memory.gates import fit, remember
from heterrec.memory.neighbours import Memory
from heterrec.model.htfl import EncodedCatalogue, encode_slices
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import TrainConfig, sized
from heterrec.training import checkpoint
from heterrec.training.fixed_step import FixedObjective, Graphs
from heterrec.training.inputs import candidate_since, fitted_encoder, sampled, training_slices
from heterrec.training.optimiser import ID_TABLE, Optimiser
from heterrec.training.sharded import converted, shard, unshard
from heterrec.training.trained import Progress, StartingModel, Trained, Update
from heterrec.training.warm_start import begin_from
from heterrec.training.weight_average import Average

_NOTHING = "sequences: no events in the training split; take more days, or hold out fewer (the card's split)"
STEPS_AHEAD = 32
"""Steps that a GPU is asked for before their losses are waited for."""


def train(
    sequences: Sequences,
    config: TrainConfig,
    *,
    scratch: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
    champion: StartingModel | None = None,
    graphs: Graphs | None = None,
    sharded: bool = False,
) -> Trained:
    """Train on the training split of `sequences`.

    With `scratch`, goes on from the checkpoint there and writes one after each epoch and every `checkpoint_seconds`
    within; a run that was killed ends with the very weights and losses of one that was not (on a CPU, with as many
    threads and processes as before). Under `torchrun` all processes train one model, each on its part of every batch:
    steps as one process would make them, but for rounding and for dropout's chance. Raises `ValueError` where the data
    has nothing to learn from. With `champion` the weights begin with its own, and are kept where no epoch makes them
    better. With `graphs` the steps have a few fixed shapes (`fixed_step`); a GPU alone has them in any case, up to
    the catalogue size from which candidates are drawn. With `sharded` each of several processes holds a part of the
    table of item IDs alone; the model of the first has the whole of it, those of the others their parts.
    """
    if not config.network:
        return _tables_alone(sequences, config)
    with distributed.process_group(device) as own:
        training = Training(sequences, config, device=own, champion=champion, graphs=graphs, sharded=sharded)
        return training.run(scratch, progress, checkpoint_seconds)


class Training:
    """All that a run holds: data and model on the device, the objective and the optimiser."""

    def __init__(
        self,
        sequences: Sequences,
        config: TrainConfig,
        *,
        device: str = "cpu",
        champion: StartingModel | None = None,
        graphs: Graphs | None = None,
        sharded: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        self.device = device
        counts = sequences.training_counts
        if not counts.any():
            raise ValueError(_NOTHING)
        catalogue = sequences.catalogue
        self.recipe = config
        config = sized(config, items=int((counts > 0).sum()), events=int(counts.sum()), catalogue=len(catalogue))
        self.config = config
        self.sequences = sequences
        self.encoder = fitted_encoder(sequences, config)
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
        self.epochs = config.epochs
        if config.least_steps:
            self.epochs = max(config.epochs, math.ceil(config.least_steps / len(self.batches.epoch(0))))
        self.columns: EncodedCatalogue = encode_slices(self.encoder, catalogue, training_slices(sequences)).to(device)
        self.events: Events = encode_events(sequences, self.encoder, device)
        self.asked = Network(self.encoder, sequences, self.events, device)
        self.validation = sampled(sequences.queries("validation"), config.validation_queries, config.seed)
        self.model = HeterRecNetwork(config.model, self.encoder)
        if graphs is None and torch.device(device).type == "cuda" and config.loss.candidates is None:
            graphs = "none" if distributed.world() == 1 else None
        self.champion = champion
        if champion is not None:
            begin_from(self.model.to(device), self.encoder, self.columns, champion.model, champion.encoder)
        self.table = shard(self.model) if sharded and distributed.world() > 1 else None
        self.model.to(device)
        self.average = Average(self.model, config.average)
        self.optimiser = Optimiser(self.model, config, shared=None if self.table is None else self.table.weight)
        about = (
            config.loss,
            self.columns,
            torch.from_numpy(candidate_since(sequences, config.loss.only_available)).to(device),
            torch.from_numpy(np.append(0, counts)).to(device),
            int(sequences.time[sequences.split == 0].min()),
            self.batches.asked_A,
        )
        self.scratch: Path | None = None
        self.progress: Progress | None = None
        self.checkpoint_seconds = math.inf
        self._batches: Callable[[int], Sequence[TrainingBatch | Rectangle]] = self.batches.epoch
        self.steps_ahead = 1
        self.objective: nn.Module
        if graphs is None:
            self.objective = Objective(self.model, LMP(*about), self.columns)
        else:
            rectangles = Rectangles(self.batches)
            self._batches, self.steps_ahead = rectangles.epoch, STEPS_AHEAD
            self.objective = FixedObjective(self.model, FixedLMP(*about), self.columns, rectangles, graphs=graphs)
        if self.table is not None:
            ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
            ignore(self.objective, [f"model.{ID_TABLE}"])  # type: ignore[no-untyped-call]
        if distributed.world() > 1:
            self.objective = DistributedDataParallel(self.objective, find_unused_parameters=True)

    def run(self, scratch: Path | None, progress: Progress | None, checkpoint_seconds: float) -> Trained:
        """See `train`."""
        self.scratch, self.progress, self.checkpoint_seconds = scratch, progress, checkpoint_seconds
        done = checkpoint.Progressed()
        if self.scratch is not None:
            self.identity = self._identity()
            own = self._changed(self.table.own) if self.table is not None else None
            done = checkpoint.load(self.scratch, self.identity, self.model, self.average, self.optimiser, own)
        if self.champion is not None and not done.epoch and not done.losses:
            found = self._validate()
            done.best = -math.inf if found is None else found
            done.best_weights = self._weights()
        for _ in self.epoch_by_epoch(done):
            self._save(done)
        self.model.load_state_dict(done.best_weights)
        unshard(self.model)
        self.model.eval()
        memory = self._memory() if self.config.memory and distributed.writes() else None
        return Trained(
            model=self.model,
            encoder=self.encoder,
            memory=memory,
            item_ids=self.sequences.catalogue.item_ids,
            recipe=self.recipe,
            config=self.config,
            curve=done.curve,
            best_epoch=done.best_epoch,
            validation_ndcg=done.best if math.isfinite(done.best) else None,
        )

    def epoch_by_epoch(self, done: checkpoint.Progressed) -> Iterator[checkpoint.Progressed]:
        """Train on from `done`, which is brought up to date, and yield it after each epoch."""
        while done.epoch < self.epochs and done.epoch - done.best_epoch < self.config.patience:
            self._epoch(done)
            yield done

    def _memory(self) -> Memory:
        """The neighbour tables, and how far they and the model are to be trusted."""
        memory = remember(self.sequences, self.config.memory)
        queries = self.sequences.queries("validation")
        memory.beside = fit(memory, self.sequences, self.asked.scores(self.model, queries), self.config.memory)
        return memory

    def _save(self, done: checkpoint.Progressed) -> None:
        if self.scratch is not None and (distributed.rank() == 0 or self.table is not None):
            whole = self._changed(self.table.whole) if self.table is not None else None
            checkpoint.save(self.scratch, self.identity, self.model, self.average, self.optimiser, done, whole)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> checkpoint.Change:
        """`change` of all that a checkpoint holds of the table of item IDs."""
        return partial(converted, place=self.optimiser.place_of(ID_TABLE), change=change)

    def _epoch(self, done: checkpoint.Progressed) -> None:
        started = saved = time.monotonic()
        before = done.seconds
        self.model.train()
        batches: Sequence[TrainingBatch | Rectangle] = self._batches(done.epoch)
        losses: list[Tensor] = []
        for step in range(len(done.losses), len(batches)):
            losses.append(self._step(batches[step], done.epoch, step, len(batches)))
            done.lists += batches[step].lists
            if len(losses) < self.steps_ahead and step + 1 < len(batches):
                continue
            done.losses += _values(losses, done.epoch)
            losses = []
            now = time.monotonic()
            done.seconds = before + now - started
            if self.progress is not None and distributed.rank() == 0:
                self.progress(self._update(done, len(batches)))
            due = now - saved > self.checkpoint_seconds
            if self.table is not None:  # all must take part
                due = bool(distributed.broadcast(float(due), self.device))
            if due:
                self._save(done)
                saved = now
        ndcg = self._validate()
        done.epoch += 1
        # Without validation queries nothing can be told from the epochs, and the last one counts.
        if ndcg is None or ndcg > done.best or not done.best_weights:
            done.best = -math.inf if ndcg is None else ndcg
            done.best_epoch = done.epoch
            done.best_weights = self._weights()
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

    def _step(self, batch: TrainingBatch | Rectangle, epoch: int, step: int, steps: int) -> Tensor:
        # Chance depends on the place of the step alone: a run that goes on from here needs no generator's state.
        seed = int(np.random.default_rng([self.config.seed, epoch, step]).integers(2**62))
        loss: Tensor = self.objective(batch, seed)
        done = (epoch + step / steps) / self.epochs
        self.optimiser.step(loss, _schedule(done, self.config.warmup))
        self.average.update(last=step + 1 == steps)
        # A copy: a graph writes the next loss to the same place.
        return loss.detach().clone()

    def _validate(self) -> float | None:
        found = None
        # To look up what lies on several processes all must ask.
        if len(self.validation) and (distributed.rank() == 0 or self.table is not None):
            scores = self.asked.scores(self.average.weights, self.validation)
            found = rank(scores, self.sequences, self.validation).mean("ndcg", 10)
        return distributed.broadcast(found, self.device)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.average.weights.state_dict().items()}

    def _update(self, done: checkpoint.Progressed, steps: int) -> Update:
        step = len(done.losses)
        left = (self.epochs - done.epoch) * steps - step
        return Update(
            epoch=done.epoch + 1,
            epochs=self.epochs,
            step=step,
            steps=steps,
            loss=sum(done.losses) / step,
            sequences_per_second=done.lists / max(done.seconds, 1e-9),
            seconds_left=left * done.seconds / step,
            validation_ndcg=done.curve[-1]["validation_ndcg"] if done.curve else None,
        )

    def _identity(self) -> str:
        """Of the recipe and the data. Not of the machine: what one of two cores or processes has begun, one of another
        kind may end, with sums in another order and so with other roundings."""
        digest = hashlib.sha256(self.config.to_json().encode())
        digest.update(self.encoder.to_json().encode())
        if self.champion is not None:
            for name, value in sorted(self.champion.model.state_dict().items()):
                digest.update(name.encode() + value.cpu().numpy().tobytes())
        digest.update(self.sequences.identity.encode())
        return digest.hexdigest()


def _tables_alone(sequences: Sequences, config: TrainConfig) -> Trained:
    if not sequences.training_counts.any():
        raise ValueError(_NOTHING)
    return Trained(
        model=None,
        encoder=fitted_encoder(sequences, config),
        memory=remember(sequences, config.memory),
        item_ids=sequences.catalogue.item_ids,
        recipe=config,
        config=config,
        curve=[],
        best_epoch=0,
        validation_ndcg=None,
    )


def _values(losses: list[Tensor], epoch: int) -> list[float]:
    values: list[float] = distributed.mean(torch.stack(losses)).tolist()
    if broken := [value for value in values if not math.isfinite(value)]:
        raise FloatingPointError(f"training: loss {broken[0]} in epoch {epoch + 1}; lower the learning_rate")
    return values


def _schedule(done: float, warmup: float) -> float:
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
