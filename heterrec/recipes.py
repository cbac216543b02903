"""What a run trains and how: frozen settings, their JSON, and the recipes that give them.

A recipe's sizes hold for every data set; whatever depends on the data (vocabularies, buckets, the number of
steps) is derived from it in training.
"""

import json
import math
from dataclasses import (
    asdict,
    dataclass,
    field,
    is_dataclass,
    replace,
)
from typing import (
    Any,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

from heterrec import cost
from heterrec.memory.neighbours import CHANNELS

Tokens = Literal["flatten", "sum"]
Block = Literal["softmax", "hstu"]
Causality = Literal["plain", "block"]
FEATURE_SHARE = 0.6
"""Feature tokens that are null in training, against dropout."""
MOST_SECONDS, SAMPLED = 900.0, 4096
"""What it may cost, in processor time, that all items are candidates at each step of a run, and how many are drawn
where that would cost more."""
LEAST_STEPS = 1500
"""Steps below which a model is not done learning, whatever its batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the network. `features` False keeps the item ID alone (F = 1, which is SASRec)."""

    width: int = 64
    heads: int = 2
    expansion: int = 2
    token_layers: int = 1
    item_layers: int = 2
    block: Block = "softmax"
    """Attention of the item-level blocks; `hstu` is a peer of the benchmark."""
    max_history: int = 50
    features: bool = True
    tokens: Tokens = "flatten"
    """`sum` adds an item's features up to one token: the ablation without HTFL."""
    token_causality: Causality = "plain"
    """`plain` keeps the fast path of attention; with `block` the tokens of one item see each other [I]."""
    taste: bool = True
    """The mean of the latest items' channel stands beside the state (ours)."""
    steps: int = 2
    """K heads."""
    gate: float = 0.1
    """Where the gates of the features beside the item ID start, in what a history is made of."""
    temperature: float = 0.1
    """Of the mean of the channels' cosines."""
    dropout: float = 0.1
    id_dropout: float = 0.05
    """Share of ID tokens replaced by the null token in training: how new items learn to be ranked."""
    feature_dropout: float = 0.1
    min_events: int = 2
    """Training events from which an item has an ID token of its own."""

    def __post_init__(self) -> None:
        _positive(self, "width", "heads", "expansion", "max_history", "steps", "temperature")
        _require_shares(self, "dropout", "id_dropout", "feature_dropout")
        _one_of(self, block=Block, tokens=Tokens, token_causality=Causality)
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be divisible by heads={self.heads}")
        for name in ("token_layers", "item_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """LMP at both levels: `LMP_item + token_weight * mean_f LMP_f`."""

    window: int = 3
    """L consecutive states in a list."""
    step_decay: float = 0.25
    """Weight of a step against the one before it; 1 weighs all alike, as the figure does."""
    later_share: float = 0.25
    """Share of the positions that bear the loss of the steps after the first at a step of training."""
    candidates: int | None = None
    """Negatives drawn with logQ correction; None takes the whole catalogue (up to about 100,000 items)."""
    token_weight: float = 0.01
    """Lambda [I]. Where features tell nothing, 0.1 already keeps the states collapsed on what is popular."""
    token_steps: int = 1
    token_temperature: float = 0.1
    token_candidates: int = 256
    """Items drawn as candidates of the token-level loss of item ID, text and embedding."""
    token_share: float = 0.2
    """Share of the positions that bear the token-level loss at a step of training."""
    newborn_days: float = 7.0
    """How long an item that came later stands without its ID after its first day, where it is drawn to."""
    newborn_share: float = 0.6
    """Share of the items that came later which are drawn to at a step of training."""
    only_available: bool = True
    """Items that were not yet to be had at the time of a choice are no negatives of it."""

    def __post_init__(self) -> None:
        _positive(self, "window", "token_temperature", "token_candidates", "token_share", "token_steps")
        _positive(self, "step_decay", "later_share", "newborn_days")
        _require_shares(self, "newborn_share")
        if self.token_weight < 0:
            raise ValueError(f"token_weight={self.token_weight} must not be negative")
        if self.candidates is not None and self.candidates < 1:
            raise ValueError(f"candidates={self.candidates} must be positive, or None for the whole catalogue")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    network: bool = True
    """False leaves the neighbour tables alone: nothing is trained."""
    memory: tuple[str, ...] = CHANNELS
    """Neighbour tables beside the network, by channel, and a gate that says how far to trust either; none without."""
    sized: bool = False
    """Derive from the data what depends on it; see `sized`."""
    seed: int = 0
    epochs: int = 20
    least_steps: int = 0
    """Steps of training that small data gets at least, by more epochs."""
    patience: int = 5
    """Epochs without a better validation NDCG@10 after which training stops."""
    epoch_events: int | None = None
    """Events of one epoch at most; longer data is drawn from, anew each epoch."""
    batch_events: int = 512
    """Padded positions of a batch."""
    learning_rate: float = 2e-3
    warmup: float = 0.05
    """Share of all steps in which the learning rate rises; afterwards it falls as a cosine."""
    weight_decay: float = 0.01
    feature_weight_decay: float = 0.1
    clip: float = 1.0
    average: float = 0.1
    """How far back the mean of the weights reaches that is validated and kept, as a share of the steps so far."""
    validation_queries: int = 10_000
    refit: bool = True
    """After the blessing the network goes on over the held-out days too (`heterrec/training/refit.py`), and that
    serves: what was judged is as old as the windows are long. Off, the judged weights serve: where they must be the
    very same, as in a comparison of two ways to train, or where a quarter more of training is too dear for what the
    days bring."""
    warm_start: bool = False
    """Begin with the champion's weights, where there is one: for scheduled retraining."""
    shuffle_targets: bool = False
    """Train towards another item in place of each target (a fixed permutation): a model that is bad by
    construction, to prove that the gate blocks it."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "patience", "batch_events", "learning_rate", "clip", "validation_queries")
        _require_shares(self, "warmup", "average")
        if not (self.network or self.memory):
            raise ValueError("network and memory are both off: there is nothing to recommend by")
        if unknown := sorted(set(self.memory) - set(CHANNELS)):
            raise ValueError(f"memory={unknown[0]!r} is unknown, expected some of {CHANNELS}")
        # A set, in one order: a recipe's identity is its text.
        object.__setattr__(self, "memory", tuple(name for name in CHANNELS if name in self.memory))
        if self.epoch_events is not None and self.epoch_events < 1:
            raise ValueError(f"epoch_events={self.epoch_events} must be positive, or None for all")
        if self.loss.token_steps > self.model.steps:
            raise ValueError(f"token_steps={self.loss.token_steps} must not exceed steps={self.model.steps}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Read `to_json`'s text; `ValueError` names a field that is unknown, of another type or out of range.

        A recipe is a run's parameter, which people edit by hand.
        """
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"config: not JSON ({error}); compare heterrec/recipes.py") from error
        config: TrainConfig = _typed(cls, raw, "config")
        return config


def sized(config: TrainConfig, *, items: int, events: int, catalogue: int | None = None) -> TrainConfig:
    """The recipe with its sizes for `items` that `events` are learned from, in a catalogue that may hold more.

    Dropout: much where an item is seldom seen, as what is learned of it is then mostly chance (.5 at 11 events an
    item, .1 at 300). Temperature: likewise, as what is seldom seen should not be told apart too surely (.1 up to 13
    events an item, .05 from 52 on). A batch: as the item side is computed once a step, the more items, the more
    events share it, but there are `LEAST_STEPS` in any budget. Candidates: the whole catalogue as long as that costs
    no more than `MOST_SECONDS`, then so many that the cost of a step no longer grows.
    """
    if not config.sized:
        return config
    rarity = (items / events) ** 0.5
    dropout = min(0.5, max(0.1, 1.7 * rarity))
    model = replace(
        config.model,
        dropout=round(dropout, 2),
        feature_dropout=round(FEATURE_SHARE * dropout, 2),
        temperature=round(min(0.1, max(0.05, 0.36 * rarity)), 3),
    )
    learned = config.epochs * min(events, config.epoch_events or events)
    batch = 2 ** round(math.log2(min(4096, max(512, items / 12), max(256, learned / LEAST_STEPS))))
    dear = cost.of_catalogue(learned=learned, batch=batch, catalogue=catalogue or items) > MOST_SECONDS
    loss = replace(config.loss, candidates=config.loss.candidates or (SAMPLED if dear else None))
    return replace(config, sized=False, model=model, loss=loss, batch_events=batch)


def heterrec(*, seed: int = 0) -> TrainConfig:
    """HeterRec beside a memory.

    Off are those parts of the paper that showed no gain where they were tried: the token-level blocks and their loss,
    steps after the first, and lists of more than one position (benchmarks/NOTES.md; `paper` has them all).
    """
    model = ModelConfig(token_layers=0, steps=1)
    return TrainConfig(
        seed=seed,
        sized=True,
        model=model,
        loss=LossConfig(window=1, token_weight=0.0),
        epochs=12,
        patience=12,
        least_steps=LEAST_STEPS,
    )


def paper(*, seed: int = 0) -> TrainConfig:
    """HeterRec with all parts that the paper names, and the memory."""
    whole = heterrec(seed=seed)
    return replace(whole, model=ModelConfig(), loss=LossConfig())


def sasrec(*, seed: int = 0) -> TrainConfig:
    """Item ID only, the same loss at item level and the same training: F = 1 of the same code, taste included.

    With `taste` False it is SASRec as published (Kang & McAuley, 2018) but for the loss.
    """
    whole = heterrec(seed=seed)
    return replace(
        whole,
        model=replace(whole.model, features=False, token_layers=0),
        loss=replace(whole.loss, token_weight=0.0),
    )


def sasrec_features(*, seed: int = 0) -> TrainConfig:
    """SASRec whose item embedding has the features summed in: no HTFL, no token level."""
    whole = heterrec(seed=seed)
    return replace(
        whole, model=replace(whole.model, tokens="sum", token_layers=0), loss=replace(whole.loss, token_weight=0.0)
    )


def hstu(*, seed: int = 0) -> TrainConfig:
    """SASRec with HSTU's block in place of softmax attention: the strong ID-only peer."""
    plain = sasrec(seed=seed)
    return replace(plain, model=replace(plain.model, block="hstu"))


def neighbours(*, seed: int = 0) -> TrainConfig:
    """The neighbour tables alone, fitted in seconds: what every model must beat, and a release where none does."""
    return TrainConfig(seed=seed, network=False)


def fast(config: TrainConfig) -> TrainConfig:
    """The same model on the budget of the pipeline's default run: minutes on two cores."""
    return replace(config, epochs=8, least_steps=0, patience=8, epoch_events=250_000, validation_queries=5000)


RECIPES = {
    "heterrec": heterrec,
    "paper": paper,
    "sasrec": sasrec,
    "sasrec_features": sasrec_features,
    "hstu": hstu,
    "neighbours": neighbours,
}


def by_name(name: str, *, seed: int = 0) -> TrainConfig:
    """The recipe called `name` on the fast budget, or with `_full` behind its name on the whole one."""
    recipe = RECIPES.get(name.removesuffix("_full"))
    if recipe is None:
        raise ValueError(f"recipe {name!r} is unknown, expected one of {sorted(RECIPES)}, each also with _full")
    config = recipe(seed=seed)
    return config if name.endswith("_full") else fast(config)


def warm(config: TrainConfig) -> TrainConfig:
    """The same recipe from the champion on: a third of the learning rate and half of the epochs."""
    epochs = max(1, config.epochs // 2)
    return replace(config, warm_start=True, epochs=epochs, learning_rate=config.learning_rate / 3)


def _typed(kind: Any, raw: Any, path: str) -> Any:
    """`kind` (a dataclass of plain values and of other such) with the values of `raw`, each of its field's type."""
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: found {raw!r}, expected fields; compare heterrec/recipes.py")
    wanted = get_type_hints(kind)
    values = {}
    for name, value in raw.items():
        if name not in wanted:
            raise ValueError(f"{path}.{name}: no such field; compare heterrec/recipes.py")
        allowed = get_args(wanted[name]) or (wanted[name],)
        if is_dataclass(wanted[name]):
            value = _typed(wanted[name], value, f"{path}.{name}")
        elif get_origin(wanted[name]) is tuple:  # of words
            allowed = (list,)
            if isinstance(value, list) and all(type(each) is str for each in value):
                value, allowed = tuple(value), (tuple,)
            elif isinstance(value, list):
                allowed = (str,)
        elif isinstance(allowed[0], str):
            allowed = (str,)  # one of some words, which its own check names
        number = type(value) is int and float in allowed
        if (type(value) not in allowed and not number) or (isinstance(value, float) and not math.isfinite(value)):
            names = " or ".join("nothing (null)" if each is type(None) else each.__name__ for each in allowed)
            raise ValueError(f"{path}.{name}: found {value!r}, expected {names}; compare heterrec/recipes.py")
        values[name] = float(value) if number else value  # 1 and 1.0 are one recipe, whose identity is its text
    return kind(**values)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)} must be positive")


def _require_shares(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be in [0, 1)")


def _one_of(config: Any, **choices: Any) -> None:
    for name, choice in choices.items():
        if getattr(config, name) not in get_args(choice):
            raise ValueError(f"{name}={getattr(config, name)!r} is unknown, expected one of {get_args(choice)}")
