"""Dropout that draws a byte a number."""

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 256


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero a share `rate` of the numbers of `x`, rounded to 256ths, and scale the others up, where `training`.

    On a CPU PyTorch's own draws each number's chance one after the other: 8 times as long as bytes cut from 64 bits.
    A GPU draws side by side; and a graph can hold PyTorch's own alone (`Tensor.random_` cannot be traced), so that one
    traced on a CPU is the one that a GPU runs.
    """
    dropped = round(STEPS * rate)
    if not training or not dropped:
        return x
    if x.is_cuda or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * (kept * (STEPS / (STEPS - dropped))).to(x.dtype)
