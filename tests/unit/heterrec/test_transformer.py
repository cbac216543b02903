import pytest
import torch

from heterrec.transformer import Layout, Taste


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
    found = taste(channel.flatten(0, 1), Layout.rectangle(2, 5, channel.device)).view(2, 5, 4)
    for t in range(5):
        weight = taste.lag[: t + 1].softmax(0)
        expected = sum(weight[t - j] * channel[:, j] for j in range(t + 1))
        torch.testing.assert_close(found[:, t], taste.scale * expected)
    fresh = Taste(4, 6)
    assert (fresh.lag.diff() < 0).all(), "the latest counts most"
