"""A recipe as data: whatever can be changed is checked like a run's parameter, and nothing is without effect."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from heterrec.changes import (
    DERIVED,
    changed,
    parameter,
    recipe,
    setting,
)
from heterrec.recipes import (
    RECIPES,
    TrainConfig,
    by_name,
    sized,
    warm,
)
from tests.unit.heterrec.test_recipes import LEAVES

OTHER: dict[str, Any] = {"model.block": "hstu", "model.tokens": "sum", "model.token_causality": "block"}


def another(name: str, value: Any) -> Any:
    """An allowed value that is not the field's own."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHER[name]
    if isinstance(value, tuple):
        return list(value)[:1]
    if isinstance(value, float):
        return value / 2 or 0.25
    return 2 if value is None else value * 2 or 1


def plain(config: TrainConfig) -> Any:
    return json.loads(json.dumps(asdict(config)))


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=".".join)
def test_every_field_can_be_changed_and_nothing_else_changes(path: tuple[str, ...]) -> None:
    base = recipe({"base": "paper", "sized": False})
    value = base
    for name in path:
        value = getattr(value, name)
    new = another(".".join(path), value)
    expected = plain(base)
    inner = expected
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = new
    nested: Any = new
    for name in reversed(path):
        nested = {name: nested}
    word = new if isinstance(new, str) else json.dumps(new)
    for fields in (nested, {".".join(path): new}, setting(f"{'.'.join(path)}={word}")):
        assert plain(changed(base, fields)) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_without_changes_is_its_base(name: str) -> None:
    for budget in ("fast", "full"):
        assert recipe({"base": name}, budget=budget, seed=3) == recipe(name, budget=budget, seed=3)
    assert recipe(name) == by_name(name) and recipe(f"{name}_full") == by_name(f"{name}_full")
    assert recipe(by_name(name)) == by_name(name)


@pytest.mark.parametrize("name", DERIVED)
def test_what_the_data_would_overwrite_is_refused_while_it_would(name: str) -> None:
    """Each of them is overwritten by `sized` indeed, and holds where `sized` is off."""
    with pytest.raises(ValueError, match=rf"recipe\.{name}: is derived from the data while `sized` is true"):
        recipe({name: 1024 if name == "batch_events" else 0.3})
    asked = recipe({name: 1024 if name == "batch_events" else 0.3, "sized": False})
    assert sized(asked, items=100, events=9000) == asked
    assert recipe({"base": "neighbours", name: 1024 if name == "batch_events" else 0.3})


@pytest.mark.parametrize("name", DERIVED)
def test_a_runs_parameter_that_the_data_would_overwrite_is_refused_too(name: str) -> None:
    """A whole recipe, as people edit it in Kubeflow's form."""
    asked = recipe({name: 1024 if name == "batch_events" else 0.3, "sized": False})
    assert parameter(asked.to_json()) == asked
    with pytest.raises(ValueError, match=rf"recipe\.{name}: is derived from the data while `sized` is true"):
        parameter(json.dumps({**json.loads(asked.to_json()), "sized": True}))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_runs_parameter(name: str) -> None:
    for each in (name, f"{name}_full"):
        assert parameter(by_name(each).to_json()) == by_name(each)
        assert parameter(warm(by_name(each)).to_json()) == warm(by_name(each))


def test_nothing_else_is_overwritten_by_the_data() -> None:
    whole, found = recipe("heterrec"), sized(recipe("heterrec"), items=5000, events=90_000)
    moved = {".".join(path) for path, _ in LEAVES if _at(whole, path) != _at(found, path)}
    assert moved <= {*DERIVED, "sized", "loss.candidates"}  # candidates hold where the recipe names a number


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, r"config\.depth: no such field"),
        ({"model": {"depth": 3}}, r"config\.model\.depth: no such field"),
        ({"model": 3}, r"recipe\.model: found 3, expected fields"),
        ({"epochs": {"most": 3}}, r"config\.epochs: found \{'most': 3\}, expected int"),
        ({"epochs": "3"}, r"config\.epochs: found '3', expected int"),
        ({"model.width": 63}, "width=63 must be divisible by heads=2"),
        ({"base": "heterrek"}, "recipe 'heterrek' is unknown"),
        ({"base": 3}, "base: found 3, expected the name of a recipe"),
        ({3: 4}, "recipe: found the field 3"),
        ({"model": {"width": 32}, "model.width": 64}, r"recipe\.model\.width: is given twice"),
        ({"epochs": 3, "epochs.most": 4}, r"recipe\.epochs\.most: 'epochs' has been given a value of its own"),
    ],
)
def test_what_is_no_recipe_is_told_by_its_field(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(fields)


@pytest.mark.parametrize("text", ["model.width", "=3", " =3", ""])
def test_a_setting_without_name_or_value_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME=VALUE"):
        setting(text)
