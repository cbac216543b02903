"""What the GPU benchmark counts."""

import torch

from benchmarks.model.gpu import flops_of
from heterrec.loss.lmp import NEVER, Step, full_infonce


def test_the_products_of_the_softmax_are_all_counted():
    """Logits, and the gradients of queries and of items, which are added in place."""
    states, items, width = 30, 50, 8
    shapes = (states, width), (items, width), (items,)
    query, item, bias = (torch.randn(*shape, requires_grad=True) for shape in shapes)
    nothing, times = torch.empty(0, dtype=torch.int64), torch.ones(states, dtype=torch.int64)
    step = Step(torch.arange(states), torch.arange(1, 31), torch.ones(states), times, nothing, nothing)
    since = torch.zeros(items, dtype=torch.int64)
    since[0] = NEVER
    found = flops_of(lambda: full_infonce(query, item, bias, step, since, nothing, chunk=16).backward())
    share_of_bias = 2 * states * items  # `weight @ share`
    assert found in (3 * 2 * states * items * width, 3 * 2 * states * items * width + share_of_bias)
