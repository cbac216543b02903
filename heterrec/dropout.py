"""Dropout that draws a byte a number."""

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 256


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero a share `rate` of the numbers of `x`, rounded to 256ths, and scale the others up, where `training`.

    On a CPU PyTorch's own draws each number's chance one after the other: 8 times as long as bytes cut from 64 bits.
    """
    if x.is_cuda:
        return F.dropout(x, rate, training)
    dropped = round(STEPS * rate)
    if not training or not dropped:
        return x
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * (kept * (STEPS / (STEPS - dropped))).to(x.dtype)
