"""The paths of all placements: of what was sent a `Wish` is made, and one service answers them all."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Response

from serving.gateway.api import (
    Filters,
    Problem,
    RecommendationRequest,
    Recommendations,
    Somebody,
)
from serving.gateway.placements.requests import (
    BoughtTogether,
    BuyAgain,
    Popular,
    RankingRequest,
    SimilarItems,
)
from serving.gateway.placements.session import events_of
from serving.gateway.wish import Wish
from serving.scoring.placed import (
    AGAIN,
    FOR_YOU,
    POPULAR,
    RANKING,
    SIMILAR,
    TOGETHER,
)

Serve = Callable[[Wish, dict[str, Any], str | None], Awaitable[Response]]
"""Answers a wish, whose context is logged, for who has this authorization."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 409, 413, 422, 501, 503)
}
Authorization = Annotated[str | None, Header(description="Bearer token, where the service asks for one")]
Arm = Literal["champion", "challenger"] | None
Variant = Annotated[Arm, Header(alias="X-Variant", description="for people who test: their arm")]
Placed = RecommendationRequest | SimilarItems | RankingRequest | Popular | BoughtTogether | BuyAgain


_SENT = ("items", "kind", "k", "exclude_seen", "exclude", "explain", "context")
"""Fields that a request and a `Wish` have alike."""


def wish_of(asked: Somebody, placement: str, arm: Arm, now: datetime) -> Wish:
    """What was sent, at whatever placement; what a placement does not have is as a `Wish` has it."""
    sent = dict(asked)
    return Wish(
        user_id=asked.unit,
        placement=placement,
        arm=arm,
        now=now,
        session=events_of(sent.get("session", ()), now),
        filters=plain(sent.get("filters", {})),
        personal=sent.get("personalise", True),
        **{name: sent[name] for name in _SENT if name in sent},
    )


def add_placements(app: FastAPI, serve: Serve, clock: Callable[[], datetime]) -> None:
    """Add the paths to `app`."""

    async def answer(asked: Placed, placement: str, authorization: str | None, arm: Arm) -> Response:
        return await serve(wish_of(asked, placement, arm, clock()), asked.context, authorization)

    @app.post("/v1/recommendations", responses=PROBLEMS, response_model=Recommendations)
    async def recommendations(
        asked: RecommendationRequest, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        return await answer(asked, FOR_YOU, authorization, x_variant)

    @app.post("/v1/similar-items", responses=PROBLEMS, response_model=Recommendations)
    async def similar_items(
        asked: SimilarItems, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        return await answer(asked, SIMILAR, authorization, x_variant)

    @app.post("/v1/rankings", responses=PROBLEMS, response_model=Recommendations)
    async def rankings(
        asked: RankingRequest, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        return await answer(asked, RANKING, authorization, x_variant)

    @app.post("/v1/popular", responses=PROBLEMS, response_model=Recommendations)
    async def popular(asked: Popular, authorization: Authorization = None, x_variant: Variant = None) -> Response:
        return await answer(asked, POPULAR, authorization, x_variant)

    @app.post("/v1/bought-together", responses=PROBLEMS, response_model=Recommendations)
    async def bought_together(
        asked: BoughtTogether, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        return await answer(asked, TOGETHER, authorization, x_variant)

    @app.post("/v1/buy-again", responses=PROBLEMS, response_model=Recommendations)
    async def buy_again(asked: BuyAgain, authorization: Authorization = None, x_variant: Variant = None) -> Response:
        return await answer(asked, AGAIN, authorization, x_variant)


def plain(filters: Filters) -> dict[str, Any]:
    """As a model gets them."""
    return {
        name: wanted if isinstance(wanted, list) else wanted.model_dump(exclude_none=True, by_alias=True)
        for name, wanted in filters.items()
    }
