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
BATCH_EVENTS, BATCH_ITEMS = 16_384, 65_536


def item_matrix(model: HeterRec, encoder: FeatureEncoder, catalogue: Catalogue) -> Matrix:
    """Item embeddings (V, D) of any catalogue with the features the model was trained on.

    Items that the encoder does not know have the null ID token, and are told apart by their features alone.
    """
    return embeddings(model, encode_catalogue(encoder, catalogue).to(device_of(model)))


@torch.inference_mode()
def embeddings(model: HeterRec, columns: Columns) -> Matrix:
    """`item_matrix` of a catalogue that is encoded already, a part at a time."""
    model.eval()
    rows = torch.arange(1, len(columns), device=columns.id_R.device)
    parts = [model.matrix(model.items(columns.take(part))).cpu().numpy() for part in torch.split(rows, BATCH_ITEMS)]
    return np.concatenate(parts)


def user_vectors(model: HeterRec, encoder: FeatureEncoder, sequences: Sequences, queries: Queries) -> Matrix:
    """User vectors (Q, D), the temperature folded in; D is `HeterRec.dimension`."""
    device = device_of(model)
    columns = encode_catalogue(encoder, sequences.catalogue).to(device)
    return vectors(model, columns, encode_events(sequences, encoder, device), queries)


@torch.inference_mode()
def vectors(model: HeterRec, columns: Columns, events: Events, queries: Queries) -> Matrix:
    """`user_vectors` of what is encoded already; only the items in the histories are looked up."""
    model.eval()
    out = np.zeros((len(queries), model.dimension), dtype=np.float32)
    for chosen, histories in histories_of(events, queries, model.config.max_history, BATCH_EVENTS):
        rows, number = torch.unique(histories.item_S, return_inverse=True)
        items = model.items(columns.take(rows))
        users = model.users(items.tokens, items.channel_RD, histories._replace(item_S=number))
        out[chosen] = users.cpu().numpy()
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


def device_of(model: HeterRec) -> str:
    return str(next(model.parameters()).device)
