"""What a trained model answers with: the item matrix of a catalogue, the vectors of users, and what memory adds.

`scores = users @ item_matrix.T`, and on the pairs that memory recalls its bonus. Letters: Q queries, V items, D width.
"""

from collections.abc import Callable
from copy import copy
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import (
    NOW,
    Catalogue,
    Ints,
    Queries,
    Sequences,
)
from heterrec.evaluation.metrics import Scores
from heterrec.loss.batches import Events, encode_events, histories_of
from heterrec.memory.gates import over, recalled, renewed
from heterrec.memory.neighbours import Gate, Memory
from heterrec.model.htfl import EncodedCatalogue, encode_catalogue
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import TrainConfig

Matrix = npt.NDArray[np.float32]
BATCH_EVENTS, BATCH_ITEMS = 16_384, 65_536


class Loaded(NamedTuple):
    """A trained model."""

    model: HeterRecNetwork | None
    """None where the tables answer alone."""
    encoder: FeatureEncoder
    config: TrainConfig
    memory: Memory | None
    """Over the catalogue of training, whose items are `item_ids`."""
    item_ids: list[str]


class Answers:
    """A trained model over any catalogue with the features that it was trained on, as of one of its slices."""

    def __init__(self, loaded: Loaded, catalogue: Catalogue, number: int) -> None:
        self.loaded, self.catalogue, self.number = loaded, catalogue, number
        self.memory = None if loaded.memory is None else over(loaded.memory, loaded.item_ids, catalogue)

    @classmethod
    def to_serve(cls, loaded: Loaded, sequences: Sequences) -> "Answers":
        """Over the catalogue of `sequences` as it is now, with a memory of all its events."""
        answers = cls(loaded, sequences.catalogue, NOW)
        if answers.memory is not None:
            answers.memory = renewed(answers.memory, sequences)
        return answers

    @property
    def gate(self) -> Gate | None:
        if self.memory is None:
            return None
        return self.memory.alone if self.loaded.model is None else self.memory.beside

    @cached_property
    def items(self) -> Matrix:
        """(V, D); with a memory the share of its trust in the model is in it, and its bias is the last number."""
        matrix = np.zeros((len(self.catalogue), 0), dtype=np.float32)
        if self.loaded.model is not None:
            matrix = item_matrix(self.loaded.model, self.loaded.encoder, self.catalogue, self.number)
        if self.memory is None or self.gate is None:
            return matrix
        matrix = matrix * self.memory.share(self.gate)[:, None]
        return np.concatenate([matrix, self.memory.bias(self.gate)[:, None]], axis=1)

    def users(self, sequences: Sequences, queries: Queries) -> Matrix:
        """(Q, D); with a memory the trust in the model is in it, and a 1 for the bias is the last number."""
        vectors = np.zeros((len(queries), 0), dtype=np.float32)
        if self.loaded.model is not None:
            vectors = user_vectors(self.loaded.model, self.loaded.encoder, sequences, queries, self.number)
        if self.gate is None:
            return vectors
        trusted = np.float32(self.gate.trust) * vectors
        return np.concatenate([trusted, np.ones((len(queries), 1), dtype=np.float32)], axis=1)

    def bonuses(self, sequences: Sequences, queries: Queries) -> list[tuple[Ints, Matrix] | None]:
        """Of each query the rows of the catalogue that it recalls, ascending, and what is added to their scores."""
        if self.memory is None or self.gate is None:
            return [None] * len(queries)
        found = recalled(self.memory, sequences, queries)
        bounds = np.searchsorted(found.history_J, np.arange(1, len(queries)))
        values = self.memory.bonus(self.gate, found)
        return list(zip(np.split(found.item_J, bounds), np.split(values, bounds), strict=True))

    def scores(self, sequences: Sequences, queries: Queries) -> Scores:
        """Of `queries`, for `heterrec.evaluation.metrics.rank`; the catalogue of `sequences` must be this one."""
        users, items, memory, gate = self.users(sequences, queries), self.items, self.memory, self.gate

        def scores(numbers: Ints) -> Matrix:
            out: Matrix = users[numbers] @ items.T
            if memory is not None and gate is not None:
                found = recalled(memory, sequences, queries.take(numbers))
                out[found.history_J, found.item_J] += memory.bonus(gate, found)
            return out

        return scores


def judged(loaded: Loaded, sequences: Sequences, queries: Queries) -> Scores:
    """What a trained model would have answered when it was asked: each query over the catalogue as of its slice."""
    first = Answers(loaded, sequences.catalogue, 0)

    def at(number: int, part: Queries) -> Scores:
        answers = copy(first)
        answers.number = number
        return answers.scores(sequences, part)

    return by_slice(sequences, queries, at)


def by_slice(sequences: Sequences, queries: Queries, at: Callable[[int, Queries], Scores]) -> Scores:
    """The scores of all queries, of which `at` gives those of one slice."""
    slice_Q = sequences.slices(queries)
    if len(present := np.unique(slice_Q)) == 1:
        return at(int(present[0]), queries)
    place_Q, parts = np.zeros_like(slice_Q), {}
    for number in present.tolist():
        own = np.flatnonzero(slice_Q == number)
        place_Q[own] = np.arange(len(own))
        parts[number] = at(number, queries.take(own))

    def scores(numbers: Ints) -> Matrix:
        out = np.zeros((len(numbers), len(sequences.catalogue)), dtype=np.float32)
        for number, part in parts.items():
            mine = np.flatnonzero(slice_Q[numbers] == number)
            if len(mine):
                out[mine] = part(place_Q[numbers[mine]])
        return out

    return scores


class Network:
    """A network in training, its data encoded once: what it would have answered when it was asked, without a memory."""

    def __init__(self, encoder: FeatureEncoder, sequences: Sequences, events: Events, device: str) -> None:
        self.sequences, self.events = sequences, events
        self._of = cache(lambda number: encode_catalogue(encoder, sequences.catalogue, number).to(device))

    def scores(self, model: HeterRecNetwork, queries: Queries) -> Scores:
        """Each query over the catalogue as of its slice."""

        def at(number: int, part: Queries) -> Scores:
            users = vectors(model, self._of(number), self.events, part)
            return product(users, embeddings(model, self._of(number)))

        return by_slice(self.sequences, queries, at)


def item_matrix(model: HeterRecNetwork, encoder: FeatureEncoder, catalogue: Catalogue, number: int) -> Matrix:
    """Item embeddings (V, D) of any catalogue with the features the model was trained on, as of one of its slices.

    Items that the encoder does not know have the null ID token, and are told apart by their features alone.
    """
    return embeddings(model, encode_catalogue(encoder, catalogue, number).to(device_of(model)))


@torch.inference_mode()
def embeddings(model: HeterRecNetwork, columns: EncodedCatalogue) -> Matrix:
    """`item_matrix` of a catalogue that is encoded already, a part at a time."""
    model.eval()
    rows = torch.arange(1, len(columns), device=columns.id_R.device)
    parts = [model.matrix(model.items(columns.take(part))).cpu().numpy() for part in torch.split(rows, BATCH_ITEMS)]
    return np.concatenate(parts)


def user_vectors(
    model: HeterRecNetwork, encoder: FeatureEncoder, sequences: Sequences, queries: Queries, number: int
) -> Matrix:
    """User vectors (Q, D), the temperature folded in; D is `HeterRecNetwork.dimension`. The items of the histories are
    as of the slice `number` but for what was known of them at each event."""
    device = device_of(model)
    columns = encode_catalogue(encoder, sequences.catalogue, number).to(device)
    return vectors(model, columns, encode_events(sequences, encoder, device), queries)


@torch.inference_mode()
def vectors(model: HeterRecNetwork, columns: EncodedCatalogue, events: Events, queries: Queries) -> Matrix:
    """`user_vectors` of what is encoded already; only the items in the histories are looked up."""
    model.eval()
    out = np.zeros((len(queries), model.dimension), dtype=np.float32)
    for chosen, histories in histories_of(events, queries, model.config.max_history, BATCH_EVENTS):
        rows, number = torch.unique(histories.item_S, return_inverse=True)
        items = model.items(columns.take(rows))
        asked = events.asked_at(queries.take(chosen))
        users = model.users(items.tokens, items.channel_RD, histories._replace(item_S=number), asked=asked)
        out[chosen] = users.cpu().numpy()
    return out


def product(users: Matrix, items: Matrix) -> Scores:
    def scores(queries: Ints) -> Matrix:
        out: Matrix = users[queries] @ items.T
        return out

    return scores


def device_of(model: HeterRecNetwork) -> str:
    return str(next(model.parameters()).device)
