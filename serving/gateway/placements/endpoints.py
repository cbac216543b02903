"""The paths of all placements but "for you": each makes a `Wish` of what was sent, and one service answers them all."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Response

from serving.gateway.api import Filters, Problem, Recommendations
from serving.gateway.placements.requests import BoughtTogether, Popular, Ranking, SimilarItems
from serving.gateway.placements.session import events_of
from serving.gateway.recommender import Wish
from serving.scoring.placed import POPULAR, RANKING, SIMILAR, TOGETHER

Serve = Callable[[Wish, dict[str, Any], str | None], Awaitable[Response]]
"""Answers a wish, whose context is logged, for who has this authorization."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 409, 413, 422, 501, 503)
}
Authorization = Annotated[str | None, Header(description="Bearer token, where the service asks for one")]
Variant = Annotated[
    Literal["champion", "challenger"] | None, Header(alias="X-Variant", description="for people who test: their arm")
]


def add_placements(app: FastAPI, serve: Serve, clock: Callable[[], datetime]) -> None:
    """Add the paths to `app`."""

    @app.post("/v1/similar-items", responses=PROBLEMS, response_model=Recommendations)
    async def similar_items(
        asked: SimilarItems, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        wish = Wish(
            user_id=asked.unit,
            placement=SIMILAR,
            items=asked.items,
            session=events_of(asked.session, clock()),
            personal=asked.personalised,
            k=asked.k,
            exclude_seen=asked.exclude_seen,
            exclude=asked.exclude,
            filters=plain(asked.filters),
            explain=asked.explain,
            arm=x_variant,
        )
        return await serve(wish, asked.context, authorization)

    @app.post("/v1/rankings", responses=PROBLEMS, response_model=Recommendations)
    async def rankings(asked: Ranking, authorization: Authorization = None, x_variant: Variant = None) -> Response:
        wish = Wish(
            user_id=asked.unit,
            placement=RANKING,
            items=asked.items,
            session=events_of(asked.session, clock()),
            k=asked.k,
            explain=asked.explain,
            arm=x_variant,
        )
        return await serve(wish, asked.context, authorization)

    @app.post("/v1/popular", responses=PROBLEMS, response_model=Recommendations)
    async def popular(asked: Popular, authorization: Authorization = None, x_variant: Variant = None) -> Response:
        wish = Wish(
            user_id=asked.unit,
            placement=POPULAR,
            kind=asked.kind,
            k=asked.k,
            exclude=asked.exclude,
            filters=plain(asked.filters),
            arm=x_variant,
        )
        return await serve(wish, asked.context, authorization)

    @app.post("/v1/bought-together", responses=PROBLEMS, response_model=Recommendations)
    async def bought_together(
        asked: BoughtTogether, authorization: Authorization = None, x_variant: Variant = None
    ) -> Response:
        wish = Wish(
            user_id=asked.unit,
            placement=TOGETHER,
            items=asked.items,
            k=asked.k,
            exclude=asked.exclude,
            filters=plain(asked.filters),
            explain=asked.explain,
            arm=x_variant,
        )
        return await serve(wish, asked.context, authorization)


def plain(filters: Filters) -> dict[str, Any]:
    """As a model gets them."""
    return {
        name: wanted if isinstance(wanted, list) else wanted.model_dump(exclude_none=True, by_alias=True)
        for name, wanted in filters.items()
    }
