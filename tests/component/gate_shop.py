"""Sequences, models and a champion as far as the model gate reads them; nothing is trained."""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate.held import HeldAgainst
from components.shared.recipe_digest import recipe_digest
from feature_repo.card import Release
from heterrec import recipes
from heterrec.data.sequences import Sequences, read_sequences
from heterrec.evaluation.metrics import Ranking
from tests.component import shop_card
from tests.unit.heterrec.shop import write_shop
from tests.unit.heterrec.small import encoder_of

CARD = shop_card.CARD.model_copy(update={"repeats": False, "release": Release(margin=0.1, pool_days=5, fresh_days=20)})


class Shop:
    """Sequences, and folders as far as `held` reads models and champions."""

    def __init__(self, root: Path) -> None:
        self.root, self.sequences = root, write_shop(root / "sequences")
        self.data = read_sequences(self.sequences)
        self.queries = self.data.queries("test")
        self.now = datetime.fromisoformat(json.loads((self.sequences / "features.json").read_text())["as_of"])
        settings = {"network": recipes.heterrec(), "other": recipes.sasrec(), "tables": recipes.neighbours()}
        self.models = {name: root / name for name in settings}
        for name, folder in self.models.items():
            folder.mkdir()
            for file in ("config.json", "recipe.json"):
                (folder / file).write_text(settings[name].to_json())
            (folder / "encoder.json").write_text(encoder_of(self.data).to_json())
            if settings[name].network:
                (folder / "weights.pt").touch()

    def recipe(self, name: str) -> str:
        asked = json.loads((self.models[name] / "recipe.json").read_text())
        return recipe_digest(asked, self.data.catalogue.described)

    def champion(self, name: str, serving: str | None, reference: str | None = None, **facts: Any) -> Path:
        """The artifact, where the reference has weights of its own with those of the model `reference`."""
        folder = self.root / name
        folder.mkdir()
        told: dict[str, Any] = {"version": None}
        if serving:
            shutil.copytree(self.models[serving], folder / "model")
            told = {"version": "7", "recipe_digest": self.recipe(serving), "data_until": None, "reference": "6",
                    "nights": [], **facts}  # fmt: skip
        if reference:
            shutil.copytree(self.models[reference], folder / "reference")
        (folder / "champion.json").write_text(json.dumps(told))
        return folder

    def held(self, champion: Path, model: str = "network", data: Sequences | None = None) -> HeldAgainst:
        return HeldAgainst.read(champion, self.models[model], self.sequences, data or self.data, CARD)

    def ranking(self, rank: int) -> Ranking:
        """Of a model that finds what every shopper bought in this place."""
        asked = np.arange(len(self.queries))
        rows = self.data.row[self.queries.stop]
        return Ranking(queries=len(asked), query=asked, target=rows, rank=np.full(len(asked), rank))
