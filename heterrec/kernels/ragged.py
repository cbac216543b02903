"""The numbers of many ranges in one tensor: how events, entries and pairs of packed lists are found."""

import torch
from torch import Tensor


def ranges(start_B: Tensor, length_B: Tensor) -> Tensor:
    """The numbers [start, start + length) of each of B, one range after the other."""
    first_B = length_B.cumsum(0) - length_B
    index = torch.repeat_interleave(start_B - first_B, length_B)
    return index + torch.arange(len(index), device=index.device)
