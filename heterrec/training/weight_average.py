"""The running mean of the weights over training: what is validated, kept and served in place of the last weights.

A step with a large learning rate overshoots to all sides; the mean of many stands in the middle, as if the rate had
been lowered, and at any time (Polyak & Juditsky, 1992). How far back it reaches grows with training, so that one
setting holds for short and long runs (power function average: Karras et al., arXiv 2312.02696, section 3.1).
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from heterrec.model.network import HeterRecNetwork

Parameters = tuple[Tensor, ...] | list[Tensor]
EVERY = 4
"""Steps of training between two updates: a mean of weights that differ little need not see all of them."""


class Average:
    """The mean of the weights of `model`; `share` is how far back it reaches, as a share of the steps so far.

    With a share of 0 there is no mean, and `model` itself is what counts.
    """

    def __init__(self, model: HeterRecNetwork, share: float) -> None:
        self.model, self.share, self.steps, self.updates = model, share, 0, 0
        self.mean = AveragedModel(model, multi_avg_fn=self._towards) if share else None

    def update(self, *, last: bool) -> None:
        """After a step of training; `last` of an epoch, after which the mean is asked for."""
        self.steps += 1
        if self.mean is not None and (last or self.steps % EVERY == 0):
            self.mean.update_parameters(self.model)
            self.updates += 1

    @property
    def weights(self) -> HeterRecNetwork:
        """The model that is validated and kept."""
        return self.model if self.mean is None else self.mean.module  # type: ignore[return-value]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": None if self.mean is None else self.mean.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
            self.updates = int(self.mean.n_averaged)

    def _towards(self, mean: Parameters, now: Parameters, updates: Tensor | int) -> None:
        # Counted here too: to read `updates` is to wait for the device.
        number = self.updates + 1
        # beta(t) = (1 - 1/t)^(gamma + 1) of Karras et al., with 1 / share for gamma + 1; the weights of now count 1 -
        # beta. At t = 1 that is all of it: the mean begins as the first weights that it sees, not as those before
        # training.
        torch._foreach_lerp_(mean, now, 1 - (1 - 1 / number) ** (1 / self.share))
