"""The law of choice (ours): a nested multinomial logit (McFadden, 1978) whose every term is known.

A shopper u with history h picks a category, then an item i of it that is on sale and not among the purchases
remembered, each by a logit:

    P(i | u, h, day) = softmax_c( transition[c_last, c] + leaning[u, c] ) · softmax_{i in c}( U(u, h, i, day) )

    U = quality_i + swing_i(day) + novelty·exp(-age_i/novelty_days)             the item itself
      + affinity·<taste_u, z_i> + follow·<Q z_last, z_i>                        identity: z is latent
      + brand·share_h(brand_i) + style·<style_h, style_i> + words·Σ_w share_h(w)[w in i]
      - tier·(tier_i - tier_h)² - price·sensitivity_u·log(price_i(day)/usual_i)

where share_h, style_h and tier_h are means over the latest purchases, the later the heavier. Each term is a
product of a context vector of (u, h) and an item vector, or belongs to one of them, so that the utilities of
many shoppers over a category are one matrix product.

Where the shop has `order`, its shoppers go on with what they began, brand by brand. Each brand leads through the
categories on a round of its own. Of each brand among the latest purchases the latest one, t, names what comes next:
category c_t, the one after its own on the brand's round, and of the brand's items there above all those of the other
price band, dear after cheap and cheap after dear:

    category logit of c  + order·Σ_t w_t·[c = c_t]
    U of i in c          + order·Σ_t w_t·[c = c_t]·[brand_i = brand_t]·(1 + [band_i ≠ band_t])/2

where w_t = fade^(purchases since t). Which value of one feature stood beside which value of another, and which came
later, is lost in any mean of the purchases; it is all that this term asks for.

Where the shop has `groups`, each shopper is of one of GROUPS, which no purchase moves, with leanings of its own:

    category logit of c  + groups·group_leaning[group_u, c]
    U of i               + groups·GROUP_STYLE·<group_style[group_u], style_i>

Where it has `devices`, each visit is by one of DEVICES, drawn anew whoever visits, with the same two terms: what is
bought by it leans to other categories and styles. Which one the next visit is by, no purchase before tells.
"""

import numpy as np

from marketplace.catalogue import (
    ADJECTIVES,
    LATENT,
    Floats,
    Integers,
    MarketplaceCatalogue,
)
from marketplace.config import MarketplaceConfig

EMPTY = -1
GROUPS, GROUP_STYLE = 8, 6.0
"""How many groups of shoppers there are, and how much their style weighs against their leaning to categories."""
DEVICES = ("phone", "tablet", "desktop", "app")
DEVICE_STYLE = GROUP_STYLE


class Law:
    """Utilities over a catalogue. Items and users are row numbers; histories are (n, M) with the latest LAST,
    padded on the left with -1. `day` counts from the start of the shop."""

    def __init__(self, config: MarketplaceConfig, catalogue: MarketplaceCatalogue) -> None:
        self.config, self.tastes, self.catalogue = config, config.tastes, catalogue
        self._draw_shoppers()
        self._draw_links()
        self._draw_rounds()
        self._draw_groups()
        self._draw_devices()
        self._profile = self._profile_vectors()
        self._items = np.concatenate([catalogue.identity, self._profile], axis=1)
        self.members = [np.flatnonzero(catalogue.category == c) for c in range(config.categories)]
        self._today: tuple[int, Floats, Floats] = (-1, np.empty(0), np.empty(0))

    def _draw_shoppers(self) -> None:
        config = self.config
        stream = (np.random.default_rng([config.seed, 2, index]) for index in range(100))
        self.taste = next(stream).normal(size=(config.users, LATENT)) / np.sqrt(np.sqrt(LATENT))
        self.leaning = next(stream).normal(size=(config.users, config.categories))
        self.sensitivity = next(stream).lognormal(-0.15, 0.5, size=config.users)

    def _draw_links(self) -> None:
        """Which categories and which latent directions follow which."""
        rng = np.random.default_rng([self.config.seed, 3])
        count = self.config.categories
        self.transition = rng.normal(scale=0.3, size=(count, count))
        followers = min(3, count - 1)
        for category in range(count):
            others = np.delete(np.arange(count), category)
            self.transition[category, rng.choice(others, followers, replace=False)] += [4.0, 3.5, 3.0][:followers]
            self.transition[category, category] += 2.0
        self.rotation = np.linalg.qr(rng.normal(size=(LATENT, LATENT)))[0]

    def _draw_rounds(self) -> None:
        """(brands, categories) the category that follows each on the brand's round."""
        config = self.config
        rng = np.random.default_rng([config.seed, 8])
        self.following = np.empty((config.brands, config.categories), dtype=np.int64)
        for brand in range(config.brands):
            way = rng.permutation(config.categories)
            self.following[brand, way] = np.roll(way, -1)

    def _draw_groups(self) -> None:
        """(users,) the group of each shopper, and each group's tastes, from a stream of their own."""
        config = self.config
        rng = np.random.default_rng([config.seed, 10])
        self.group = rng.integers(GROUPS, size=config.users)
        self.group_leaning = rng.normal(size=(GROUPS, config.categories))
        style = rng.normal(size=(GROUPS, config.style_dimension))
        self.group_style = GROUP_STYLE * style / np.linalg.norm(style, axis=1, keepdims=True)

    def _draw_devices(self) -> None:
        """Each device's leanings, from a stream of their own."""
        config = self.config
        rng = np.random.default_rng([config.seed, 12])
        self.device_leaning = rng.normal(size=(len(DEVICES), config.categories))
        style = rng.normal(size=(len(DEVICES), config.style_dimension))
        self.device_style = DEVICE_STYLE * style / np.linalg.norm(style, axis=1, keepdims=True)

    def _profile_vectors(self) -> Floats:
        """(N, P) what an item leaves in the profile of who buys it: brand, style, words, tier."""
        catalogue = self.catalogue
        brand = np.eye(self.config.brands)[catalogue.brand]
        words = np.eye(len(ADJECTIVES))[catalogue.words].sum(axis=1)
        return np.concatenate([brand, catalogue.style, words, catalogue.tier[:, None]], axis=1)

    def categories(self, users: Integers, history: Integers, device: Integers | None = None) -> Floats:
        """(n, C) log-probabilities of the next category; `device` (n,) is what it is bought by."""
        last = history[:, -1]
        logits = self.tastes.leaning * self.leaning[users]
        if self.config.groups:
            logits += self.config.groups * self.group_leaning[self.group[users]]
        if device is not None:
            logits += self.config.devices * self.device_leaning[device]
        known = last != EMPTY
        logits[known] += self.tastes.transition * self.transition[self.catalogue.category[last[known]]]
        if self.config.order:
            weight, following, _ = self._begun(history)
            row = np.broadcast_to(np.arange(len(history))[:, None], weight.shape)
            np.add.at(logits, (row, following), self.config.order * weight)
        return logits - _logsumexp(logits)

    def _begun(self, history: Integers) -> tuple[Floats, Integers, Integers]:
        """Of each of the latest purchases (n, M) its weight, the category to follow it, and its row; the weight is 0
        where a later one is of the same brand."""
        recent = history[:, -self.tastes.memory :]
        brand, category = self.catalogue.brand[recent], self.catalogue.category[recent]
        known = recent != EMPTY
        count = recent.shape[1]
        later = np.arange(count)[:, None] < np.arange(count)
        again = ((brand[:, :, None] == brand[:, None, :]) & known[:, None, :] & later).any(axis=2)
        weight = self.tastes.fade ** np.arange(count)[::-1] * (known & ~again)
        return weight, self.following[brand, category], recent

    def _goes_on(self, history: Integers, members: Integers, category: int) -> Floats:
        """(n, m) what the order of purchases adds to the utilities of these items of `category`."""
        weight, following, recent = self._begun(history)
        brand, dear = self.catalogue.brand, self.catalogue.tier > 0
        same = brand[recent][:, :, None] == brand[members]
        other = dear[recent][:, :, None] != dear[members]
        asked = self.config.order * weight * (following == category)
        added: Floats = np.einsum("nk,nkm->nm", asked, same * (1 + other) / 2)
        return added

    def contexts(self, users: Integers, history: Integers, device: Integers | None = None) -> Floats:
        """(n, D) the shoppers' side of the product."""
        tastes = self.tastes
        last = history[:, -1]
        latent = tastes.affinity * self.taste[users]
        latent += tastes.follow * np.where((last != EMPTY)[:, None], self.catalogue.identity[last] @ self.rotation, 0)
        weight = np.array(
            [tastes.brand] * self.config.brands
            + [tastes.style] * self.config.style_dimension
            + [tastes.words] * len(ADJECTIVES)
            + [2 * tastes.tier]
        )
        recent = weight * self._recent(history)
        style = slice(self.config.brands, self.config.brands + self.config.style_dimension)
        if self.config.groups:
            recent[:, style] += self.config.groups * self.group_style[self.group[users]]
        if device is not None:
            recent[:, style] += self.config.devices * self.device_style[device]
        return np.concatenate([latent, recent], axis=1)

    def _recent(self, history: Integers) -> Floats:
        """(n, P) mean of the profile vectors of the latest purchases, the later the heavier; 0 without any."""
        recent = history[:, -self.tastes.memory :]
        weight = self.tastes.fade ** np.arange(recent.shape[1])[::-1] * (recent != EMPTY)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        mean: Floats = np.einsum("nk,nkp->np", weight, self._profile[recent])
        return mean

    def _of_day(self, day: int) -> tuple[Floats, Floats]:
        """(N,) the part of the utility that is the item's own, and (N,) log price against the usual one."""
        if self._today[0] != day:
            tastes, catalogue = self.tastes, self.catalogue
            age = np.maximum(day - catalogue.launch, 0)
            # What stood in the shop on its first day is no news to anyone.
            launched_later = np.arange(len(catalogue)) >= self.config.items
            own = (
                tastes.quality * catalogue.quality
                + tastes.swing * catalogue.popularity(day)
                + tastes.novelty * np.exp(-age / tastes.novelty_days) * launched_later
                - tastes.tier * catalogue.tier**2
            )
            self._today = (day, own, catalogue.log_discount(day))
        return self._today[1:]

    def utilities(self, users: Integers, history: Integers, contexts: Floats, category: int, day: int) -> Floats:
        """(n, m) utilities of the m items of `category` on sale; -inf for purchases that are remembered.

        Where a shopper has bought all there is, all of it is to be had again.
        """
        members = self.on_sale(category, day)
        catalogue = self.catalogue
        own, discount = (values[members] for values in self._of_day(day))
        found = contexts @ self._items[members].T + own
        found -= self.tastes.price * np.outer(self.sensitivity[users], discount)
        if self.config.order:
            found += self._goes_on(history, members, category)
        owned = (history != EMPTY) & (catalogue.category[history] == category)
        row, column = np.nonzero(owned)
        allowed = np.ones(found.shape, dtype=bool)
        allowed[row, np.searchsorted(members, history[row, column])] = False
        allowed[~allowed.any(axis=1)] = True
        return np.where(allowed, found, -np.inf)

    def on_sale(self, category: int, day: int) -> Integers:
        """(m,) items of `category` launched by `day`."""
        members = self.members[category]
        return members[: np.searchsorted(members, self.catalogue.on_sale(day))]

    def log_probabilities(self, users: Integers, history: Integers, day: int) -> Floats:
        """(n, N) of the next purchase; -inf where an item cannot be it."""
        result = np.full((len(users), len(self.catalogue)), -np.inf)
        nest, contexts = self.categories(users, history), self.contexts(users, history)
        for category in range(self.config.categories):
            utilities = self.utilities(users, history, contexts, category, day)
            within = utilities - _logsumexp(utilities)
            result[:, self.on_sale(category, day)] = nest[:, [category]] + within
        return result

    def choose(
        self,
        users: Integers,
        history: Integers,
        day: int,
        rng: np.random.Generator,
        *,
        device: Integers | None = None,
        against: bool = False,
    ) -> Integers:
        """(n,) the next purchase of each shopper, drawn from the law; or `against` it, the inverse odds of a purchase
        within the category that the law draws."""
        category = _draw(np.exp(self.categories(users, history, device)), rng)
        contexts = self.contexts(users, history, device)
        chosen = np.empty(len(users), dtype=np.int64)
        for c in np.unique(category):
            mine = np.flatnonzero(category == c)
            utilities = self.utilities(users[mine], history[mine], contexts[mine], int(c), day)
            if against:
                utilities = np.where(np.isfinite(utilities), -utilities, -np.inf)
            weights = np.exp(utilities - utilities.max(axis=1, keepdims=True))
            chosen[mine] = self.on_sale(int(c), day)[_draw(weights, rng)]
        return chosen


def _draw(weights: Floats, rng: np.random.Generator) -> Integers:
    """(n,) an index per row, with odds in proportion to the row's weights."""
    total = np.cumsum(weights, axis=1)
    threshold = rng.random(len(weights)) * total[:, -1]
    index: Integers = np.minimum((total <= threshold[:, None]).sum(axis=1), weights.shape[1] - 1)
    return index


def _logsumexp(x: Floats) -> Floats:
    peak = x.max(axis=1, keepdims=True)
    total: Floats = peak + np.log(np.exp(x - peak).sum(axis=1, keepdims=True))
    return total
