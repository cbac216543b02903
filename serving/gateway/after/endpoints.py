"""Withdrawing items and returning them, over HTTP."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException

from experiments.database import TableAway
from serving.gateway.after.news import News
from serving.gateway.api import AvailabilityReply, AvailabilityRequest

_Authorization = Annotated[str | None, Header(description="Bearer token, where the service asks for one")]


def add_availability(app: FastAPI, news: News, problems: dict[int | str, dict[str, Any]]) -> None:
    """Let shops tell of their stock; no replica shows what is withdrawn 2 s after the answer. The ids are in the body:
    some could not be in a path, as proxies clean those."""

    @app.put("/v1/availability", responses=problems)
    async def availability(told: AvailabilityRequest, authorization: _Authorization = None) -> AvailabilityReply:
        items = dict.fromkeys(told.withdrawn, False) | dict.fromkeys(told.available, True)
        try:
            return AvailabilityReply(number=await news.record(items))
        except TableAway as error:
            news.failed(error)
            raise HTTPException(503, "the change could not be written; send it again") from error
