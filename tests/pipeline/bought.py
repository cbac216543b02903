"""What the shoppers of an events table bought, as `forget` finds it."""

from itertools import combinations

import pyarrow as pa

from pipelines.remembered import Bought


def bought_by(user: str, events: pa.Table) -> Bought:
    """Of one shopper of a table with the columns user_id and item_id."""
    by_item: dict[str, set[str]] = {}
    for each, item in zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        by_item.setdefault(item, set()).add(each)
    mine = {item for item, users in by_item.items() if user in users}
    return Bought(users={user: mine}, others={item: by_item[item] - {user} for item in mine})


def with_pairs_alone(events: pa.Table) -> tuple[str, Bought]:
    """A shopper with two items that nobody else bought both of, and two that somebody did; and all of that one's."""
    for user in events["user_id"].unique().to_pylist():
        bought = bought_by(user, events)
        if len({one.isdisjoint(other) for one, other in combinations(bought.others.values(), 2)}) == 2:
            return user, bought
    raise AssertionError("no shopper bought both what others bought together and what nobody else did")
