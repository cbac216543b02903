"""What the rows of `bench-quality` are, by name: baselines, models, ablations, and any cross of settings.

A row `heterrec+taste=0+window=1` is the row `heterrec` with these settings; `crossed` names all rows of a grid.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from heterrec.changes import changed
from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.baselines import popularity
from heterrec.evaluation.metrics import Scores
from heterrec.inference.answers import judged
from heterrec.plugins import Plugins
from heterrec.recipes import TrainConfig, by_name
from heterrec.training.loop import train

Change = Callable[[TrainConfig], TrainConfig]


class Baseline(NamedTuple):
    """What needs no seed and no steps: scores of `queries`, fitted on the training events of the data."""

    title: str
    fit: Callable[[Sequences, Queries], Scores]
    code: str
    """The module whose change makes the row anew."""


class Model(NamedTuple):
    """A recipe of `heterrec.recipes`, changed."""

    title: str
    recipe: str
    change: Change

    def config(self, budget: str, seed: int) -> TrainConfig:
        return self.change(by_name(self.recipe if budget == "fast" else f"{self.recipe}_full", seed=seed))


def _model(**fields: Any) -> Change:
    return lambda config: replace(config, model=replace(config.model, **fields))


def _loss(**fields: Any) -> Change:
    return lambda config: replace(config, loss=replace(config.loss, **fields))


def _same(config: TrainConfig) -> TrainConfig:
    return config


def _its_own(config: TrainConfig) -> TrainConfig:
    """What the search found best for item ID only on Beauty: slower, longer, without taste."""
    changed = replace(config, learning_rate=config.learning_rate / 2, epochs=30, patience=5)
    return _model(taste=False)(changed)


def _tables(data: Sequences, queries: Queries) -> Scores:
    return judged(train(data, by_name("neighbours")).loaded, data, queries)


def _alone(config: TrainConfig) -> TrainConfig:
    """Without a memory."""
    return replace(config, memory=())


def _without(channel: str) -> Change:
    return lambda config: replace(config, memory=tuple(name for name in config.memory if name != channel))


BASELINES = {
    "popularity": Baseline("popularity", lambda data, queries: popularity(data), "heterrec.evaluation.baselines"),
    "neighbours": Baseline("neighbour tables, nothing trained", _tables, "heterrec.training.loop"),
}
"""Made at each call, as all others are compared with them."""
MAIN = {
    "sasrec_plain": Model("SASRec, item ID only", "sasrec", lambda c: _alone(_model(taste=False)(c))),
    "sasrec_own": Model("SASRec, item ID only, tuned for itself", "sasrec", lambda c: _alone(_its_own(c))),
    "sasrec": Model("item ID only, the same memory", "sasrec", _same),
    "hstu": Model("HSTU block, item ID only, the same memory", "hstu", _same),
    "sasrec_features": Model("features summed in, the same memory", "sasrec_features", _same),
    "network": Model("HeterRec without its memory", "heterrec", _alone),
    "heterrec": Model("HeterRec", "heterrec", _same),
}
ABLATIONS = {
    "paper": Model("all parts of the paper", "paper", _same),
    "paper_network": Model("all parts of the paper, no memory", "paper", _alone),
    "no_together": Model("no co-occurrence", "heterrec", _without("together")),
    "no_content": Model("no content neighbours", "heterrec", _without("content")),
    "no_own": Model("no copy of own purchases", "heterrec", _without("own")),
    "token_level": Model(
        "with the token level", "heterrec", lambda c: _loss(token_weight=0.01)(_model(token_layers=1)(c))
    ),
    "two_steps": Model("K = 2", "heterrec", _model(steps=2)),
    "windows": Model("windows of three (L = 3)", "heterrec", _loss(window=3)),
    "no_item_level": Model("no item-level blocks", "heterrec", _model(item_layers=0)),
    "no_taste": Model("no taste", "heterrec", _model(taste=False)),
    "no_newborn": Model("no days without an ID", "heterrec", _loss(newborn_share=0.0)),
    **{f"depth_{n}": Model(f"{n} item-level blocks", "heterrec", _model(item_layers=n)) for n in (1, 4)},
    **{f"width_{n}": Model(f"width {n}", "heterrec", _model(width=n)) for n in (32, 128)},
}
ROWS = MAIN | ABLATIONS


class Axis(NamedTuple):
    """A setting that a grid crosses, and the values it takes where the grid names none."""

    part: str
    field: str
    values: tuple[str, ...]


AXES = {
    "taste": Axis("model", "taste", ("0", "1")),
    "tokens": Axis("model", "token_layers", ("0", "1")),
    "lambda": Axis("loss", "token_weight", ("0", ".1", "1")),
    "window": Axis("loss", "window", ("1", "3")),
    "steps": Axis("model", "steps", ("1", "2")),
    "width": Axis("model", "width", ("32", "64", "128")),
    "depth": Axis("model", "item_layers", ("1", "2", "4")),
}


def of_plugins(plugins: Plugins) -> tuple[dict[str, Baseline], dict[str, Model]]:
    """What a user's file names, as rows; `ValueError` where a name is one of `ROWS` or `BASELINES`."""
    if taken := sorted({*plugins.recipes, *plugins.baselines} & {*ROWS, *BASELINES}):
        raise ValueError(f"{taken[0]!r} is a row of bench-quality; choose another name")
    models = {name: _own(name, asked) for name, asked in plugins.recipes.items()}
    return {name: Baseline(name, fit, "heterrec.evaluation.metrics") for name, fit in plugins.baselines.items()}, models


def _own(name: str, asked: Mapping[str, Any] | TrainConfig) -> Model:
    if isinstance(asked, TrainConfig):  # whole, whatever the budget
        return Model(name, "heterrec", lambda config: replace(asked, seed=config.seed))
    fields = dict(asked)
    return Model(name, fields.pop("base", "heterrec"), lambda config: changed(config, fields))


def named(name: str, own: Mapping[str, Model] | None = None) -> Model:
    """The row called `name`, of `ROWS` or of `own`; `ValueError` says what is unknown of it."""
    rows = {**ROWS, **(own or {})}
    base, *settings = name.split("+")
    if base not in rows:
        raise ValueError(f"row {base!r} is unknown, expected one of {', '.join(rows)}")
    model = rows[base]
    if not settings:
        return model

    def change(config: TrainConfig) -> TrainConfig:
        config = model.change(config)
        for setting in settings:
            config = _set(config, setting)
        return config

    row = Model(f"{model.title}, {', '.join(settings)}", model.recipe, change)
    row.config("fast", 0)  # what is out of range is told now, not after hours
    return row


def crossed(bases: Sequence[str], grid: str) -> list[str]:
    """Names of all rows of a grid, such as `taste,tokens,lambda=0/.1/1`, over each of `bases`.

    Of several cells that are one model (without a token level its loss weighs nothing) the first is taken.
    """
    axes = []
    for part in grid.split(","):
        axis, _, values = part.partition("=")
        if axis not in AXES:
            raise ValueError(f"grid: axis {axis!r} is unknown, expected some of {', '.join(AXES)}")
        axes.append([f"{axis}={value}" for value in (values.split("/") if values else AXES[axis].values)])
    cells: dict[str, str] = {}
    for base in bases:
        for settings in product(*axes):
            name = "+".join((base, *settings))
            cells.setdefault(_what_counts(named(name).config("fast", 0)), name)
    return list(cells.values())


def _set(config: TrainConfig, setting: str) -> TrainConfig:
    axis, _, value = setting.partition("=")
    if axis not in AXES:
        raise ValueError(f"row: setting {setting!r} is unknown, expected AXIS=VALUE of {', '.join(AXES)}")
    part, field, _ = AXES[axis]
    before = getattr(config, part)
    kind = type(getattr(before, field))
    try:
        number = float(value)
        if kind(number) != number:
            raise ValueError
    except ValueError:
        raise ValueError(f"row: {setting!r} has no {kind.__name__} for {axis}") from None
    return replace(config, **{part: replace(before, **{field: kind(number)})})


def _what_counts(config: TrainConfig) -> str:
    """The recipe without what has no effect in it."""
    if not config.model.features or config.model.tokens == "sum":
        config = _model(token_layers=0)(config)
    if not config.model.token_layers:
        config = _loss(token_weight=0.0)(config)
    return json.dumps(json.loads(config.to_json()), sort_keys=True)
