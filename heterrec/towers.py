"""The item side [F]: a tower for each feature, side by side, then the item cross tower.

Letters: R catalogue rows, F features (ID last), D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.htfl import EMBEDDING_STD


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
    """F tokens side by side, mapped to one vector that is added to the gated sum of the item's own tokens.

    The map starts at zero and the gates at `gates`, one a token (ours). Where the features' gates start small, the
    model begins close to the ID-only one: without them, features that tell nothing lead it astray. The map speaks at
    the scale of embeddings: at that of its normed input it drowns the item's own tokens within a few steps.
    """

    def __init__(self, gates: list[float], width: int, *, deep: bool) -> None:
        super().__init__()
        features = len(gates)
        self.gate_F = nn.Parameter(torch.tensor(gates))
        self.norm = nn.LayerNorm(width)
        self.cross: nn.Module = nn.Identity()
        joined = features * width
        if deep:
            self.cross = nn.Sequential(nn.Linear(joined, 2 * width), nn.GELU())
            joined = 2 * width
        self.project = nn.Linear(joined, width, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, own_FD: Tensor, tokens_FD: Tensor) -> Tensor:
        """An item's tokens as looked up and as processed, each (…, F, D), to (…, D)."""
        own = (self.gate_F[:, None] * own_FD).sum(-2)
        out: Tensor = own + EMBEDDING_STD * self.project(self.cross(self.norm(tokens_FD).flatten(-2)))
        return out


class ItemSide(nn.Module):
    """Tokens of catalogue rows to the towers' outputs and to item embeddings of two channels.

    The item ID keeps a channel of its own; the item cross tower of the features makes the other, whose scale is
    learned (ours). In one vector the features of an item take their share of its length from the ID, and where they
    tell nothing they only cost: with two channels the placebo shop is learned as well as without features.
    """

    START = 0.3
    """Scale of the features' channel against the ID's."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Residual(width) for _ in range(features))
        self.cross = Fuse([1.0] * (features - 1), width, deep=True)
        self.scale = nn.Parameter(torch.full((1,), self.START))

    def forward(self, tokens_RFD: Tensor) -> tuple[Tensor, Tensor]:
        """(R, F, D) to towers' outputs (R, F, D) and item embeddings (R, 2 D), each channel normalised."""
        pairs = zip(self.towers, tokens_RFD.unbind(1), strict=True)
        towers_RFD = torch.stack([tower(token) for tower, token in pairs], dim=1)
        features = self.cross(tokens_RFD[:, :-1], towers_RFD[:, :-1])
        channels = [F.normalize(towers_RFD[:, -1], dim=-1), self.scale * F.normalize(features, dim=-1)]
        return towers_RFD, torch.cat(channels, dim=-1)
