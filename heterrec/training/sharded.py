"""A table of item IDs whose rows lie on several processes, for a catalogue that outgrows one device.

Process p holds the rows [p, p + 1) * share of the table, with what the optimiser knows of them. Each asks the others
for the rows it needs, and gives them back those rows' gradients: all that passes between them is what a batch touches.
What is kept on disk is the whole table, so that any number of processes, one included, can go on from it.

Not DTensor (torch 2.13): its embedding has the right vectors, but a gradient that is a whole dense table on every
process, and none that is sparse; with sampled candidates the optimiser goes through the touched rows alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_to_all_single
from torch.nn import functional as F

from heterrec.model.network import HeterRecNetwork
from heterrec.training.optimiser import ID_TABLE

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedTable(nn.Module):
    """In place of an `nn.Embedding`: the same vectors of the same rows. All processes must ask at the same time."""

    def __init__(self, whole: nn.Embedding) -> None:
        super().__init__()
        self.rows, self.sparse = whole.num_embeddings, whole.sparse
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self.share = -(-self.rows // self.world)
        self.weight = nn.Parameter(self.own(whole.weight.detach()))
        # DDP knows nothing of this table: it takes the mean of gradients, and so must what comes back here.
        self.weight.register_hook(lambda grad: grad / self.world)  # type: ignore[no-untyped-call]

    def forward(self, index_R: Tensor) -> Tensor:
        """Vectors (R, D) of any rows of the whole table."""
        owner_R = index_R // self.share
        asked, order_R = owner_R.sort(stable=True)
        give = torch.bincount(asked, minlength=self.world)
        take = torch.empty_like(give)
        dist.all_to_all_single(take, give, group=_group())
        given, taken = give.tolist(), take.tolist()
        here = index_R.new_empty(sum(taken))
        dist.all_to_all_single(here, index_R[order_R].contiguous(), taken, given, group=_group())
        found = F.embedding(here - self.rank * self.share, self.weight, sparse=self.sparse)
        empty = found.new_empty((len(index_R), found.shape[1]))
        sorted_RD: Tensor = all_to_all_single(empty, found, given, taken, group=_group())  # type: ignore[no-untyped-call]
        return sorted_RD.index_select(0, order_R.argsort())

    def own(self, whole_VD: Tensor) -> Tensor:
        """The rows of a whole table that this process holds; as many on all, the last ones filled up with nothing."""
        part = whole_VD[self.rank * self.share : (self.rank + 1) * self.share]
        return torch.cat([part, part.new_zeros((self.share - len(part), *part.shape[1:]))])

    def whole(self, own_PD: Tensor) -> Tensor:
        """The whole table (V, D) from the parts of all processes on the first of them; on others what they gave."""
        parts = [torch.empty_like(own_PD) for _ in range(self.world)] if self.rank == 0 else None
        dist.gather(own_PD.contiguous(), parts, dst=0)
        return own_PD if parts is None else torch.cat(parts)[: self.rows]


def shard(model: HeterRecNetwork) -> ShardedTable:
    """Replace the table of item IDs of `model`, which all processes have alike."""
    table = ShardedTable(model.htfl.ids)
    model.htfl.ids = table  # type: ignore[assignment]
    return table


def unshard(model: HeterRecNetwork) -> None:
    """Give the model of the first process its whole table again. All must ask at the same time."""
    table = model.htfl.ids
    if not isinstance(table, ShardedTable):
        return
    with torch.no_grad():
        whole = table.whole(table.weight)
    if table.rank == 0:
        model.htfl.ids = nn.Embedding.from_pretrained(whole, freeze=False, sparse=table.sparse)


def converted(state: dict[str, Any], *, place: tuple[int, int], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The state of a run (see `checkpoint`) with `change` made to the table, and to what the mean of the weights and
    the optimiser, at `place`, keep of it."""

    def weights(named: dict[str, Any]) -> dict[str, Any]:
        return {name: change(value) if name.endswith(ID_TABLE) else value for name, value in named.items()}

    part, index = place
    parts = list(state["optimiser"])
    kept = dict(parts[part]["state"])
    if index in kept:
        moments = {name: change(value) if name in MOMENTS else value for name, value in kept[index].items()}
        parts[part] = {**parts[part], "state": {**kept, index: moments}}
    average = state["average"]
    if average["mean"] is not None:
        average = {**average, "mean": weights(average["mean"])}
    both = {name: weights(state[name]) for name in ("model", "best_weights")}
    return {**state, **both, "average": average, "optimiser": parts}


_GROUPS: dict[int, Any] = {}


def _group() -> Any:
    """A group for the table alone: DDP's own exchanges come in between, on each process at another time."""
    default = id(dist.group.WORLD)
    if default not in _GROUPS:
        _GROUPS.clear()
        _GROUPS[default] = dist.new_group()
    return _GROUPS[default]
