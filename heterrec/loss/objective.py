"""The loss of one batch, from its events to one number."""

import torch
from torch import Tensor, nn

from heterrec import distributed
from heterrec.loss.batches import TrainingBatch
from heterrec.loss.lmp import LMP
from heterrec.model.htfl import EncodedCatalogue
from heterrec.model.network import HeterRecNetwork


class Objective(nn.Module):
    """The loss of a batch, of this process's part of it, from the events to one number."""

    def __init__(self, model: HeterRecNetwork, loss: LMP, columns: EncodedCatalogue) -> None:
        super().__init__()
        self.model, self.loss, self.columns = model, loss, columns

    def forward(self, batch: TrainingBatch, seed: int) -> Tensor:
        torch.manual_seed(seed)
        part = batch.part(distributed.rank(), distributed.world())
        histories = part.histories()
        drawn, item_S, steps = self.loss.draw(histories.item_S, part.targets(histories.layout))
        columns = self.columns if drawn.rows_R is None else self.columns.take(drawn.rows_R)
        items = self.model.items(columns, drawn.newborn_S)
        if distributed.world() > 1:
            # The item side is the same for all processes, so that their gradients belong to one model.
            torch.manual_seed(seed + distributed.rank())
        histories = histories._replace(item_S=item_S)
        place_S = items.at(item_S, histories.time_S)
        states = self.model.states(items.tokens, items.channel_RD, histories, place_S)
        # States (S, D) of the histories against items (R, D): the rows that `draw` has numbered.
        loss: Tensor = self.loss(self.model, items, states, drawn, steps)
        return loss
