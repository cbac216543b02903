"""What the shop sells: features that everyone sees, identity that no one does, prices and popularity in time.

Each attribute is drawn from a stream of its own, item after item, so a longer-lived shop has the same
first items; prices and popularity are closed forms of the day, so that no day has to be simulated to know another.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketplace.config import MarketplaceConfig

Floats = NDArray[np.float64]
Integers = NDArray[np.signedinteger[Any]]

LATENT = 8
WORDS_PER_TITLE = 2


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "amber antique arctic bamboo blue brass bright ceramic classic cobalt copper coral cosy cotton crimson dotted "
    "emerald enamel floral folding frosted garden glass golden graphite green ivory jade linen lunar marble matte "
    "midnight mini nordic oak olive pastel plain retro rustic scarlet silver slate striped velvet walnut woven"
)
NOUNS = _words(
    "kettle lamp cushion mug vase clock rug basket candle frame tray bowl blanket mirror planter hook stool teapot "
    "napkin apron doormat lantern jug towel curtain bin jar cup plate"
)
MAKERS_FIRST = _words("Al Bran Cor Del El Fen Gar Hol Is Jun")
MAKERS_LAST = _words("der by ton mark wick sund vale more")


@dataclass(frozen=True, kw_only=True)
class MarketplaceCatalogue:
    """All items that are ever launched (N of them), in the order of their launch."""

    launch: Integers
    """(N,) day of launch; the first items have day 0."""
    category: Integers
    brand: Integers
    words: Integers
    """(N, 2) adjectives of the title."""
    style: Floats
    """(N, S) unit vectors, as an image encoder would give."""
    tier: Floats
    """(N,) log price relative to the category's: cheap below 0, dear above."""
    quality: Floats
    identity: Floats
    """(N, 8) latent; independent of every feature."""
    usual_price: Floats
    """(N,) before drift."""
    repricing: Integers
    """(N, 2) period in days, offset."""
    trend: Floats
    """(N,) drift of the log price a day."""
    swing: Floats
    """(N, 2) period in days, phase of popularity."""
    seed: int

    def __len__(self) -> int:
        return len(self.launch)

    def log_discount(self, day: int) -> Floats:
        """(N,) log of the price of `day` relative to the usual one: constant between an item's repricings."""
        period, offset = self.repricing.T
        epoch = (day + offset) // period
        since_start = epoch * period - offset
        discount: Floats = self.trend * since_start + 0.15 * _hashed_normal(self.seed, np.arange(len(self)), epoch)
        return discount

    def price(self, day: int) -> Floats:
        """(N,) prices of `day`, in whole cents."""
        return np.maximum(np.round(self.usual_price * np.exp(self.log_discount(day)), 2), 0.01)

    def popularity(self, day: int) -> Floats:
        """(N,) the swing of popularity on `day`, from -1 to 1."""
        return np.sin(2 * np.pi * day / self.swing[:, 0] + self.swing[:, 1])

    def on_sale(self, day: int) -> int:
        """How many items are launched by `day`; they are the first so many of the catalogue."""
        return int(np.searchsorted(self.launch, day, side="right"))

    def titles(self, rows: Integers) -> list[str]:
        """What stands on the label, e.g. "Nordic walnut kettle"."""
        adjectives = np.array(ADJECTIVES)[self.words[rows]]
        nouns = np.array([_noun(category) for category in range(int(self.category.max()) + 1)])[self.category[rows]]
        return [
            f"{a} {b} {noun}".capitalize() for (a, b), noun in zip(adjectives.tolist(), nouns.tolist(), strict=True)
        ]


def draw_catalogue(config: MarketplaceConfig) -> MarketplaceCatalogue:
    """All items of the shop's life."""
    count = config.total_items
    stream = (np.random.default_rng([config.seed, 1, index]) for index in range(100))
    category = next(stream).integers(config.categories, size=count)
    category[: config.categories] = np.arange(config.categories)
    brand = (config.brands * next(stream).power(1.6, size=count)).astype(np.int64)
    style = next(stream).normal(size=(count, config.style_dimension))
    tier = 0.5 * next(stream).normal(size=count)
    level = next(stream).normal(3.0, 0.7, size=config.categories)
    repricing = next(stream)
    period = repricing.integers(5, 21, size=(count, 2))
    swing = next(stream).random((count, 2))
    return MarketplaceCatalogue(
        launch=np.concatenate(
            [np.zeros(config.items, np.int64), np.repeat(np.arange(config.days), config.new_items_per_day)]
        ),
        category=category,
        brand=brand,
        words=_distinct_words(next(stream), count),
        style=style / np.linalg.norm(style, axis=1, keepdims=True),
        tier=tier,
        quality=next(stream).normal(size=count),
        identity=next(stream).normal(size=(count, LATENT)) / np.sqrt(np.sqrt(LATENT)),
        usual_price=np.exp(level[category] + tier),
        repricing=np.stack([period[:, 0], period[:, 1] % period[:, 0]], axis=1),
        trend=next(stream).normal(0.0005, 0.001, size=count),
        swing=np.stack([20 + 60 * swing[:, 0], 2 * np.pi * swing[:, 1]], axis=1),
        seed=config.seed,
    )


def brand_names(count: int) -> list[str]:
    """Names such as "Fenton"; numbered after the first 80."""
    names = [first + last for last in MAKERS_LAST for first in MAKERS_FIRST]
    return [names[i] if i < len(names) else f"{names[i % len(names)]} {i // len(names) + 1}" for i in range(count)]


def category_names(count: int) -> list[str]:
    return [f"{_noun(i)}s" if i < len(NOUNS) else f"{_noun(i)} range" for i in range(count)]


def _noun(category: int) -> str:
    noun = NOUNS[category % len(NOUNS)]
    return noun if category < len(NOUNS) else f"{noun} no{category // len(NOUNS) + 1}"


def _distinct_words(rng: np.random.Generator, count: int) -> Integers:
    """(count, 2) two different adjectives each."""
    draws = rng.integers([len(ADJECTIVES), len(ADJECTIVES) - 1], size=(count, WORDS_PER_TITLE))
    draws[:, 1] += draws[:, 1] >= draws[:, 0]
    return draws


def _hashed_normal(seed: int, *keys: Any) -> Floats:
    """Standard normal numbers that are a function of their keys (splitmix64, then Box-Muller)."""
    state = np.full(1, seed, np.uint64)
    for key in keys:
        state = _splitmix(state * np.uint64(0x9E3779B97F4A7C15) + np.asarray(key).astype(np.uint64))
    halves = np.stack([state & np.uint64(0xFFFFFFFF), state >> np.uint64(32)])
    radius, angle = (halves.astype(np.float64) + 0.5) / 2**32
    normal: Floats = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return normal


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
