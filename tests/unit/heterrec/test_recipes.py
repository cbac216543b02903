"""A recipe is a parameter that people edit by hand: what is no recipe is refused with the name of its field."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from heterrec.recipes import RECIPES, TrainConfig, by_name


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain field with its value, by path."""
    for each in fields(config):
        value = getattr(config, each.name)
        inner = (*path, each.name)
        yield from leaves(value, inner) if is_dataclass(value) else [(inner, value)]


LEAVES = list(leaves(TrainConfig()))


def edited(path: tuple[str, ...], value: Any) -> str:
    raw = json.loads(TrainConfig().to_json())
    inner = raw
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(raw)


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=".".join)
def test_a_value_of_another_type_is_refused_with_its_field_in_every_field(path: tuple[str, ...]) -> None:
    default = dict(LEAVES)[path]
    wrong: list[Any] = [[1] if isinstance(default, tuple) else [], {}, math.nan, math.inf, -math.inf]
    wrong += [] if default is None else [None]
    wrong += ["false"] if not isinstance(default, str) else [1, True]
    wrong += [0, 1.5, "true"] if isinstance(default, bool) else [True, False]
    wrong += [1.5] if isinstance(default, int) or default is None else []
    for value in wrong:
        with pytest.raises(ValueError, match=rf"config\.{'.'.join(path)}: found "):
            TrainConfig.from_json(edited(path, value))


def test_what_is_right_is_read_as_it_was_written() -> None:
    for name in [*RECIPES, *(f"{name}_full" for name in RECIPES)]:
        assert TrainConfig.from_json(by_name(name, seed=4).to_json()) == by_name(name, seed=4)
    assert TrainConfig.from_json("{}") == TrainConfig()
    assert TrainConfig.from_json('{"learning_rate": 1, "loss": {"candidates": 5}}').learning_rate == 1


@pytest.mark.parametrize("path", [path for path, value in LEAVES if type(value) is float], ids=".".join)
def test_a_number_is_one_recipe_however_it_is_written(path: tuple[str, ...]) -> None:
    """Equal settings have one text, of which a recipe's identity is made: else `clip: 1` were a candidate against 1.0,
    with an A/B test to win against itself."""
    for number in (0, 1, 2):
        assert told(edited(path, number)) == told(edited(path, float(number)))


def test_tables_are_one_recipe_in_whatever_order_they_are_named() -> None:
    texts = {told(edited(("memory",), list(names))) for names in itertools.permutations(["own", "together", "own"])}
    assert len(texts) == 1 and TrainConfig.from_json(texts.pop()).memory == ("together", "own")


def told(text: str) -> str:
    """The recipe as it is written down; of what is none, why."""
    try:
        return TrainConfig.from_json(text).to_json()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config: not JSON"),
        ("[]", r"config: found \[\], expected fields"),
        ('{"learning_rat": 1}', r"config\.learning_rat: no such field"),
        ('{"model": {"depth": 1}}', r"config\.model\.depth: no such field"),
        ('{"model": 3}', r"config\.model: found 3, expected fields"),
        ('{"model": {"block": "mamba"}}', "block='mamba' is unknown"),
    ],
)
def test_what_is_no_recipe_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_json(text)
