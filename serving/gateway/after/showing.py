"""From what was ranked to what is shown: the one place of stock, rules, diversity and exploration, whoever ranked.

Slot by slot the best candidate is taken that no rule forbids. Letters: V items of the champion's catalogue, C
candidates of the ranking, E items that may be explored. An item that the catalogue does not have (a challenger's
newest) is of no category, and is withheld where a block asks for what it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.assignment import place
from serving.gateway.after.compiled import Compiled, Explorable, PlacedRule
from serving.gateway.after.stock import Stock
from serving.scoring.filters import Mask
from serving.scoring.placed import FOR_YOU, RANKING

Items = list[dict[str, Any]]
Origin = Literal["ranked", "pinned", "explored"]
_LEAST = 1e-9


@dataclass(frozen=True, kw_only=True)
class ShowingLimits:
    """What limits the answer to one request."""

    k: int
    request_id: str
    """Seeds the draws: whoever knows it can repeat them."""
    hidden: frozenset[str]
    """Excluded by the request, or seen and not to be seen again."""
    filters: Mapping[str, Any] = field(default_factory=dict)
    segment: str = ""
    """Of the shopper, as for popular items."""
    placement: str = FOR_YOU
    tired: frozenset[str] = frozenset()
    """What the shopper was shown too often, for a rule of fatigue."""


@dataclass(kw_only=True)
class ShownList:
    """What is shown, slot by slot."""

    items: Items = field(default_factory=list)
    """`score` is the ranking's; null for what it did not rank."""
    origins: list[Origin] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    """The probability with which this item is shown in this slot, given the arm, its ranking and the slots before; 1
    where nothing is drawn."""
    draws: list[float | None] = field(default_factory=list)
    """Uniform on [0, 1): below the law's share the slot is explored; null where nothing is drawn."""
    explorable: list[int | None] = field(default_factory=list)
    """How many items the draw was among."""
    withheld: list[str] = field(default_factory=list)
    """Candidates that could not be shown."""
    rules: int = 0
    """Version of the rules."""

    def add(
        self,
        item: dict[str, Any],
        origin: Origin,
        propensity: float = 1.0,
        draw: float | None = None,
        explorable: int | None = None,
    ) -> None:
        self.items.append(item)
        self.explorable.append(explorable)
        self.origins.append(origin)
        self.propensities.append(propensity)
        self.draws.append(draw)


def draw(request_id: str, slot: int) -> float:
    """The draw of a slot, uniform on [0, 1)."""
    return place(request_id, f"slot {slot}")


def show(
    rules: Compiled, explorable: Explorable, stock: Stock, asked: ShowingLimits, ranked: Items, *, counts: bool
) -> ShownList:
    """What is shown of `ranked`, best first. `counts`: its scores are numbers of events, and else the placement's.

    It is shorter than `asked.k` only where what was ranked has no more items that may be shown.
    """
    rules = rules.at(asked.placement)
    if not rules.arranges and not (asked.tired and rules.fatigue is not None):
        return _left(rules, stock, asked, ranked)
    return _Selection(rules, explorable, stock, asked, ranked, counts).run()


class SlotCandidate(NamedTuple):
    """What a ranking would show in a slot, after what was shown in those before it."""

    item: dict[str, Any] | None
    open_E: npt.NDArray[np.int64]
    """Rows of the catalogue that may be explored there."""


def choices(
    rules: Compiled, explorable: Explorable, asked: ShowingLimits, ranked: Items, placed: Sequence[tuple[str, Origin]]
) -> list[SlotCandidate]:
    """Of each slot that showed what is `placed`: how `ranked` would have filled it, had nothing been withdrawn."""
    selection = _Selection(rules.at(asked.placement), explorable, Stock(), asked, ranked, False)
    return [selection.choice(slot, item, origin) for slot, (item, origin) in enumerate(placed, start=1)]


def _left(rules: Compiled, stock: Stock, asked: ShowingLimits, ranked: Items) -> ShownList:
    """What is not withdrawn or blocked, as it was ranked."""
    left, ids = ranked, [item["item_id"] for item in ranked]
    if rules.blocks:
        open_C = _open(rules, stock, ids, _rows(rules, ids))
        left = [item for item, is_open in zip(ranked, open_C.tolist(), strict=True) if is_open]
    elif stock.withdrawn:
        left = [item for item in ranked if item["item_id"] not in stock.withdrawn]
    shown = left[: asked.k]
    kept = {item["item_id"] for item in left} if len(left) < len(ranked) else ids
    return ShownList(
        items=shown,
        origins=["ranked"] * len(shown),
        propensities=[1.0] * len(shown),
        draws=[None] * len(shown),
        explorable=[None] * len(shown),
        withheld=[] if kept is ids else [item for item in ids if item not in kept],
        rules=rules.version.number,
    )


def _rows(rules: Compiled, ids: list[str]) -> npt.NDArray[np.int64]:
    """(C,) of the catalogue; -1 for what it does not have."""
    row = rules.catalogue.row
    return np.fromiter((row.get(item, -1) for item in ids), np.int64, len(ids))


def _open(rules: Compiled, stock: Stock, ids: list[str], row_C: npt.NDArray[np.int64]) -> Mask:
    """(C,) what is neither withdrawn nor blocked."""
    open_C = np.fromiter((item not in stock.withdrawn for item in ids), bool, len(ids))
    for block in rules.blocks:
        open_C &= ~block.chosen.among(ids, row_C)
        if block.chosen.match_V is not None:
            open_C &= row_C >= 0
    return open_C


class _Selection:
    """Of one request, by rules that count at its placement."""

    def __init__(
        self, rules: Compiled, explorable: Explorable, stock: Stock, asked: ShowingLimits, ranked: Items, counts: bool
    ) -> None:
        self._rules, self._explorable, self._stock, self._asked = rules, explorable, stock, asked
        self._ranked, self._ids = ranked, [item["item_id"] for item in ranked]
        self._row_C = _rows(rules, self._ids)
        self._forbidden_V = rules.catalogue.forbidden(asked.filters) if asked.filters else None
        self._tired = asked.tired if rules.fatigue is not None else frozenset[str]()
        self._rested_C = np.fromiter((item not in self._tired for item in self._ids), bool, len(ranked))
        self._pins = self._pinned()
        self._open_C = self._allowed()
        self._value_C = self._valued(counts)
        self._shares = [(share, by, by.chosen.among(self._ids, self._row_C)) for share, by in rules.shares]
        self._matched = [0] * len(self._shares)
        self._capped: list[dict[int, int]] = [{} for _ in rules.caps]
        self._caps_C = [(most, np.where(self._row_C < 0, -1, codes_V[self._row_C])) for most, codes_V in rules.caps]
        self._alike_C = np.zeros(len(ranked))
        self._codes_FC = [np.where(self._row_C < 0, -1, codes_V[self._row_C]) for codes_V in rules.alike]
        self._gone_V: Mask | None = None
        for item in self._pins.values():
            self._count(rules.catalogue.row[item])
        self._shown = ShownList(rules=rules.version.number)

    def run(self) -> ShownList:
        for slot in range(1, self._asked.k + 1):
            pin = self._pins.pop(slot, None)
            if pin is not None:
                self._place(self._item(pin), "pinned")
            elif not self._fill(slot):
                break
        for _, pin in sorted(self._pins.items()):  # the ranking has ended before their slots
            self._place(self._item(pin), "pinned")
        shown = {item["item_id"] for item in self._shown.items}
        self._shown.withheld = [item for c, item in enumerate(self._ids) if item not in shown and not self._open_C[c]]
        return self._shown

    def choice(self, slot: int, item: str, origin: Origin) -> SlotCandidate:
        """What this ranking would show here; the slot then shows `item`."""
        best = self._best(self._due(slot))
        found = SlotCandidate(None if best is None else self._ranked[best], self._fresh())
        self._pins.pop(slot, None)
        self._place({"item_id": item}, origin)
        return found

    def _fill(self, slot: int) -> bool:
        """Whether an item was found for a slot that nobody has pinned."""
        due_C = self._due(slot)
        best = self._best(due_C)
        law = self._rules.law
        if law is None or due_C is not None or (law.slots and slot not in law.slots):
            return best is not None and self._place(self._ranked[best], "ranked", at=best)
        row_E = self._fresh()
        if not len(row_E):
            return best is not None and self._place(self._ranked[best], "ranked", at=best)
        drawn = draw(self._asked.request_id, slot)
        count, share = len(row_E), law.share
        even = share / count
        if drawn < share:
            row = int(row_E[min(int(drawn / share * count), count - 1)])
            is_best = best is not None and bool(self._row_C[best] == row)
            item = self._item(self._rules.catalogue.ids[row])
            return self._place(item, "explored", even + (1 - share) * is_best, drawn, count)
        if best is None:
            return False
        among = bool(np.any(row_E == self._row_C[best]))
        return self._place(self._ranked[best], "ranked", 1 - share + even * among, drawn, count, at=best)

    def _best(self, due_C: Mask | None) -> int | None:
        """The candidate for the next slot."""
        open_C = self._open_C if due_C is None else due_C
        if not open_C.any():
            return None
        if (rested_C := open_C & self._rested_C).any():
            open_C = rested_C
        gain_C = self._value_C
        if self._codes_FC:
            relevance = self._rules.relevance
            gain_C = relevance * gain_C - (1 - relevance) * self._alike_C
        return int(np.argmax(np.where(open_C, gain_C, -np.inf)))

    def _due(self, slot: int) -> Mask | None:
        """(C,) of which candidates one is due, as a rule has had less than its share of the slots so far."""
        for n, (share, _, match_C) in enumerate(self._shares):
            if self._matched[n] < int(share * slot + _LEAST):
                due_C = match_C & self._open_C
                if due_C.any():
                    return np.asarray(due_C)
        return None

    def _place(
        self,
        item: dict[str, Any],
        origin: Origin,
        propensity: float = 1.0,
        drawn: float | None = None,
        explorable: int | None = None,
        *,
        at: int = -1,
    ) -> Literal[True]:
        """Show `item`, the candidate `at` where it is one, and remember what follows for the slots after."""
        self._shown.add(item, origin, propensity, drawn, explorable)
        row = self._rules.catalogue.row.get(item["item_id"], -1)
        if at < 0 and item["item_id"] in self._ids:
            at = self._ids.index(item["item_id"])
        if at >= 0:
            self._open_C[at] = False
        self._matched = [
            count + self._matches(by, item["item_id"], row)
            for count, (_, by, _) in zip(self._matched, self._shares, strict=True)
        ]
        if self._gone_V is not None and row >= 0:
            self._gone_V[row] = True
        if origin != "pinned":
            self._count(row)
        if self._codes_FC and row >= 0:
            same = [(codes_C == codes_V[row]) & (codes_C >= 0)
                    for codes_C, codes_V in zip(self._codes_FC, self._rules.alike, strict=True)]  # fmt: skip
            self._alike_C = np.maximum(self._alike_C, np.mean(same, axis=0))
        return True

    def _count(self, row: int) -> None:
        """One more item of its categories; where they have as many as they may, their other candidates are closed."""
        for count, (most, codes_V), (_, codes_C) in zip(self._capped, self._rules.caps, self._caps_C, strict=True):
            if row >= 0 and (code := int(codes_V[row])) >= 0:
                count[code] = count.get(code, 0) + 1
                if count[code] >= most:
                    self._open_C &= codes_C != code

    def _matches(self, by: PlacedRule, item: str, row: int) -> bool:
        chosen = by.chosen
        return item in chosen.ids if chosen.match_V is None else row >= 0 and bool(chosen.match_V[row])

    def _may(self, item: str) -> bool:
        """Whether an item that was not ranked may be shown to this request."""
        row = self._rules.catalogue.row.get(item, -1)
        if row < 0 or item in self._asked.hidden or item in self._stock.withdrawn:
            return False
        if self._forbidden_V is not None and self._forbidden_V[row]:
            return False
        return not any(self._matches(block, item, row) for block in self._rules.blocks)

    def _pinned(self) -> dict[int, str]:
        """Slot to item: of several pins of a slot the first that may be shown."""
        found: dict[int, str] = {}
        for pin in self._rules.pins:
            if pin.slot > self._asked.k or pin.slot in found or pin.item in found.values():
                continue
            if (not pin.segments or self._asked.segment in pin.segments) and self._may(pin.item):
                found[pin.slot] = pin.item
        return found

    def _allowed(self) -> Mask:
        pinned = set(self._pins.values())
        not_pinned_C = np.fromiter((item not in pinned for item in self._ids), bool, len(self._ids))
        open_C = _open(self._rules, self._stock, self._ids, self._row_C) & not_pinned_C
        if self._rules.fatigue is not None and self._rules.fatigue.then == "hide":
            open_C &= self._rested_C
        return np.asarray(open_C)

    def _valued(self, counts: bool) -> npt.NDArray[np.float64]:
        """(C,) logits, to which the logarithms of factors and of what an item brings are added: of what is no logit the
        logarithm; between 0 and 1 where likeness is held against them."""
        value_C = np.array([item["score"] for item in self._ranked], np.float64)
        if counts or self._asked.placement not in (FOR_YOU, RANKING):
            value_C = np.log(np.maximum(value_C, _LEAST))
        for logarithm, by in self._rules.factors:
            value_C = value_C + logarithm * by.chosen.among(self._ids, self._row_C)
        if self._rules.worth is not None:
            value_C = value_C + self._rules.worth.of(self._row_C)
        if self._rules.alike and self._open_C.any():
            low, high = value_C[self._open_C].min(), value_C[self._open_C].max()
            value_C = (value_C - low) / max(high - low, _LEAST)
        return value_C

    def _fresh(self) -> npt.NDArray[np.int64]:
        """Rows of the catalogue that may be explored now, ascending."""
        row_E, row = self._explorable.rows(self._stock), self._rules.catalogue.row
        if self._gone_V is None:
            gone_V = np.zeros(len(row), bool) if self._forbidden_V is None else self._forbidden_V.copy()
            shown = (item["item_id"] for item in self._shown.items)
            known = (*self._asked.hidden, *self._tired, *self._pins.values(), *shown)
            gone_V[[row[item] for item in known if item in row]] = True
            for block in self._rules.blocks:
                if block.chosen.match_V is not None:
                    gone_V |= block.chosen.match_V
                else:
                    gone_V[[row[item] for item in block.chosen.ids if item in row]] = True
            self._gone_V = gone_V
        row_E = row_E[~self._gone_V[row_E]]
        for count, (most, codes_V) in zip(self._capped, self._rules.caps, strict=True):
            full = [code for code, shown in count.items() if shown >= most]
            if full:
                row_E = row_E[~np.isin(codes_V[row_E], full)]
        return row_E

    def _item(self, item: str) -> dict[str, Any]:
        """As it was ranked, or as the catalogue tells it."""
        if item in self._ids:
            return self._ranked[self._ids.index(item)]
        return {"item_id": item, "score": None, "title": self._rules.catalogue.titles[self._rules.catalogue.row[item]]}
