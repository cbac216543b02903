"""A trained model as a folder, and as a program that needs none of this package. Letters: B, T, N, V, D."""

import copy
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from heterrec.data.asking import EncodedAskers
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import Catalogue
from heterrec.inference.answers import Answers, Loaded
from heterrec.memory.gates import by_itself
from heterrec.memory.neighbours import CHANNELS, Memory
from heterrec.model.htfl import CatalogueTokens, encode_catalogue
from heterrec.model.network import HeterRecNetwork, PackedHistories
from heterrec.model.transformer import Layout
from heterrec.recipes import TrainConfig, neighbours
from heterrec.training.trained import Trained


class UserProgram(nn.Module):
    """The sequence side with the tokens of a catalogue, as of a slice, frozen in; see docs/contracts.md, "archive"."""

    def __init__(
        self,
        model: HeterRecNetwork,
        encoder: FeatureEncoder,
        catalogue: Catalogue,
        number: int,
        trust: float | None = None,
    ) -> None:
        super().__init__()
        self.model, self.trust, self.static = copy.deepcopy(model).eval(), trust, model.static
        with torch.no_grad():
            items = model.items(encode_catalogue(encoder, catalogue, number))
            self.register_buffer("channel", items.channel_RD.clone())
            if (
                self.static
            ):  # a vector an item in place of its tokens and their tables: a smaller archive, a quicker answer
                self.register_buffer("own", model.own(items.tokens))
                for name in ("htfl", "fuse", "item_side"):
                    setattr(self.model, name, None)
            else:
                self.register_buffer("features", items.tokens.feature_RGD.contiguous())
                self.register_buffer("ids", items.tokens.id_RD)

    def forward(
        self,
        item: Tensor,
        time: Tensor,
        varying_value: Tensor,
        varying_missing: Tensor,
        length: Tensor,
        asked_row: Tensor | None = None,
        asked_weight: Tensor | None = None,
    ) -> Tensor:
        """int64 (B, T), int64 (B, T), float32 (B, T, N), bool (B, T, N), int64 (B), and of a model that knows who asks
        int64 (B, J), float32 (B, J), to float32 (B, D)."""
        batch, longest = item.shape
        # The batch is one size, whichever input it is read off: else an exported shape guards against T = 1.
        layout = Layout.rectangle(length.view(batch), longest)
        varying = varying_value.flatten(0, 1), varying_missing.flatten(0, 1)
        histories = PackedHistories(item.flatten(), time.flatten(), *varying, layout)
        asked = None if asked_row is None or asked_weight is None else EncodedAskers(asked_row, asked_weight)
        channel = self.get_buffer("channel")
        if self.static:
            own = self.get_buffer("own")
            users = self.model.users(CatalogueTokens(own, own), channel, histories, own, asked)
        else:
            tokens = CatalogueTokens(self.get_buffer("features"), self.get_buffer("ids"))
            users = self.model.users(tokens, channel, histories, asked=asked)
        if self.trust is None:
            return users
        return torch.cat([self.trust * users, torch.ones_like(users[:, :1])], dim=-1)


def save_model(trained: Trained, root: Path) -> None:
    """Write recipe.json, config.json, encoder.json and curve.json, weights.pt of a network, and of a memory memory.npz
    with the items of its rows in memory_items.json."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "recipe.json").write_text(trained.recipe.to_json())
    (root / "config.json").write_text(trained.config.to_json())
    (root / "encoder.json").write_text(trained.encoder.to_json())
    (root / "curve.json").write_text(json.dumps(trained.curve, indent=1))
    if trained.model is not None:
        torch.save({name: value.cpu() for name, value in trained.model.state_dict().items()}, root / "weights.pt")
    if trained.memory is not None:
        trained.memory.save(root / "memory.npz")
        (root / "memory_items.json").write_text(json.dumps(trained.item_ids))


def tables_of(loaded: Loaded) -> Trained | None:
    """The tables beside a model as a model of the recipe `neighbours`, the same to the byte as training that on the
    same events would give; None where the model was not given all of them."""
    if loaded.memory is None or set(loaded.config.memory) != set(CHANNELS):
        return None
    return Trained(
        model=None,
        encoder=loaded.encoder,
        memory=by_itself(loaded.memory),
        item_ids=loaded.item_ids,
        recipe=neighbours(),
        config=neighbours(),
        curve=[],
        best_epoch=0,
        validation_ndcg=None,
    )


def load_model(root: Path, device: str = "cpu") -> Loaded:
    """Read a model folder, in evaluation mode; `ValueError` names what is missing or does not fit."""
    config = TrainConfig.from_json(_present(root / "config.json").read_text())
    encoder = FeatureEncoder.from_json(_present(root / "encoder.json").read_text())
    model = _network(root, config, encoder, device) if config.network else None
    memory, item_ids = None, []
    # A folder of before there was a memory has none, whatever its config says by default.
    if (root / "memory.npz").is_file():
        memory = Memory.load(root / "memory.npz")
        item_ids = json.loads(_present(root / "memory_items.json").read_text())
    elif model is None:
        _present(root / "memory.npz")
    return Loaded(model, encoder, config, memory, item_ids)


def _network(root: Path, config: TrainConfig, encoder: FeatureEncoder, device: str) -> HeterRecNetwork:
    model = HeterRecNetwork(config.model, encoder)
    try:
        state = torch.load(_present(root / "weights.pt"), weights_only=True, map_location="cpu")
    except UnpicklingError as error:  # that it holds more than tensors, and is not read
        raise ValueError(f"{root / 'weights.pt'}: holds more than tensors; train the model again") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{root / 'weights.pt'}: does not fit config.json and encoder.json ({error})") from error
    return model.to(device).eval()


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train the model again")
    return path


def export_program(answers: Answers) -> ExportedProgram | None:
    """The sequence side over the catalogue of `answers`, of any batch and time; None where the tables answer alone.

    `program(item, time, varying_value, varying_missing, length)`, and where the model knows who asks `asked_row` and
    `asked_weight` after them, are the users of `Answers`.
    """
    loaded = answers.loaded
    if loaded.model is None:
        return None
    batch, length = Dim("batch", min=1, max=4096), Dim("time", min=1, max=loaded.config.model.max_history)
    over_both = {0: batch, 1: length}
    trust = None if answers.gate is None else answers.gate.trust
    return torch.export.export(
        UserProgram(loaded.model, loaded.encoder, answers.catalogue, answers.number, trust),
        example_input(loaded.encoder, batch=2, length=3),
        dynamic_shapes=(*[over_both] * 4, *[{0: batch}] * (3 if loaded.encoder.asking else 1)),
        strict=False,
    )


def example_input(encoder: FeatureEncoder, *, batch: int, length: int) -> tuple[Tensor, ...]:
    """Input of the program's shapes and types, of items that are not in the catalogue."""
    varying: tuple[Any, ...] = (batch, length, encoder.per_event)
    return (
        torch.zeros(batch, length, dtype=torch.int64),
        torch.arange(length).mul(86_400_000_000).repeat(batch, 1),
        torch.zeros(varying),
        torch.ones(varying, dtype=torch.bool),
        torch.full((batch,), length, dtype=torch.int64),
        *(EncodedAskers.of(encoder.encode_asking({}, batch)) if encoder.asking else ()),
    )
