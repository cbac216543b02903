"""A recipe by its name, or from a file that says what differs from one; `--set` changes single fields of either."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runtime.errors import InputError

if TYPE_CHECKING:
    from heterrec.plugins import Plugins
    from heterrec.recipes import TrainConfig

RECIPE = "a recipe of heterrec/recipes.py, or a YAML, TOML or JSON file of what differs from one"
SETTING = "a field of the recipe, e.g. model.width=128; may be repeated"
SUFFIXES = (".yaml", ".yml", ".toml", ".json")


def recipe_of(
    name: str, *, budget: str, seed: int, settings: Sequence[str] = (), plugins: "Plugins | None" = None
) -> "TrainConfig":
    """The recipe `name` (one of the project's, of `plugins`, or a file) with `settings`, NAME=VALUE each.

    `InputError` names the file or field, what was found and what was expected.
    """
    from heterrec.changes import changed, recipe, setting

    path = Path(name) if name.endswith(SUFFIXES) else None
    try:
        asked: Any = read(path) if path else (plugins.recipes if plugins else {}).get(name, name)
        found = recipe(asked, budget=budget, seed=seed)
    except ValueError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from error
    try:
        fields: dict[str, Any] = {}
        for each in settings:
            fields |= setting(each)
        return changed(found, fields) if fields else found
    except ValueError as error:
        raise InputError(f"--set: {error}") from error


def title_of(name: str) -> str:
    """What a recipe is called in a table: a file by its name without folder and suffix."""
    return Path(name).stem if name.endswith(SUFFIXES) else name


def read(path: Path) -> dict[str, Any]:
    """The fields of a recipe's file; `ValueError` where it cannot be read or holds no fields."""
    if not path.is_file():
        raise ValueError("no such file")
    text = path.read_text()
    try:
        raw = _parsed(path.suffix, text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"holds {type(raw).__name__}, expected fields such as base: heterrec")
    return raw


def _parsed(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text) if suffix == ".json" else yaml.safe_load(text)
