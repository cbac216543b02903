import copy

import pytest
import torch
from torch import nn

from heterrec.training.weight_average import EVERY, Average


def walked(share: float, steps: int) -> tuple[Average, list[torch.Tensor]]:
    """A model whose one weight is its step, and what that weight was at each."""
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, share)
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(last=False)
        if step % EVERY == 0:
            seen.append(model.weight.detach().clone())
    return average, seen


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_weights_are_the_power_function_mean_of_those_seen(share):
    """Karras et al., equation 1: the weight of what was seen at time t goes as t ** (1 / share - 1)."""
    average, seen = walked(share, 400)
    mean = seen[0]
    for number, weight in enumerate(seen[1:], start=2):
        kept = (1 - 1 / number) ** (1 / share)
        mean = kept * mean + (1 - kept) * weight
    torch.testing.assert_close(average.weights.weight, mean)
    # How far back it reaches is the share that was asked for, of whatever length training has.
    assert 1 - average.weights.weight.item() / 400 == pytest.approx(share / (1 + share), abs=0.02)


def test_without_a_share_the_model_itself_counts():
    average, _ = walked(0.0, 10)
    assert average.weights is average.model


def test_after_the_last_step_of_an_epoch_the_mean_knows_of_it():
    average, _ = walked(0.1, EVERY)
    before = copy.deepcopy(average.weights.weight)
    with torch.no_grad():
        average.model.weight.fill_(100.0)
    average.update(last=True)
    assert average.weights.weight > before


def test_what_was_stored_goes_on_as_if_never_stopped():
    average, _ = walked(0.1, 7)
    other = Average(nn.Linear(1, 1, bias=False), 0.1)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    for each in (average, other):
        with torch.no_grad():
            each.model.weight.fill_(9.0)
        each.update(last=False)
    assert torch.equal(average.weights.weight, other.weights.weight)
