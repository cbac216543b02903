"""Recipes as data: a recipe and what differs from it, by field.

`{"base": "heterrec", "model": {"width": 128}, "learning_rate": 0.001}` is a whole recipe, and so is a name. Values are
checked as those of a run's parameter are.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from heterrec.recipes import TrainConfig, by_name

BASE = "base"
DERIVED = ("model.dropout", "model.feature_dropout", "model.temperature", "batch_events")
"""What `sized` derives from the data, whatever a recipe says."""


def recipe(asked: "str | Mapping[str, Any] | TrainConfig", *, budget: str = "fast", seed: int = 0) -> TrainConfig:
    """A recipe by its name, or by `base` (a name, by default heterrec) and the fields that differ; a config as it is.

    `ValueError` names the field that is unknown, of another type or without effect.
    """
    if isinstance(asked, TrainConfig):
        return asked
    if budget not in ("fast", "full"):
        raise ValueError(f"budget: found {budget!r}, expected 'fast' (minutes on two cores) or 'full'")
    if isinstance(asked, str):
        return by_name(asked if budget == "fast" else f"{asked.removesuffix('_full')}_full", seed=seed)
    fields = dict(asked)
    base = fields.pop(BASE, "heterrec")
    if not isinstance(base, str):
        raise ValueError(f"{BASE}: found {base!r}, expected the name of a recipe")
    return changed(recipe(base, budget=budget, seed=seed), fields)


def changed(config: TrainConfig, fields: Mapping[str, Any]) -> TrainConfig:
    """The recipe with these fields changed, nested (`{"model": {"width": 128}}`) or dotted (`{"model.width": 128}`)."""
    nested = _nested(fields)
    found = TrainConfig.from_json(json.dumps(_merged(json.loads(json.dumps(asdict(config))), nested, "recipe")))
    _refuse_idle(found, [name for name in DERIVED if _has(nested, name)])
    return found


def parameter(text: str) -> TrainConfig:
    """The recipe that a run's parameter holds, whole, as `to_json` writes it and people edit it.

    `ValueError` as of `recipe`: a number that the data overwrites would change nothing but the recipe's identity.
    """
    found, plain = TrainConfig.from_json(text), TrainConfig()
    _refuse_idle(found, [name for name in DERIVED if _at(found, name) != _at(plain, name)])
    return found


def _refuse_idle(config: TrainConfig, idle: list[str]) -> None:
    if config.sized and idle:
        raise ValueError(
            f"recipe.{idle[0]}: is derived from the data while `sized` is true, and would have no effect; say "
            "sized: false as well (then all of " + ", ".join(DERIVED) + " are as the recipe says), or leave it out"
        )


def _at(config: TrainConfig, dotted: str) -> Any:
    inner: Any = config
    for name in dotted.split("."):
        inner = getattr(inner, name)
    return inner


def setting(text: str) -> dict[str, Any]:
    """`model.width=128` as fields. A value is JSON (a number, true, null, a list), and any other text is a word."""
    name, found, value = text.partition("=")
    if not found or not name.strip():
        raise ValueError(f"{text!r}: expected NAME=VALUE, e.g. model.width=128")
    try:
        return {name.strip(): json.loads(value)}
    except json.JSONDecodeError:
        return {name.strip(): value.strip()}


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(name, str):
            raise ValueError(f"recipe: found the field {name!r}, expected names; compare heterrec/recipes.py")
        *groups, last = name.split(".")
        inner = out
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ValueError(f"recipe.{name}: {group!r} has been given a value of its own; say one or the other")
        value = _nested(value) if isinstance(value, Mapping) else value
        if isinstance(value, dict) and isinstance(inner.get(last), dict):
            value = {**inner[last], **value}
        elif last in inner:
            raise ValueError(f"recipe.{name}: is given twice; say it once")
        inner[last] = value
    return out


def _merged(whole: dict[str, Any], fields: Mapping[str, Any], path: str) -> dict[str, Any]:
    out = dict(whole)
    for name, value in fields.items():
        inside = out.get(name)
        if isinstance(inside, dict) and isinstance(value, dict):
            value = _merged(inside, value, f"{path}.{name}")
        elif isinstance(inside, dict):
            raise ValueError(f"{path}.{name}: found {value!r}, expected fields; compare heterrec/recipes.py")
        out[name] = value
    return out


def _has(fields: Mapping[str, Any], dotted: str) -> bool:
    inner: Any = fields
    for name in dotted.split("."):
        if not isinstance(inner, Mapping) or name not in inner:
            return False
        inner = inner[name]
    return True
