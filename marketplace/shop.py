"""The embedded marketplace: a shop with a known law of choice, day after day.

shop = Marketplace(MarketplaceConfig(days=60, seed=1))
for day in shop.days():
    day.interactions, day.items            # what was bought; what was launched or repriced
shop.choice_probabilities("u000017", ["i000003"], time)    # the law itself, over shop.item_ids
shop.click("u000017", shown, time, rng, history=[...])     # the answer to a shown list
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import (
    UTC,
    date,
    datetime,
    timedelta,
)

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marketplace.browsing import (
    KINDS,
    PURCHASE,
    Browsing,
    Events,
)
from marketplace.catalogue import (
    Floats,
    Integers,
    brand_names,
    category_names,
    draw_catalogue,
)
from marketplace.choice_model import DEVICES, EMPTY, Law
from marketplace.config import MarketplaceConfig

REMEMBERED = 128
"""Purchases that a shopper does not make again."""
INTERACTIONS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("quantity", pa.int64()),
    ]
)
TYPED = INTERACTIONS.append(pa.field("event_type", pa.string()))
_MICROSECONDS = 1_000_000


def schema_of(config: MarketplaceConfig) -> pa.Schema:
    """Of a day's interactions."""
    schema = TYPED if config.kinds else INTERACTIONS
    return schema.append(pa.field("device", pa.string())) if config.devices else schema


@dataclass(frozen=True)
class ShopDay:
    """One day of the shop. All times are within it."""

    date: date
    interactions: pa.Table
    """As `schema_of` has it, in order of time."""
    items: pa.Table
    """item_id, available_at (start of the day), brand, category, price, title, style: launched or repriced."""


@dataclass(frozen=True)
class Response:
    """A shopper's answer to a shown list, one bool a position: purchased ⊆ clicked ⊆ examined."""

    examined: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    purchased: NDArray[np.bool_]


class Marketplace:
    def __init__(self, config: MarketplaceConfig) -> None:
        self.config = config
        self._catalogue = draw_catalogue(config)
        self._law = Law(config, self._catalogue)
        self._browsing = Browsing(config, self._law) if config.kinds else None
        count = len(self._catalogue)
        self._shown_as = _one_cycle(count, config.seed) if config.placebo else np.arange(count)
        self.item_ids = pa.array([f"i{row:06d}" for row in range(count)])
        self.user_ids = pa.array([f"u{row:06d}" for row in range(config.users)])
        self._brands = pa.array(brand_names(config.brands))
        self._categories = pa.array(category_names(config.categories))

    def catalogue(self, day: int | None = None) -> pa.Table:
        """Items launched by `day` (by the last one, left out) with their features as shown and their price then.

        Columns item_id, available_at (of the launch), brand, category, price, title, style (list of float32).
        """
        day = self.config.days - 1 if day is None else day
        rows = np.arange(self._catalogue.on_sale(day))
        return self._shown(rows, self._catalogue.launch[rows], day)

    def users(self) -> pa.Table:
        """user_id and group of all shoppers, in a shop that has groups; of strangers that of another shopper."""
        group = self._law.group
        if self.config.strangers:
            group = group[np.random.default_rng([self.config.seed, 11]).permutation(len(group))]
        return pa.table({"user_id": self.user_ids, "group": pa.array([f"group {number}" for number in group])})

    def days(self) -> Iterator[ShopDay]:
        """The shop's life, day by day, in memory that does not grow with the days."""
        arrival, activity = self._draw_habits()
        history = np.full((self.config.users, REMEMBERED), EMPTY, dtype=np.int32)
        for day in range(self.config.days):
            rng = np.random.default_rng([self.config.seed, 4, day])
            active = np.flatnonzero((rng.random(self.config.users) < activity) & (arrival <= day))
            interactions = self._trade(day, active, history, rng)
            yield ShopDay((self.config.start + timedelta(days=day)).date(), interactions, self.item_changes(day))

    def item_changes(self, day: int) -> pa.Table:
        """Items launched or repriced on `day`: a row of all features each, available from the day's start."""
        catalogue = self._catalogue
        rows = np.arange(catalogue.on_sale(day))
        shown = self._shown_as[rows]
        changed = (catalogue.launch[rows] == day) | (catalogue.price(day)[shown] != catalogue.price(day - 1)[shown])
        rows = rows[changed]
        return self._shown(rows, np.full(len(rows), day), day)

    def choice_probabilities(self, user: str, history: Sequence[str], time: datetime) -> Floats:
        """(items,) the law: probability that each of `item_ids` is the next purchase after `history` (latest last).

        0 for items not launched at `time` and for those the shopper has bought already.
        """
        rows = np.array([self._row(user, "u", self.config.users)])
        found: Floats = np.exp(self._law.log_probabilities(rows, self._history(history), self.day_of(time))[0])
        return found

    def click(
        self,
        user: str,
        shown_items: Sequence[str],
        time: datetime,
        rng: np.random.Generator,
        *,
        history: Sequence[str] = (),
    ) -> Response:
        """Answer to a list shown in this order (position-based model: Richardson et al., 2007; Craswell et al., 2008).

        An item at position r = 0, 1, … is examined with probability 1/log2(r + 2), clicked when examined with
        sigmoid(0.8·lift - 2) and purchased when clicked with sigmoid(0.5·lift - 1.5). `lift` is the log of how
        many times likelier the law makes it than a choice at random; what cannot be chosen is never clicked.
        """
        lift = self.lift(user, shown_items, time, history=history)
        examined = rng.random(len(lift)) < 1 / np.log2(np.arange(len(lift)) + 2)
        clicked = examined & (rng.random(len(lift)) < _sigmoid(0.8 * lift - 2))
        return Response(examined, clicked, clicked & (rng.random(len(lift)) < _sigmoid(0.5 * lift - 1.5)))

    def lift(self, user: str, items: Sequence[str], time: datetime, *, history: Sequence[str] = ()) -> Floats:
        """(len(items),) log of the law's probability against a uniform choice among what is on sale."""
        rows = np.array([self._row(item, "i", len(self._catalogue)) for item in items], dtype=np.int64)
        probabilities = self.choice_probabilities(user, history, time)
        with np.errstate(divide="ignore"):
            return np.log(probabilities[rows] * self._catalogue.on_sale(self.day_of(time)))

    def day_of(self, time: datetime) -> int:
        """Day of the shop, from 0; the day before it opens counts as its first."""
        if time.tzinfo is None:
            raise ValueError(f"marketplace: time {time} has no time zone; give one, e.g. datetime(..., tzinfo=UTC)")
        return max((time - self.config.start) // timedelta(days=1), 0)

    def _draw_habits(self) -> tuple[Integers, Floats]:
        """(users,) first day and (users,) share of days with a visit: 60 % are there from the start."""
        stream = (np.random.default_rng([self.config.seed, 5, index]) for index in range(3))
        late = next(stream).random(self.config.users) >= 0.6
        arrival = np.where(late, next(stream).exponential(20, size=self.config.users), 0).astype(np.int64)
        return arrival, next(stream).beta(1.6, 4, size=self.config.users)

    def _trade(self, day: int, active: Integers, history: NDArray[np.int32], rng: np.random.Generator) -> pa.Table:
        """A day's purchases. Round by round, each active shopper makes the next one; `history` moves along."""
        visits = 1 + rng.poisson(self.config.events_per_active_day - 1, size=len(active))
        device, shown = self._devices(day, len(active))
        users, items, rounds, besides = [], [], [], []
        for round_ in range(int(visits.max(initial=0))):
            there = visits > round_
            now, by = active[there], None if device is None else device[there]
            chosen = self._law.choose(now, history[now], day, rng, device=by)
            if self._browsing is not None:
                besides.append(self._browsing.before(now, history[now], chosen, day, round_))
            history[now, :-1] = history[now, 1:]
            history[now, -1] = chosen
            users.append(now)
            items.append(chosen)
            rounds.append(np.full(len(now), round_))
        if not users:
            return schema_of(self.config).empty_table()
        user, item, round_of = map(np.concatenate, (users, items, rounds))
        moments = _moments(active, visits, rng)
        visit = np.searchsorted(active, user)
        moment = moments[visit, round_of]
        order = np.lexsort((user, moment))
        quantity = np.minimum(rng.geometric(0.8, size=len(order)), 10)
        bought = self._recorded(day, user[order], item[order], moment[order], quantity)
        if shown is not None:
            bought = bought.append_column("device", pa.array(np.array(DEVICES)[shown[visit[order]]], pa.string()))
        return bought if self._browsing is None else self._with(bought, day, active, moments, besides)

    def _devices(self, day: int, visits: int) -> tuple[Integers | None, Integers | None]:
        """(visits,) what each visit of a day is by, and what the shop is told that it is by."""
        if not self.config.devices:
            return None, None
        device, other = (
            np.random.default_rng([self.config.seed, 13, day, index]).integers(len(DEVICES), size=visits)
            for index in range(2)
        )
        return device, other if self.config.strange_devices else device

    def _recorded(self, day: int, user: Integers, item: Integers, moment: Integers, quantity: Integers) -> pa.Table:
        start = int(self.config.start.timestamp()) * _MICROSECONDS + day * 86_400 * _MICROSECONDS
        return pa.table(
            [
                self.user_ids.take(pa.array(user)),
                self.item_ids.take(pa.array(item)),
                pa.array(start + moment).cast(pa.timestamp("us", "UTC")),
                pa.array(quantity),
            ],
            schema=INTERACTIONS,
        )

    def _with(
        self, bought: pa.Table, day: int, active: Integers, moments: Integers, besides: Sequence[Events]
    ) -> pa.Table:
        """The purchases and what came before each of them, in order of time."""
        tables = [bought.append_column("event_type", pa.array([PURCHASE] * len(bought), pa.string()))]
        for round_, (user, item, kind, ago) in enumerate(besides):
            moment = moments[np.searchsorted(active, user), round_] - ago
            told = self._recorded(day, user, item, moment, np.ones(len(user), dtype=np.int64))
            tables.append(told.append_column("event_type", pa.array(np.array(KINDS)[kind], pa.string())))
        every = pa.concat_tables(tables)
        order = [(name, "ascending") for name in ("event_time", "user_id", "event_type", "item_id")]
        return every.sort_by(order).cast(TYPED)

    def _shown(self, rows: Integers, available: Integers, day: int) -> pa.Table:
        catalogue, shown = self._catalogue, self._shown_as[rows]
        style = catalogue.style[shown].astype(np.float32)
        start = np.datetime64(self.config.start.astimezone(UTC).replace(tzinfo=None), "us")
        return pa.table(
            {
                "item_id": self.item_ids.take(pa.array(rows)),
                "available_at": pa.array(start + available.astype("timedelta64[D]")).cast(pa.timestamp("us", "UTC")),
                "brand": self._brands.take(pa.array(catalogue.brand[shown])),
                "category": self._categories.take(pa.array(catalogue.category[shown])),
                "price": catalogue.price(day)[shown],
                "title": catalogue.titles(shown),
                "style": pa.FixedSizeListArray.from_arrays(pa.array(style.ravel()), style.shape[1]).cast(
                    pa.list_(pa.float32())
                ),
            }
        )

    def _history(self, items: Sequence[str]) -> Integers:
        """(1, REMEMBERED) rows, latest last."""
        rows = [self._row(item, "i", len(self._catalogue)) for item in items[-REMEMBERED:]]
        return np.array([[EMPTY] * (REMEMBERED - len(rows)) + rows])

    def _row(self, key: str, prefix: str, count: int) -> int:
        digits = key.removeprefix(prefix)
        if not key.startswith(prefix) or not digits.isdecimal() or int(digits) >= count:
            raise ValueError(f"marketplace: no {key!r} here; expected {prefix}000000 to {prefix}{count - 1:06d}")
        return int(digits)


def _moments(active: Integers, visits: Integers, rng: np.random.Generator) -> Integers:
    """(active, most visits) microseconds of the day, rising along a row: one session of up to an hour and a half."""
    opening = rng.triangular(7, 19, 22.4, size=(len(active), 1))
    within = np.sort(rng.random((len(active), int(visits.max()))) * 1.5, axis=1)
    return ((opening + within) * 3_600 * _MICROSECONDS).astype(np.int64)


def _one_cycle(count: int, seed: int) -> Integers:
    """(count,) a permutation in which nothing stays where it is."""
    order = np.random.default_rng([seed, 6]).permutation(count)
    result = np.empty(count, dtype=np.int64)
    result[order] = np.roll(order, 1)
    return result


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
