"""The item side [F]: a tower for each feature, side by side, then the item cross tower.

Letters: R catalogue rows, F features (ID last), G = F - 1 features beside the ID, D width,
X = 2 D.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.kernels.matmul import product
from heterrec.model.htfl import EMBEDDING_STD, CatalogueTokens


class Residual(nn.Module):
    """`x + W2 gelu(W1 x)`, the identity at the start of training: the head MLP^k of a step."""

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

    def __init__(self, gates: list[float], width: int) -> None:
        super().__init__()
        self.gate_F = nn.Parameter(torch.tensor(gates))
        self.project = nn.Linear(len(gates) * width, width, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, own_SFD: Tensor, normed_SFD: Tensor) -> Tensor:
        """Tokens as looked up, and as processed (of size one), each (S, F, D), to (S, D)."""
        own = self.gate_F @ own_SFD
        out: Tensor = own + EMBEDDING_STD * self.project(normed_SFD.flatten(1))
        return out


class ItemSide(nn.Module):
    """Tokens of catalogue rows to item embeddings of two channels, and the towers.

    A tower is a linear map, the identity at the start: what is a function of one feature alone is in its row of the
    table already, and the cross tower is where features meet. As it reads the towers side by side, its first layer,
    theirs and the gated sum of the tokens are one product. The item ID keeps a channel of its own; the features
    make the other, whose scale is learned (ours). In one vector the features of an item take their share of its
    length from the ID, and where they tell nothing they only cost: with two channels the placebo shop is learned as
    well as without features.
    """

    START = 0.3
    """Scale of the features' channel against the ID's."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        beside = features - 1
        self.tower_FDD = nn.Parameter(torch.eye(width).repeat(features, 1, 1))
        self.cross_GDD = nn.Parameter(torch.randn(beside, width, width) * (beside * width) ** -0.5)
        self.cross_bias = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, width, bias=False)
        self.gate_G = nn.Parameter(torch.ones(beside))
        self.scale = nn.Parameter(torch.full((1,), self.START))
        nn.init.zeros_(self.project.weight)

    def forward(self, tokens: CatalogueTokens) -> Tensor:
        """Item embeddings (R, 2 D), each channel normalised."""
        first = product(tokens.feature_RGD.flatten(1), self._first())
        return torch.cat([self.ids(tokens.id_RD), self._features(first)], dim=-1)

    def sliced(self, tokens: CatalogueTokens, slices: int) -> list[Tensor]:
        """The features' channel (R, D) as of each slice: what does not vary enters it once."""
        width, beside = tokens.id_RD.shape[1], len(self.gate_G)
        lasting = (beside - len(tokens.looked)) * width
        first = self._first()
        summed_RX = product(tokens.feature_RGD.flatten(1)[:, :lasting], first[:lasting])
        mapped = [
            each.through(own) for each, own in zip(tokens.looked, torch.split(first[lasting:], width), strict=True)
        ]
        # One after the other, as the numbers of one slice stay in the cache.
        return [self._features(sum((each.tokens(n) for each in mapped), summed_RX)) for n in range(slices)]

    def ids(self, id_RD: Tensor) -> Tensor:
        """The item ID's channel (R, D)."""
        return F.normalize(product(id_RD, self.tower_FDD[-1]), dim=-1)

    def _first(self) -> Tensor:
        """What the tokens side by side are multiplied with (G D, 2 D): into the cross tower, and into their own sum."""
        width = self.tower_FDD.shape[-1]
        crossing = torch.bmm(self.tower_FDD[:-1], self.cross_GDD).flatten(0, 1) / EMBEDDING_STD
        gates = torch.kron(self.gate_G[:, None], torch.eye(width, device=crossing.device, dtype=crossing.dtype))
        return torch.cat([crossing, gates], dim=1)

    def _features(self, first_RX: Tensor) -> Tensor:
        crossed, own = first_RX.chunk(2, dim=1)
        crossed = product(F.gelu(crossed + self.cross_bias), self.project.weight.T)
        # Not `torch.add` with alpha: torch.compile (2.13) makes one product of both, and forgets alpha there.
        features = own + EMBEDDING_STD * crossed
        return self.scale * F.normalize(features, dim=-1)

    def tower(self, tokens_D: Tensor, f: int) -> Tensor:
        """Output of the tower of feature `f`, for its tokens (…, D)."""
        return tokens_D @ self.tower_FDD[f]
