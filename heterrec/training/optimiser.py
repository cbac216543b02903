"""What a step of training does to the parameters: AdamW, and Adam of the touched rows alone for item IDs.

A catalogue of a million items has a table of IDs of 256 MB at width 64. A step with sampled candidates touches a few
thousand of its rows; an optimiser that goes through all of them would take most of the step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from heterrec import distributed
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import TrainConfig

GATE_PACE = 10.0
GATES = ("gate_F", "gate_G", "scale", "speaks")
FEATURES = ("htfl.values", "htfl.maps", "item_side", "token_", "fuse", "asker")
ID_TABLE = "htfl.ids.weight"


class Optimiser:
    """AdamW; feature parameters decay on their own, and ID embeddings, towers, biases and norms not at all.

    Gates and scales, single numbers that say how far a feature or a channel counts, learn GATE_PACE times as fast:
    where features tell nothing they must be out of the way before the rest has learned from them (ours).
    """

    def __init__(self, model: HeterRecNetwork, config: TrainConfig, *, shared: nn.Parameter | None = None) -> None:
        self.config = config
        sparse = config.loss.candidates is not None
        self.shared, self.named = shared, dict(model.named_parameters())
        """`shared`: the table of item IDs where its rows lie on several processes; `named`: parameters by name."""
        model.htfl.ids.sparse = sparse
        # AdamW takes decay and rate by group: parameters are grouped by the two that hold for them.
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        rows: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if sparse and name == ID_TABLE:
                rows.append(parameter)
                continue
            decay = config.feature_weight_decay if name.startswith(FEATURES) else config.weight_decay
            plain = parameter.ndim < 2 or name in (ID_TABLE, "item_side.tower_FDD")
            pace = GATE_PACE if name.endswith(GATES) else 1.0
            groups.setdefault((0.0 if plain else decay, pace), []).append(parameter)
        dense = torch.optim.AdamW(
            [{"params": each, "weight_decay": decay, "pace": pace} for (decay, pace), each in groups.items()],
            lr=config.learning_rate,
            fused=True,
        )
        self.parts: list[torch.optim.Optimizer] = [dense]
        if rows:
            # Lazy Adam: the moments of a row move only in steps that touch it. Without decay, which would touch them
            # all.
            self.parts.append(torch.optim.SparseAdam([{"params": rows, "pace": 1.0}], lr=config.learning_rate))
        self.parameters = [
            parameter for part in self.parts for group in part.param_groups for parameter in group["params"]
        ]

    def step(self, loss: Tensor, rate: float) -> None:
        """One step down the gradient of `loss` at `rate` times the learning rate, the gradient clipped."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._clip()
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["pace"] * rate * self.config.learning_rate
            part.step()

    def place_of(self, name: str) -> tuple[int, int]:
        """Which of the parts keeps the state of this parameter, and under which number."""
        for number, part in enumerate(self.parts):
            inside = [parameter for group in part.param_groups for parameter in group["params"]]
            for index, parameter in enumerate(inside):
                if parameter is self.named[name]:
                    return number, index
        raise ValueError(f"optimiser: has no parameter {name!r}")

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)

    def _clip(self) -> None:
        grads: list[Tensor] = []
        elsewhere = None
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            if parameter is self.shared:
                elsewhere = len(grads)
            if parameter.grad.is_sparse:
                # A row that a batch reads several times has as many entries: the norm is that of their sum.
                parameter.grad = parameter.grad.coalesce()
                grads.append(parameter.grad._values())
            else:
                grads.append(parameter.grad)
        # One norm over all parameters (Pascanu et al., 2013): clipping each by itself would turn the gradient.
        norms = torch.stack(torch._foreach_norm(grads))
        if elsewhere is not None:
            # Each process holds other rows of the table: the sum of squares over all of them is what counts.
            norms[elsewhere] = (distributed.mean(norms[elsewhere] ** 2) * distributed.world()).sqrt()
        norm = norms.norm()
        torch._foreach_mul_(grads, (self.config.clip / (norm + 1e-6)).clamp(max=1.0))
