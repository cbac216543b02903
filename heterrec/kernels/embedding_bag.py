"""The gradient of a table of values as a look-up of a size known ahead.

A token is a weighted sum of rows, so a row's gradient is a weighted sum of tokens' gradients. Which tokens a row is in
stays the same during a run over a whole catalogue, so they are sorted by row once, before it. Some rows are in nearly
every token (the slope of a number), and a whole GPU would wait for that one sum of thousands: so sums are taken of
parts of at most PART entries first, and then of the parts.
Letters: J entries of all bags, T tokens, V rows of the table, P parts.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from heterrec.kernels.ragged import ranges

PART = 64
"""Entries that are summed one after the other."""


class Back(NamedTuple):
    """The entries of all bags in the order of the rows they read."""

    token_J: Tensor
    order_J: Tensor
    part_P: Tensor
    """Where each part begins among the entries."""
    row_V: Tensor
    """Where the parts of each row begin."""


def prepared(value_J: Tensor, count_T: Tensor, rows: int) -> Back:
    """The order for bags of `count_T` entries each, which read the rows `value_J` of a table of `rows` rows."""
    # Stable, so that entries of one row keep their order and the same inputs are summed in the same order each time:
    # addition of floats is not associative, and a loss curve is held bit for bit.
    _, order_J = value_J.sort(stable=True)
    entries_V = torch.bincount(value_J, minlength=rows)
    # A row that nobody reads has no part, and the sum over its empty range of parts is zero, as its gradient is.
    parts_V = (entries_V + PART - 1) // PART
    row_V = parts_V.cumsum(0) - parts_V
    first_V = entries_V.cumsum(0) - entries_V
    number_P = ranges(torch.zeros_like(parts_V), parts_V)
    # Part p of row v begins PART entries after part p - 1; the last of a row is as long as what is left of it.
    part_P = torch.repeat_interleave(first_V, parts_V) + number_P * PART
    # `repeat_interleave` of counts gives the token of each entry: 0 for the entries of token 0, then 1, ...
    return Back(torch.repeat_interleave(count_T)[order_J], order_J, part_P, row_V)


def summed_back(grad_TD: Tensor, weight_J: Tensor, back: Back) -> Tensor:
    """The gradient (V, D) of the table from that of the tokens."""
    # A look-up sums rows of a table, weighted. Backwards the roles change: the table is the tokens' gradients (T, D),
    # a bag is a part, and the same kernel sums it, in parallel over parts and without atomic additions.
    weight = weight_J[back.order_J].to(grad_TD.dtype)
    parts_PD = F.embedding_bag(back.token_J, grad_TD, back.part_P, mode="sum", per_sample_weights=weight)
    # The second level sums the parts of each row in their order.
    everyone_P = torch.arange(len(back.part_P), device=grad_TD.device)
    return F.embedding_bag(everyone_P, parts_PD, back.row_V, mode="sum")
