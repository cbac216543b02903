"""What varies of an item as of several moments, for training. Letters: K slices, R catalogue rows, N varying features,
D width, W rows of a feature's part of the table of values.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NULL, SLOPE = 0, 1
"""Rows of a feature's part of the table: no value at all; a number's slope, before its buckets."""


class Slices(NamedTuple):
    """The varying features of R catalogue rows as of K moments, encoded as those of events are."""

    since_K: Tensor
    """Microseconds: each slice is of targets after it, up to the next."""
    value_KRN: Tensor
    missing_KRN: Tensor

    def of(self, time: Tensor) -> Tensor:
        """The number of the slice that began last before each time; the first, before all of them."""
        return (torch.searchsorted(self.since_K, time) - 1).clamp(min=0)


class SliceTokens(NamedTuple):
    """Tokens of one varying feature as of K slices, not looked up yet: a linear map of them is a look-up of the mapped
    table."""

    table_WD: Tensor
    row_KR: Tensor
    value_KR: Tensor | None
    """Of a number, what its slope counts times."""

    def through(self, map_DX: Tensor) -> "SliceTokens":
        """What a linear map makes of the tokens."""
        return self._replace(table_WD=self.table_WD @ map_DX)

    def tokens(self, number: int) -> Tensor:
        """(R, D) as of one slice."""
        found = F.embedding(self.row_KR[number], self.table_WD)
        if self.value_KR is None:
            return found
        return torch.addmm(found, self.value_KR[number, :, None], self.table_WD[SLOPE, None])
