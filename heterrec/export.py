"""A trained model as a folder, and as a program that needs none of this package. Letters: B, T, N, V, D."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from heterrec.encoder import FeatureEncoder
from heterrec.htfl import Tokens, encode_catalogue
from heterrec.inference import Matrix, item_matrix
from heterrec.model import HeterRec, Histories
from heterrec.recipes import TrainConfig
from heterrec.sequences import Catalogue
from heterrec.training import Trained
from heterrec.transformer import Layout


class Loaded(NamedTuple):
    """A model folder, read."""

    model: HeterRec
    encoder: FeatureEncoder
    config: TrainConfig


class Exported(NamedTuple):
    """`scores = program(item, time, varying_value, varying_missing, length) @ item_matrix.T`."""

    program: ExportedProgram
    item_matrix: Matrix
    item_ids: list[str]


class UserProgram(nn.Module):
    """The sequence side with the catalogue's tokens frozen in; see docs/contracts.md, "archive"."""

    def __init__(self, model: HeterRec, encoder: FeatureEncoder, catalogue: Catalogue) -> None:
        super().__init__()
        self.model = model.eval()
        with torch.no_grad():
            items = model.items(encode_catalogue(encoder, catalogue))
            self.register_buffer("features", items.tokens.feature_RGD.contiguous())
            self.register_buffer("ids", items.tokens.id_RD)
            self.register_buffer("channel", items.channel_RD.clone())

    def forward(
        self, item: Tensor, time: Tensor, varying_value: Tensor, varying_missing: Tensor, length: Tensor
    ) -> Tensor:
        """int64 (B, T), int64 (B, T), float32 (B, T, N), bool (B, T, N), int64 (B) to float32 (B, D)."""
        batch, longest = item.shape
        # The batch is one size, whichever input it is read off: else an exported shape guards against T = 1.
        layout = Layout.rectangle(length.view(batch), longest)
        varying = varying_value.flatten(0, 1), varying_missing.flatten(0, 1)
        histories = Histories(item.flatten(), time.flatten(), *varying, layout)
        tokens = Tokens(self.get_buffer("features"), self.get_buffer("ids"))
        return self.model.users(tokens, self.get_buffer("channel"), histories)


def save_model(trained: Trained, root: Path) -> None:
    """Write recipe.json, config.json, weights.pt, encoder.json and curve.json."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "recipe.json").write_text(trained.recipe.to_json())
    (root / "config.json").write_text(trained.config.to_json())
    (root / "encoder.json").write_text(trained.encoder.to_json())
    (root / "curve.json").write_text(json.dumps(trained.curve, indent=1))
    torch.save({name: value.cpu() for name, value in trained.model.state_dict().items()}, root / "weights.pt")


def load_model(root: Path, device: str = "cpu") -> Loaded:
    """Read a model folder, in evaluation mode; `ValueError` names what is missing or does not fit."""
    for name in ("config.json", "encoder.json", "weights.pt"):
        if not (root / name).is_file():
            raise ValueError(f"{root / name}: no such file; train the model again")
    config = TrainConfig.from_json((root / "config.json").read_text())
    encoder = FeatureEncoder.from_json((root / "encoder.json").read_text())
    model = HeterRec(config.model, encoder)
    state = torch.load(root / "weights.pt", weights_only=True, map_location="cpu")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{root / 'weights.pt'}: does not fit config.json and encoder.json ({error})") from error
    return Loaded(model.to(device).eval(), encoder, config)


def export_program(model_dir: Path, catalogue: Catalogue) -> Exported:
    """The trained model over `catalogue` (that of training, or a newer one) with dynamic batch and time."""
    model, encoder, config = load_model(model_dir)
    batch, length = Dim("batch", min=1, max=4096), Dim("time", min=1, max=config.model.max_history)
    over_both = {0: batch, 1: length}
    program = torch.export.export(
        UserProgram(model, encoder, catalogue),
        example_input(encoder, batch=2, length=3),
        dynamic_shapes=(over_both, over_both, over_both, over_both, {0: batch}),
        strict=False,
    )
    return Exported(program, item_matrix(model, encoder, catalogue), list(catalogue.item_ids))


def example_input(encoder: FeatureEncoder, *, batch: int, length: int) -> tuple[Tensor, ...]:
    """Input of the program's shapes and types, of items that are not in the catalogue."""
    varying: tuple[Any, ...] = (batch, length, len(encoder.varying))
    return (
        torch.zeros(batch, length, dtype=torch.int64),
        torch.arange(length).mul(86_400_000_000).repeat(batch, 1),
        torch.zeros(varying),
        torch.ones(varying, dtype=torch.bool),
        torch.full((batch,), length, dtype=torch.int64),
    )
