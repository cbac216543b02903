"""Ranked again until enough can be shown: never more than a few times, and never what was withheld before."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway.after.rounds import MOST, until_full
from serving.gateway.after.showing import Items, ShownList


@settings(max_examples=100, deadline=None)
@given(
    items=st.integers(0, 30), gone=st.sets(st.integers(0, 29)), k=st.integers(1, 8), spare=st.integers(0, 6),
    stops=st.booleans(),
)  # fmt: skip
def test_as_many_are_shown_as_there_are_within_the_rounds(
    items: int, gone: set[int], k: int, spare: int, stops: bool
) -> None:
    most, asked = k + spare, [dict[str, Any]()]

    def ranked(request: dict[str, Any]) -> Items:
        left = [n for n in range(items) if f"i{n}" not in request.get("exclude", ())]
        return [{"item_id": f"i{n}", "score": -float(n)} for n in left[:most]]

    def show(found: Items) -> ShownList:
        may = [item for item in found if int(item["item_id"][1:]) not in gone]
        return ShownList(items=may[:k], withheld=[item["item_id"] for item in found if item not in may])

    async def rank(request: dict[str, Any]) -> Items | None:
        assert not set(request["exclude"]) - {f"i{n}" for n in gone}, "only what was withheld is left out"
        assert set(asked[-1].get("exclude", ())) < set(request["exclude"]), "and all that was withheld before, too"
        asked.append(request)
        return None if stops else ranked(request)

    last, shown = asyncio.run(until_full(asked[0], ranked(asked[0]), k=k, most=most, show=show, rank=rank))
    assert len(asked) <= MOST
    if stops:
        assert last == {}, "the request that was answered"
        return
    assert last == asked[-1] and shown.items == show(ranked(last)).items
    best = [f"i{n}" for n in range(items) if n not in gone]
    found = [item["item_id"] for item in shown.items]
    assert found == best[: len(found)]
    if len(asked) < MOST:
        assert found == best[:k], "it ends early only where there are no more"
