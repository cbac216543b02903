"""A step of training as one graph for each shape: from the starts of lists to the loss, without a wait for the device.

What it is for: a GPU ends a step of a small model sooner than a CPU can ask for it. Letters as in `padded_batches`.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from heterrec.kernels.embedding_bag import prepared
from heterrec.loss.fixed_lmp import FixedLMP
from heterrec.loss.padded_batches import Rectangle, Rectangles
from heterrec.model.htfl import EncodedCatalogue
from heterrec.model.network import HeterRecNetwork

Graphs = Literal["none", "captured", "compiled", "both"]
"""`captured` replays the kernels of PyTorch as a CUDA graph, which is soon prepared; `compiled` makes kernels of its
own, which takes its time; `both` replays those."""
HOW: dict[Graphs, dict[str, Any]] = {
    "captured": {"backend": "cudagraphs"},
    "compiled": {},
    "both": {"mode": "reduce-overhead"},
}


class FixedObjective(nn.Module):
    """The loss of a rectangle. The same as `objective.Objective` of the same lists, chance apart."""

    def __init__(
        self,
        model: HeterRecNetwork,
        loss: FixedLMP,
        columns: EncodedCatalogue,
        rectangles: Rectangles,
        *,
        graphs: Graphs,
        low: bool | None = None,
    ) -> None:
        """`low`: products in bfloat16; by default on a GPU."""
        super().__init__()
        if graphs not in get_args(Graphs):
            raise ValueError(f"graphs={graphs!r} is unknown, expected one of {get_args(Graphs)}")
        self.model, self.loss, self.rectangles = model, loss, rectangles
        bags, table = columns.bags, model.htfl.values
        back = prepared(bags.value_J, bags.count_T, table.num_embeddings) if model.htfl.fields else None
        self.columns = replace(columns, back=back)
        on_gpu = columns.id_R.device.type == "cuda"
        self.low, self.graphs = on_gpu if low is None else low, graphs
        self._whole = self._prepared()

    def forward(self, batch: Rectangle, seed: int) -> Tensor:
        torch.manual_seed(seed)
        if self.graphs in ("captured", "both"):
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        loss: Tensor = self._whole(batch.start_B, batch.length_B, batch.longest)
        return loss

    def whole(self, start_B: Tensor, length_B: Tensor, longest: int) -> Tensor:
        """All of the step; what is compiled."""
        batch = Rectangle(start_B, length_B, longest, len(start_B))
        with torch.autocast(batch.start_B.device.type, torch.bfloat16, enabled=self.low):
            histories, event_S, inside_S = self.rectangles.histories(batch)
            steps = self.rectangles.targets(batch, event_S, inside_S, histories.layout.position_S)
            drawn = self.loss.drawn()
            items = self.model.items(self.columns, drawn.newborn_S)
            place_S = items.at(histories.item_S, histories.time_S)
            states = self.model.states(items.tokens, items.channel_RD, histories, place_S)
            return self.loss.total(self.model, items, states, drawn, steps)

    def _prepared(self) -> Any:
        if self.graphs == "none":
            return self.whole
        for part in (self.columns, self.rectangles, self.rectangles.source, self.rectangles.source.events, self.loss):
            _stays(part)
        _stays(self.rectangles.source.targets)
        # One graph for each length, and no other: a second look at the same shape would mean that a value decides.
        torch._dynamo.config.cache_size_limit = 64
        return torch.compile(self.whole, fullgraph=True, dynamic=False, **HOW[self.graphs])


def _stays(holder: Any) -> None:
    """Tensors of `holder` stay where they are: a graph reads them there and copies nothing."""
    values = [getattr(holder, each.name) for each in fields(holder)] if is_dataclass(holder) else vars(holder).values()
    for value in values:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]:
            if isinstance(each, Tensor):
                torch._dynamo.mark_static_address(each)
