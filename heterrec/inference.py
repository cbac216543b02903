"""What a trained model answers with: the item matrix of a catalogue and the vectors of users.

`scores = users @ item_matrix.T`. Letters: Q queries, V items, D width.
"""

import numpy as np
import numpy.typing as npt
import torch

from heterrec.batches import Events, encode_events, histories_of
from heterrec.encoder import FeatureEncoder
from heterrec.htfl import Columns, encode_catalogue
from heterrec.metrics import Scores
from heterrec.model import HeterRec
from heterrec.sequences import Catalogue, Ints, Queries, Sequences

Matrix = npt.NDArray[np.float32]
BATCH_EVENTS = 16_384


@torch.inference_mode()
def item_matrix(model: HeterRec, encoder: FeatureEncoder, catalogue: Catalogue) -> Matrix:
    """Item embeddings (V, D) of any catalogue with the features the model was trained on.

    Items that the encoder does not know have the null ID token, and are told apart by their features alone.
    """
    model.eval()
    columns = to_device(encode_catalogue(encoder, catalogue), device_of(model))
    matrix: Matrix = model.items(columns).items_RD[1:].cpu().numpy()
    return matrix


def user_vectors(model: HeterRec, encoder: FeatureEncoder, sequences: Sequences, queries: Queries) -> Matrix:
    """User vectors (Q, D), the temperature folded in; D is `HeterRec.dimension`."""
    columns = to_device(encode_catalogue(encoder, sequences.catalogue), device_of(model))
    return vectors(model, columns, encode_events(sequences, encoder), queries)


@torch.inference_mode()
def vectors(model: HeterRec, columns: Columns, events: Events, queries: Queries) -> Matrix:
    """`user_vectors` of what is encoded already."""
    model.eval()
    device = device_of(model)
    items = model.items(columns)
    out = np.zeros((len(queries), model.dimension), dtype=np.float32)
    for chosen, histories in histories_of(events, queries, model.config.max_history, BATCH_EVENTS):
        there = histories.to(device)
        states = model.states(items.tokens_RFD, items.channel_RD, *there[:4])
        out[chosen] = model.users(states.items_BTD, there.length_B).cpu().numpy()
    return out


def model_scores(model: HeterRec, encoder: FeatureEncoder, sequences: Sequences, queries: Queries) -> Scores:
    """The model's scores of `queries`, for `heterrec.metrics.rank`."""
    users = user_vectors(model, encoder, sequences, queries)
    return product(users, item_matrix(model, encoder, sequences.catalogue))


def product(users: Matrix, items: Matrix) -> Scores:
    def scores(queries: Ints) -> Matrix:
        out: Matrix = users[queries] @ items.T
        return out

    return scores


def to_device(columns: Columns, device: str) -> Columns:
    return {name: (value.to(device), missing.to(device)) for name, (value, missing) in columns.items()}


def device_of(model: HeterRec) -> str:
    return str(next(model.parameters()).device)
