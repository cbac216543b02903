"""The features of a card: of items, of users and of the moment, and what may be said of each."""

from abc import abstractmethod
from typing import Literal

from pydantic import Field, model_validator

from feature_repo.event_types import require_event_types
from feature_repo.kinds import KINDS, OF_A_CLOCK, FeatureKind, Name, Storage
from feature_repo.limits import Rate, Strict
from feature_repo.wall_clock import By, WallClock, require_zone

Stored = Literal["items", "varying", "derived", "users", "interactions"]
"""A table of the events artifact that has features."""
ASKER_KINDS = tuple(name for name, kind in KINDS.items() if kind.request is not None)
"""Of features of who asks, which have no token of their own."""
CONTEXT_KINDS = tuple(name for name, kind in KINDS.items() if kind.single)
"""Of what is known of the moment, which a request says as one string or number."""
FEASTS = frozenset(("day", "entity_row_id", "event_expire_timestamp", "event_timestamp", "created_timestamp", "rn"))
"""Columns that Feast's join adds or drops on its way; `day` is the partition's."""
RESERVED = FEASTS | frozenset(
    (
        "user_id",
        "item_id",
        "event_id",
        "event_time",
        "created_time",
        "position",
        "basket",
        "split",
        "event_type",
        "origin",
        "available_at",
    )
)
"""Columns that the files between the steps have beside features (docs/contracts.md); a test holds this against them.
Nothing else that the program calls its own can be a feature's name: it has a mark that no card can write."""


class Derive(Strict):
    """How a feature is computed from the events instead of read from a column, anew at each midnight (UTC).

    Only what was known by that midnight counts, so that a value is the same whenever it is computed:
    `count`: events of the item in the `days` before; `repeat_rate`: the share of those whose user had one of the
    item before; `age`: days since the item was first known; `change`: of a varying number, relative to its value
    `days` before.
    """

    by: Literal["count", "repeat_rate", "age", "change"]
    days: int | None = Field(default=None, gt=0)
    events: str | None = None
    """Count only events whose `event_type` is this (views, purchases); all where it is left out."""
    of: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Derive":
        if (self.days is None) != (self.by == "age"):
            raise ValueError(f"derive: by {self.by} {'has no' if self.by == 'age' else 'needs'} `days`")
        if (self.of is None) != (self.by != "change"):
            raise ValueError("derive: `of` names the feature whose change is meant, and goes with `by: change` only")
        if self.events is not None and self.by not in ("count", "repeat_rate"):
            raise ValueError(f"derive: `events` chooses what is counted, which {self.by} does not")
        require_event_types([self.events] if self.events else [], field="derive: events")
        return self


def _require_free(name: str) -> None:
    if name in RESERVED or name.endswith("_y"):
        raise ValueError(
            f"feature name {name!r} is taken by the files between the steps or by Feast's join (so are "
            f"{', '.join(sorted(RESERVED))} and names ending in _y); give another name, and this one as `column`"
        )


class Described(Strict):
    """What is said of any feature, of an item or of a user."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Name
    column: str | None = None
    """Column in the source; the feature's name where it is left out."""
    separator: str = "|"
    """Splits a multi_categorical or an embedding that a CSV holds as one string."""
    max_missing_rate: Rate = 0.5
    min: float | None = None
    max: float | None = None
    """Bounds of a number; of an embedding, those of the vector's length."""
    max_drift: float = Field(default=0.25, gt=0)
    """Population stability index against the last accepted run above which validation warns."""
    block_drift: float = Field(default=1.0, gt=0)
    """The same, above which it blocks."""

    @property
    def traits(self) -> FeatureKind:
        """What its kind says of it."""
        return KINDS[self.kind]

    @property
    def storage(self) -> Storage:
        return self.traits.storage

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @property
    @abstractmethod
    def stored_in(self) -> Stored:
        """The table of the events artifact that holds its values."""

    @property
    def key(self) -> Literal["item_id", "user_id"]:
        """Whose feature it is."""
        return "user_id" if self.stored_in == "users" else "item_id"

    @model_validator(mode="after")
    def _named(self) -> "Described":
        _require_free(self.name)
        if self.block_drift < self.max_drift:
            raise ValueError(f"feature {self.name!r}: block_drift must not be below max_drift")
        return self


class UserFeature(Described):
    """One feature of the users: what is known of who asks, beside what they did.

    Without columns.user_available_at it is as of the run: leave out whatever a user's own events move (what was spent,
    the last visit), as the days held out would be told by it.
    """

    @property
    def stored_in(self) -> Stored:
        return "users"

    @property
    def of(self) -> Literal["user", "context"]:
        """Whose it is, of what is known where something is asked for."""
        return "user"

    @model_validator(mode="after")
    def _of_a_user(self) -> "UserFeature":
        if self.kind not in ASKER_KINDS:
            raise ValueError(
                f"user feature {self.name!r}: found kind {self.kind}, expected one of {', '.join(ASKER_KINDS)}"
            )
        return self


class ContextFeature(Described):
    """What is known of the moment of an event before it is known what the event is of, from its row: the device, the
    country, the channel. A request says it of its own moment (docs/contracts.md, "Context")."""

    @property
    def stored_in(self) -> Stored:
        return "interactions"

    @property
    def of(self) -> Literal["user", "context"]:
        return "context"

    @model_validator(mode="after")
    def _of_a_moment(self) -> "ContextFeature":
        if self.kind not in CONTEXT_KINDS:
            raise ValueError(
                f"context {self.name!r}: found kind {self.kind}, expected one of {', '.join(CONTEXT_KINDS)}"
            )
        return self


class TimeContext(Strict):
    """What a clock of the shop says at an event, and at a request where that does not say it itself: no column has it.
    So it is known of every event, those of the event log too, and the gate has nothing to hold of it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What the model and a request's `context` call it."""
    by: By
    timezone: str = "UTC"
    """IANA name of the zone whose clock it is, such as Europe/Berlin; summer time included."""

    @property
    def clock(self) -> WallClock:
        return WallClock(by=self.by, timezone=self.timezone)

    @property
    def described(self) -> dict[str, str]:
        """As `asking` of features.json has it."""
        return {"name": self.name, "kind": OF_A_CLOCK, "of": "context", "by": self.by, "timezone": self.timezone}

    @model_validator(mode="after")
    def _consistent(self) -> "TimeContext":
        _require_free(self.name)
        require_zone(self.timezone, field=f"time_context {self.name!r}")
        return self


class Feature(Described):
    """One item feature: one token of HTFL, one Feast field, one set of expectations."""

    table: Literal["items", "interactions"] = "items"
    """Which source table carries it; a feature read off the interactions must vary in time."""
    varies_in_time: bool = False
    dimension: int | None = Field(default=None, gt=0)
    derive: Derive | None = None
    """Computed and not read; such a feature is numeric and varies in time."""
    token: bool = True
    """Whether the model sees it; if not it is stored, validated and served all the same."""
    date: bool = False
    """A number that is a day or a moment: read as times are, kept as days since 1970, filtered by as a date."""

    @model_validator(mode="before")
    @classmethod
    def _derived_vary(cls, raw: object) -> object:
        return {"varies_in_time": True, **raw} if isinstance(raw, dict) and raw.get("derive") is not None else raw

    @property
    def stored_in(self) -> Stored:
        if self.derive is not None:
            return "derived"
        return "varying" if self.varies_in_time else "items"

    @model_validator(mode="after")
    def _consistent(self) -> "Feature":
        if (self.storage is Storage.VECTOR) != (self.dimension is not None):
            raise ValueError(f"feature {self.name!r}: an embedding needs `dimension`, other kinds must not have it")
        number = self.storage is Storage.NUMBER
        if self.derive is not None and not (number and self.varies_in_time and self.column is None):
            raise ValueError(f"feature {self.name!r}: a derived feature is numeric, varies in time and has no column")
        if self.token and self.derive is not None and self.derive.by in ("count", "repeat_rate"):
            # Candidates are as of a slice of the catalogue (docs/contracts.md, sequences): in training its counts are
            # days old, where it serves they are fresh. That they pay all the same has not been measured.
            raise ValueError(
                f"feature {self.name!r} counts events: as a token the model would learn it from counts that are days "
                "old, and serve with fresh ones; that it pays was not shown. Add `token: false`"
            )
        if self.date and (self.storage is not Storage.NUMBER or self.derive is not None or self.token):
            raise ValueError(
                f"feature {self.name!r}: a date is numeric, read and not derived, and no token (a model that learned "
                "from dates would meet later ones). Write kind: numeric, token: false; how old an item is, is "
                "derive: {by: age}"
            )
        if self.varies_in_time and not self.traits.single:
            raise ValueError(f"feature {self.name!r}: only numeric and categorical features may vary in time")
        if self.table == "interactions" and not self.varies_in_time:
            raise ValueError(f"feature {self.name!r} is read off the interactions: set varies_in_time: true")
        return self
