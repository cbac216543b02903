"""The numbers of many ranges in one tensor: how events, entries and pairs of packed lists are found."""

import torch
from torch import Tensor


def ranges(start_B: Tensor, length_B: Tensor) -> Tensor:
    """The numbers [start, start + length) of each of B, one range after the other."""
    # Where each range begins in the answer: B ranges of lengths 2, 0, 3 begin at 0, 2, 2.
    first_B = length_B.cumsum(0) - length_B
    # The j-th number of the answer lies in some range b, and is start_b + (j - first_b). What belongs to b is repeated
    # for each of its numbers, then j is added to all at once: no loop over ranges, and no padding to the longest.
    index = torch.repeat_interleave(start_B - first_B, length_B)
    return index + torch.arange(len(index), device=index.device)
