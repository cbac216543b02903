"""Large matrix products on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def fast_products() -> Iterator[None]:
    """Products by oneDNN in place of MKL, with bfloat16 inputs where the machine has matrix units for them.

    MKL is several times slower on processors of another make than its own, at the same precision
    (benchmarks/NOTES.md). Not for small products: to set one up takes oneDNN longer than to do it.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows @ matrix`, (R, N) by (N, M) with many rows, its gradients by fast products too."""
    if rows.is_cuda or torch.compiler.is_compiling():  # a GPU has its own, and autocast says in which precision
        return rows @ matrix
    out: Tensor = _Product.apply(rows, matrix)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    @fast_products()
    def forward(ctx: Any, rows: Tensor, matrix: Tensor) -> Tensor:
        # rows (R, N), matrix (N, M). The context holds for this product alone: the setting is global, and small
        # products lose by it.
        ctx.save_for_backward(rows, matrix)
        return rows @ matrix

    @staticmethod
    @fast_products()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        rows, matrix = ctx.saved_tensors
        # Autograd calls this when the context of `forward` has ended: so it is opened again.
        # (R, M) by (M, N), and (N, R) by (R, M), which are as large as the product forwards.
        return grads[0] @ matrix.T, rows.T @ grads[0]
