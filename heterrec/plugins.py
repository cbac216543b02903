"""Recipes and baselines of one's own, by name, from a Python file that the user names; none is ever looked for."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from heterrec.changes import recipe
from heterrec.evaluation.baselines import BASELINES, Fit
from heterrec.recipes import RECIPES, TrainConfig

TAKEN = frozenset({*RECIPES, *(f"{name}_full" for name in RECIPES), *BASELINES})


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """What a file names; nothing where there is no file."""

    recipes: Mapping[str, Any] = field(default_factory=dict)
    """Of each name the fields that differ, or a whole `TrainConfig` (`heterrec.changes.recipe`)."""
    baselines: Mapping[str, Fit] = field(default_factory=dict)
    digest: str = ""
    """Of the file, by which a result knows its code."""


def load_plugins(path: Path | None) -> Plugins:
    """Run the Python file `path` and take its `BASELINES` (name to `fit(sequences, queries)`,
    `heterrec.evaluation.baselines.Fit`) and its `RECIPES` (name to fields or `TrainConfig`).

    It runs with all rights of who calls: name files that you trust. Raises `ValueError` naming the file and the entry
    that is missing, of another type, or called like one of the project's own.
    """
    if path is None:
        return Plugins()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{path}: no such Python file; name one that has BASELINES, RECIPES or both")
    text = path.read_bytes()
    module = _run(path, hashlib.sha256(text).hexdigest())
    found = {name: getattr(module, name, {}) for name in ("RECIPES", "BASELINES")}
    for name, entries in found.items():
        if not isinstance(entries, Mapping) or not all(isinstance(each, str) and each for each in entries):
            raise ValueError(f"{path}: {name} is {type(entries).__name__}, expected a dictionary by name")
        if taken := sorted(TAKEN & set(entries)):
            raise ValueError(
                f"{path}: {name}[{taken[0]!r}] is called like one of the project's own; choose another name"
            )
    if shared := sorted(set(found["RECIPES"]) & set(found["BASELINES"])):
        raise ValueError(f"{path}: {shared[0]!r} names a recipe and a baseline; give one of them another name")
    if not any(found.values()):
        raise ValueError(f"{path}: has neither BASELINES nor RECIPES; see docs/notebook.md")
    for name, fit in found["BASELINES"].items():
        if not callable(fit):
            raise ValueError(
                f"{path}: BASELINES[{name!r}] is {type(fit).__name__}, expected a function of (sequences, queries)"
            )
    for name, asked in found["RECIPES"].items():
        if not isinstance(asked, Mapping | TrainConfig):
            raise ValueError(f"{path}: RECIPES[{name!r}] is {type(asked).__name__}, expected fields or a TrainConfig")
        try:
            recipe(asked)
        except ValueError as error:
            raise ValueError(f"{path}: RECIPES[{name!r}]: {error}") from error
    return Plugins(recipes=found["RECIPES"], baselines=found["BASELINES"], digest=hashlib.sha256(text).hexdigest())


def _run(path: Path, digest: str) -> Any:
    """Under a name of its own, so that a file may be called like a module, and is run anew once it has changed."""
    name = f"heterrec_plugin_{digest[:16]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path}: ends with {type(error).__name__}: {error}; run it by itself to see where") from error
    return module
