"""Who asks: what is known of the user, and of the moment, at which something is asked for (ours; not in the paper).

It is no event and has no place in the history. Each value is a direction in the space of the items, which is added to
what the history says is wanted next. All begin at zero: until training finds that a value says something, the model is
the one without it, and values that say nothing are held there by weight decay. As the next item's asker is known before
the item is, the target's own asker leaks nothing. Letters: N askers, J values of an asker, R rows, C channels, D width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EncodedAskers(NamedTuple):
    """Askers as `FeatureEncoder.encode_asking` gives them."""

    row_NJ: Tensor
    weight_NJ: Tensor

    def take(self, number: Tensor) -> "EncodedAskers":
        return EncodedAskers(self.row_NJ[number], self.weight_NJ[number])

    @classmethod
    def of(cls, encoded: tuple[Any, Any], device: str = "cpu") -> "EncodedAskers":
        return cls(*(torch.as_tensor(array, device=device) for array in encoded))


class AskerEmbedding(nn.Module):
    """A weighted sum of rows of one table, a part of it for each channel of a query."""

    def __init__(self, rows: int, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.table = nn.Parameter(torch.zeros(rows, channels * width))

    def forward(self, asked: EncodedAskers) -> tuple[Tensor, ...]:
        """C times (N, D)."""
        found = (F.embedding(asked.row_NJ, self.table) * asked.weight_NJ[..., None]).sum(-2)
        return found.chunk(self.channels, dim=-1)
