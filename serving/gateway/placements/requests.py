"""What a shop asks for in other places than "for you"."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from serving.gateway.api import (
    MAX_K,
    Context,
    Filters,
    Key,
    Somebody,
    Who,
)

_Few = Annotated[list[Key], Field(min_length=1, max_length=50)]
_K = Annotated[int, Field(ge=1, le=MAX_K)]
_Exclude = Annotated[list[Key], Field(max_length=200, description="items that must not be shown")]


class SimilarItems(Who):
    """On an item's page. Who is told may be somebody, whose own order counts beside the likeness, or nobody."""

    needed: ClassVar[bool] = False
    items: _Few = Field(description="what others should be like")
    personalise: bool = Field(default=True, description="whether the order is this shopper's, where there is one")
    k: _K = 10
    exclude_seen: bool | None = Field(default=None, description="hide items seen; the data set's rule if absent")
    exclude: _Exclude = Field(default=[])
    filters: Filters = Field(default={})
    context: Context = Field(default={})


class RankingRequest(Who):
    """A list that the shop has: search results, a mail, a campaign."""

    items: list[Key] = Field(min_length=1, max_length=1000, description="what is to be put in order")
    k: _K = Field(default=10, description="how many of the best are shown: these are logged")
    context: Context = Field(default={})


class Popular(Somebody):
    """The same for everybody; `filters` are the segment."""

    needed: ClassVar[bool] = False
    kind: Literal["popular", "trending", "new"] = "popular"
    k: _K = 10
    exclude: _Exclude = Field(default=[])
    filters: Filters = Field(default={})
    context: Context = Field(default={})


class BuyAgain(Who):
    """What the shopper has, where the shop sells things that are bought again."""

    k: _K = 10
    exclude: _Exclude = Field(default=[])
    filters: Filters = Field(default={})
    context: Context = Field(default={})


class BoughtTogether(Somebody):
    """On an item's page, or to complete a basket."""

    needed: ClassVar[bool] = False
    items: _Few = Field(description="the item, or what lies in the basket")
    explain: bool = Field(default=False, description="say of each item why: shares that add up to its score")
    k: _K = 10
    exclude: _Exclude = Field(default=[])
    filters: Filters = Field(default={})
    context: Context = Field(default={})
