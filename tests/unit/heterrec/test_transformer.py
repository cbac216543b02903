import pytest
import torch
from torch.nn import functional as F

from heterrec.model.transformer import HSTUBlock, Layout, Taste


@pytest.mark.parametrize("length", [[3, 1, 4], [2, 2]])
def test_padding_and_packing_undo_each_other_and_so_do_their_gradients(length: list[int]):
    lengths = torch.tensor(length)
    layout = Layout(lengths, max(length), whole=len(set(length)) == 1)
    x = torch.randn(sum(length), 5, requires_grad=True)
    padded = layout.pad(x)
    assert padded.shape == (len(length), max(length), 5)
    torch.testing.assert_close(layout.pack(padded), x)
    weight = torch.randn(sum(length), 5)
    (layout.pack(padded * 2) * weight).sum().backward()
    torch.testing.assert_close(x.grad, 2 * weight)


def test_taste_is_the_mean_of_what_came_so_far_the_latest_heaviest():
    taste = Taste(4, 6).double()
    with torch.no_grad():
        taste.lag.add_(0.1 * torch.randn(6))
    channel = torch.randn(2, 5, 4, dtype=torch.float64)
    found = taste(channel.flatten(0, 1), Layout.rectangle(torch.tensor([5, 5]), 5)).view(2, 5, 4)
    for t in range(5):
        weight = taste.lag[: t + 1].softmax(0)
        expected = sum(weight[t - j] * channel[:, j] for j in range(t + 1))
        torch.testing.assert_close(found[:, t], taste.scale * expected)
    fresh = Taste(4, 6)
    assert (fresh.lag.diff() < 0).all(), "the latest counts most"


@pytest.mark.parametrize("heads", [1, 2])
def test_hstu_equals_a_loop_over_users_heads_and_pairs_of_events(heads: int):
    """Zhai et al. (2024), equations 1 to 3, with the relative bias by how many events ago."""
    torch.manual_seed(2)
    width, size, lengths = 4, 4 // heads, torch.tensor([3, 1, 5])
    block = HSTUBlock(width, heads, 6, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    x = torch.randn(int(lengths.sum()), width, dtype=torch.float64)
    found = block(x, Layout(lengths, 5, whole=False))
    u, v, q, k = F.silu(block.gates(block.norm(x))).split(width, dim=-1)
    for user, first in enumerate([0, 3, 4]):
        for t in range(first, first + int(lengths[user])):
            attended = torch.zeros(width, dtype=torch.float64)
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                for s in range(first, t + 1):
                    attended[own] += F.silu(q[t, own] @ k[s, own] + block.lag[t - s]) / 6 * v[s, own]
            expected = x[t] + block.out(block.attended_norm(attended) * u[t])
            torch.testing.assert_close(found[t], expected)
