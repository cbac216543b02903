"""Size, seed and taste of the embedded shop."""

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Tastes:
    """Weights of the law of choice (`marketplace.choice_model`); 0 takes a term out of it."""

    transition: float = 1.0
    """From the category of the last purchase to its complementary categories."""
    leaning: float = 0.7
    """A shopper's own, fixed leaning to each category."""
    quality: float = 0.8
    """Latent quality of an item: identity, not to be read off any feature."""
    swing: float = 0.4
    """Popularity that rises and falls over weeks."""
    novelty: float = 1.2
    """Appeal of an item on its first day; fades with `novelty_days`."""
    novelty_days: float = 10.0
    affinity: float = 0.6
    """Latent affinity of a shopper to an item: identity times identity."""
    follow: float = 1.0
    """Latent pull from the last item to those that go with it: item-to-item identity."""
    brand: float = 5.0
    """Loyalty: share of the recent purchases that were of the item's brand."""
    style: float = 7.0
    """Closeness of the item's style embedding to that of the recent purchases."""
    words: float = 5.0
    """Title words in common with the recent purchases."""
    tier: float = 0.8
    """Distance of the item's price tier from that of the recent purchases."""
    price: float = 4.0
    """Response to today's price against the usual one, times the shopper's own sensitivity."""
    memory: int = 6
    """Purchases that count as recent."""
    fade: float = 0.75
    """Weight of a purchase against the one after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketplaceConfig:
    """A shop. The same seed gives the same shop and the same events; more `days` only adds to the end of them.

    Work grows with events x items per category: raise `categories` with `items` to keep a large shop linear.
    """

    days: int = 60
    users: int = 3_000
    items: int = 1_500
    """Items on the first day."""
    new_items_per_day: int = 10
    seed: int = 0
    order: float = 0.0
    """Weight of the order of features across purchases (`marketplace.choice_model`); without it the law has no such
    term."""
    kinds: bool = False
    """Whether shoppers also look at things, fill a cart and wave away (`marketplace.browsing`), told by a column
    `event_type`; the purchases are the same."""
    groups: float = 0.0
    """Weight of the tastes of the shopper's group (`marketplace.choice_model`), told by a table of users; 0:
    neither."""
    strangers: bool = False
    """Let the table of users tell of each shopper the group of another one: it says nothing of the choices."""
    devices: float = 0.0
    """Weight of what is bought by which device (`marketplace.choice_model`), told by a column `device`; 0: neither."""
    strange_devices: bool = False
    """Let that column tell a device drawn anew: it says nothing of the choices."""
    placebo: bool = False
    """Show each item with the features of another one: the same choices, but features tell nothing of them."""
    dirty_rate: float = 0.0
    """Bad rows added per good one (`marketplace.corruption`)."""
    categories: int = 24
    brands: int = 40
    style_dimension: int = 16
    events_per_active_day: float = 2.3
    start: datetime = datetime(2025, 1, 6, tzinfo=UTC)
    tastes: Tastes = field(default_factory=Tastes)

    def __post_init__(self) -> None:
        for name in ("days", "users", "categories", "brands", "style_dimension"):
            if getattr(self, name) < 1:
                raise ValueError(f"marketplace: {name}={getattr(self, name)}, expected at least 1")
        if self.items < self.categories:
            raise ValueError(
                f"marketplace: items={self.items} for categories={self.categories}; "
                "every category needs an item on the first day: raise items or lower categories"
            )
        if self.new_items_per_day < 0:
            raise ValueError(f"marketplace: new_items_per_day={self.new_items_per_day}, expected 0 or more")
        if self.order < 0:
            raise ValueError(f"marketplace: order={self.order}, expected 0 or more")
        if self.groups < 0 or (self.strangers and not self.groups):
            raise ValueError(f"marketplace: groups={self.groups}, expected 0 or more, and above 0 with strangers")
        if self.devices < 0 or (self.strange_devices and not self.devices):
            raise ValueError(
                f"marketplace: devices={self.devices}, expected 0 or more, and above 0 with strange_devices"
            )
        if self.devices and self.kinds:
            raise ValueError("marketplace: devices are told of purchases alone; leave devices or kinds out")
        if not 0 <= self.dirty_rate <= 1:
            raise ValueError(f"marketplace: dirty_rate={self.dirty_rate}, expected 0 to 1")
        if self.events_per_active_day < 1:
            raise ValueError(f"marketplace: events_per_active_day={self.events_per_active_day}, expected at least 1")
        if self.start.tzinfo is None:
            raise ValueError("marketplace: start has no time zone; give one, e.g. datetime(2025, 1, 6, tzinfo=UTC)")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "MarketplaceConfig":
        """From the scalar `options` of a dataset card. Raises `ValueError` naming an unknown or ill-typed one."""
        kinds: dict[str, Any] = {spec.name: spec.type for spec in fields(cls) if spec.name not in ("start", "tastes")}
        for name, value in options.items():
            if name not in kinds:
                raise ValueError(f"marketplace: unknown option {name!r}; known: {', '.join(kinds)}")
            allowed = (int, float) if kinds[name] is float else (kinds[name],)
            if type(value) not in allowed:
                raise ValueError(f"marketplace: option {name} is {value!r}, expected {allowed[-1].__name__}")
        return cls(**options)

    @property
    def total_items(self) -> int:
        """Items launched by the end of the last day."""
        return self.items + self.days * self.new_items_per_day
