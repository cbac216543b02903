"""Withdrawing an item and returning it, over HTTP."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Path

from serving.gateway.after.news import News
from serving.gateway.api import Availability, Key
from serving.rollout.database import TableAway

PATH = "/v1/items/{item_id:path}/availability"
_Item = Annotated[Key, Path()]
_Authorization = Annotated[str | None, Header(description="Bearer token, where the service asks for one")]


def add_availability(app: FastAPI, news: News, problems: dict[int | str, dict[str, Any]]) -> None:
    """Let shops tell of their stock; no replica shows what is withdrawn 2 s after the answer."""

    async def tell(item_id: str, available: bool) -> Availability:
        try:
            number = await news.tell(item_id, available)
        except TableAway as error:
            news.failed(error)
            raise HTTPException(503, "the change could not be written; send it again") from error
        return Availability(item_id=item_id, available=available, number=number)

    @app.delete(PATH, responses=problems)
    async def withdraw(item_id: _Item, authorization: _Authorization = None) -> Availability:
        return await tell(item_id, False)

    @app.put(PATH, responses=problems)
    async def put_back(item_id: _Item, authorization: _Authorization = None) -> Availability:
        return await tell(item_id, True)
