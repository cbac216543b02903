"""What a model is called: read off the settings that ran, never assumed."""

import json
from pathlib import Path

from heterrec.recipes import TrainConfig

CHAMPION, REFERENCE, POPULARITY = "champion", "reference", "popularity"
NEIGHBOURS = "neighbour tables"
"""One name across versions, so that a series of nights is one series."""


def model_name(model: Path) -> str:
    """The name of a model folder, by its settings."""
    return name_of(TrainConfig.from_json((model / "config.json").read_text()))


def name_of(config: TrainConfig) -> str:
    """Such as "HeterRec", "item ID only", "HSTU block, item ID only"."""
    if not config.network:
        return NEIGHBOURS
    shape = config.model
    parts = ["HSTU block"] if shape.block == "hstu" else []
    if not shape.features:
        parts.append("item ID only")
    elif shape.tokens == "sum":
        parts.append("features summed in")
    else:
        parts.insert(0, "HeterRec")
        if shape.token_layers and shape.steps > 1:
            parts.append("all parts of the paper")
    if not config.memory:
        parts.append("no memory")
    if config.shuffle_targets:
        parts.append("targets shuffled")
    return ", ".join(parts)


def baseline_name(baseline: Path, new: str) -> str:
    """The baseline's name; told apart where it is of the new model's kind, or has the name of the tables that may be
    released: it would be ranked in their place."""
    name = model_name(baseline)
    return f"{name} (baseline)" if name in (new, NEIGHBOURS) else name


def version_of(champion: Path) -> str | None:
    """The champion's version, from the artifact that resolve made."""
    version: str | None = json.loads((champion / "champion.json").read_text())["version"]
    return version
