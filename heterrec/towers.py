"""The item side [F]: a tower for each feature, side by side, then the item cross tower.

Letters: R catalogue rows, F features (ID last), D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """`x + W2 gelu(W1 x)`, the identity at the start of training: a tower, or the head MLP^k of a step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.gelu(self.up(x)))
        return out


class Fuse(nn.Module):
    """F outputs side by side, mapped to one vector that stands, gated, beside the item ID's.

    The ID keeps a way of its own and the gate starts small (ours): features must earn their place, and where they
    tell nothing the model is the ID-only one.
    """

    def __init__(self, features: int, width: int, gate: float, *, deep: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        joined = features * width
        layers: list[nn.Module] = [nn.Linear(joined, width)]
        if deep:
            layers = [nn.Linear(joined, 2 * width), nn.GELU(), nn.Linear(2 * width, width)]
        self.cross = nn.Sequential(*layers)
        self.gate = nn.Parameter(torch.full((width,), gate))

    def forward(self, id_D: Tensor, tokens_FD: Tensor) -> Tensor:
        """(…, D) and (…, F, D) to (…, D)."""
        out: Tensor = id_D + self.gate * self.cross(self.norm(tokens_FD).flatten(-2))
        return out


class ItemSide(nn.Module):
    """Tokens of catalogue rows to the towers' outputs and to item embeddings."""

    def __init__(self, features: int, width: int, gate: float) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Residual(width) for _ in range(features))
        self.cross = Fuse(features, width, gate, deep=True)

    def forward(self, tokens_RFD: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F, D) to towers' outputs (R, F, D) and item embeddings (R, D), not normalised."""
        pairs = zip(self.towers, tokens_RFD.unbind(1), strict=True)
        towers_RFD = torch.stack([tower(token) for tower, token in pairs], dim=1)
        return towers_RFD, self.cross(tokens_RFD[:, -1], towers_RFD)
