"""What a shop sends and gets: the JSON of the service, as its OpenAPI document tells it."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from feature_repo.keys import (
    ANONYMOUS,
    EVENT_TYPE,
    MOST_CHARACTERS,
    spelled,
)
from serving.gateway.dates import MOST_CHARACTERS as MOST_CHARACTERS_OF_A_DATE
from serving.gateway.dates import MOST_DAYS
from serving.scoring.forms import is_text

MAX_K = 50
Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _key(written: str) -> str:
    if not is_text(written):
        raise ValueError("expected text, found half of a character (a surrogate by itself)")
    key = spelled(written)
    if not 1 <= len(key) <= MOST_CHARACTERS:
        raise ValueError(f"expected 1 to {MOST_CHARACTERS} characters that can be seen")
    return key


Key = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": MOST_CHARACTERS}), AfterValidator(_key)]
"""An id of the shop's, in the one spelling that ingest gives it too."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Word = Annotated[str, StringConstraints(max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


Bound = Number | Annotated[str, StringConstraints(max_length=MOST_CHARACTERS_OF_A_DATE)]


class Range(_Strict):
    """Bounds of a number or a date, both included; one may be left out. A date is a day (2026-01-31; as `max` to its
    end) or a time (2026-01-31T12:00:00Z); without a zone it is in the shop's."""

    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        numbers = isinstance(self.min, float) and isinstance(self.max, float)
        if numbers and self.min > self.max:  # type: ignore[operator]
            raise ValueError("min must not be above max")
        return self


class Within(_Strict):
    """A date of the last so many days."""

    within_days: Annotated[float, Field(gt=0, le=MOST_DAYS, allow_inf_nan=False)]


Values = Annotated[list[Word], Field(min_length=1, max_length=100)]


class Not(_Strict):
    """Values that an item must not have; one without a value passes."""

    values: Values = Field(alias="not")


Filters = Annotated[dict[Id, Values | Range | Within | Not], Field(max_length=20)]
Context = Annotated[dict[Id, Word | bool | Number | None], Field(max_length=50)]


class SessionEvent(_Strict):
    """What somebody just did, whether or not it was told as an event too."""

    item_id: Key
    time: AwareDatetime
    event_type: Annotated[str, StringConstraints(pattern=EVENT_TYPE)] | None = None


_SESSION_CHARACTERS = MOST_CHARACTERS - len(ANONYMOUS)


class Somebody(_Strict):
    """A shopper, an anonymous session, or nobody: see `unit`. A session may be of a known shopper too."""

    needed: ClassVar[bool] = True
    """Whether it must be somebody."""

    session_id: Annotated[Key, Field(json_schema_extra={"minLength": 1, "maxLength": _SESSION_CHARACTERS})] | None = (
        Field(default=None, description="who is not known: the same id, the same arm")
    )
    user_id: Key | None = Field(default=None, description="a known shopper", validate_default=True)

    @field_validator("session_id")
    @classmethod
    def _short(cls, session: str | None) -> str | None:
        if session is not None and len(session) > _SESSION_CHARACTERS:
            raise ValueError(f"expected at most {_SESSION_CHARACTERS} characters")
        return session

    @field_validator("user_id")
    @classmethod
    def _somebody(cls, user: str | None, info: ValidationInfo) -> str | None:
        if user is None and cls.needed and info.data.get("session_id") is None and "session_id" in info.data:
            raise ValueError("give user_id, or session_id where nobody is known")
        if user is not None and user.startswith(ANONYMOUS):
            raise ValueError(f"{ANONYMOUS!r} begins the name of an anonymous session: give session_id")
        return user

    @property
    def unit(self) -> str:
        """Who meets an arm, is logged and can be erased: the shopper, the session, or "" for nobody."""
        if self.user_id is not None:
            return self.user_id
        return "" if self.session_id is None else ANONYMOUS + self.session_id


class Who(Somebody):
    session: list[SessionEvent] = Field(
        default=[], max_length=100, description="what was just looked at or bought, beside the history that is known"
    )
    explain: bool = Field(default=False, description="say of each item why: shares that add up to its score")


class RecommendationRequest(Who):
    k: int = Field(default=10, ge=1, le=MAX_K)
    exclude_seen: bool | None = Field(default=None, description="hide items seen; the data set's rule if absent")
    exclude: list[Key] = Field(default=[], max_length=200, description="items that must not be shown")
    filters: Filters = Field(
        default={},
        description="what an item must be: allowed values of a category or not such, bounds of a number or date",
    )
    personalise: bool = Field(default=True, description="false: nothing of the shopper is read, popular items answer")
    context: Context = Field(default={}, description="kept with the exposure")


class ReasonShare(BaseModel):
    by: str = Field(
        description="a table (together, content, own, basket, order), a part of the network (identity, features, "
        "network, appeal), likeness to what was given (alike), the shopper's own order (taste), or a count "
        "(popularity, popular, trending, new; again: of the shopper's own purchases)"
    )
    item_id: str | None = Field(description="which of the shopper's items, or of the items given; null: none by itself")
    share: float
    exact: bool = Field(
        description="false where a score that is no sum was shared: tables in proportion to what stands in their "
        "logarithm, a network by what the score loses without the item (what no single item decides has none)"
    )


class Item(BaseModel):
    item_id: str
    score: float | None = Field(description="null where a rule or the exploration put it there, unranked")
    title: str | None = None
    why: list[ReasonShare] | None = Field(default=None, description="where it was asked for and who answered can tell")


class Recommendations(BaseModel):
    request_id: str
    variant: Literal["champion", "challenger", "former", "holdout"]
    model: str
    version: str = Field(description="who answered; popular or tables where no model did")
    status: Literal["ok", "fallback", "error"]
    logged: bool | None = Field(
        description="false where the exposure was not written: it counts for nothing; null where that was not known in "
        "time: it may count"
    )
    items: list[Item]
    unknown_items: list[str] = Field(default=[], description="of a ranking: items given that there are none of")
    withheld_items: list[str] = Field(default=[], description="of a ranking: items given that are withdrawn or blocked")


class AvailabilityRequest(_Strict):
    """All of it holds at once; what is not named stays as it is."""

    withdrawn: list[Key] = Field(default=[], max_length=500, description="items that are not to be shown")
    available: list[Key] = Field(default=[], max_length=500, description="items that may be shown again")

    @model_validator(mode="after")
    def _plain(self) -> "AvailabilityRequest":
        if both := sorted({*self.withdrawn} & {*self.available}):
            raise ValueError(f"{both[0]} is named as withdrawn and as available")
        return self


class AvailabilityReply(BaseModel):
    number: int = Field(description="of the latest change of the shop's stock")


class PutItem(_Strict):
    """An item as it is now, whether or not there was one of this id."""

    item_id: Key
    features: Annotated[dict[Id, Any], Field(max_length=500)] | None = Field(
        description="every feature of the shop's items that is not derived from events; null where it is not known and "
        "the card lets it be missing. Null for all of it takes back what was put: the catalogue's word holds again"
    )


class PutItems(_Strict):
    """All of it holds at once."""

    items: list[PutItem] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _each_once(self) -> "PutItems":
        ids = [item.item_id for item in self.items]
        if len(set(ids)) < len(ids):
            raise ValueError(f"{next(each for each in ids if ids.count(each) > 1)} is named twice")
        return self


class ItemsTaken(BaseModel):
    number: int = Field(description="of the latest change of the shop's stock and items")
    waiting: list[str] = Field(
        description="versions that serve and take no such items: tables alone, and archives of before there was this. "
        "They know them with the next refresh of the catalogue"
    )


class EventRequest(_Strict):
    request_id: Id
    event_type: Annotated[str, StringConstraints(pattern=EVENT_TYPE)]
    item_id: Key | None = Field(default=None, description="one of the items shown")
    time: AwareDatetime | None = Field(default=None, description="now if absent")
    key: Key | None = Field(
        default=None,
        description="what tells two events of one type and item of a request apart; told again they are one event",
    )


class EventAccepted(BaseModel):
    accepted: bool = True


class Fault(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """The body of every answer of status 400 and above."""

    detail: str
    errors: list[Fault] = Field(default=[], description="where fields of the request are wrong")
