"""The dataset card: the one declaration from which views, validation, tokens and serving contract derive."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from feature_repo.card_features import ContextFeature, Described, Feature, TimeContext, UserFeature
from feature_repo.card_source import CardSource, Csv, CsvTables, SourceColumns
from feature_repo.event_types import CardEventType, require_event_types, require_some_predicted
from feature_repo.expectations import Expectation, Table, require_columns
from feature_repo.kinds import Storage
from feature_repo.limits import (
    Calendar,
    Limits,
    Strict,
    Tolerances,
)
from runtime.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

VERSION: Literal[3] = 3
"""Of the card's language: 2 said which types of events count (columns.event_types), 3 what each means (events)."""
DATASETS = Path(__file__).parent / "datasets"


class CardError(InputError):
    """A card that cannot be used: which field, what was found, what was expected."""


_ITEM_COLUMNS, _USER_COLUMNS = ("item_id", None), ("user_id", None)
OF_NO_INTERACTION = ("nobody", "item_key", "item_available_at", "user_key", "user_available_at")


class OutcomeLog(Strict):
    """What the recommendation service's own log of outcomes means for this data set."""

    interactions: list[str] = Field(default=["purchase"], min_length=1)
    """Types of outcomes that are interactions: they change the shopper's online history at once."""
    trains: bool = False
    """Whether they are also a part of the source of the next training run. Leave it off where the source has them
    anyway, as a shop's table of all its purchases does."""

    @model_validator(mode="after")
    def _known(self) -> "OutcomeLog":
        require_event_types(self.interactions, field="event_log: interactions")
        return self


class Split(Strict):
    """`time`: the last days are held out. `order`: each user's last event is test, the one before validation."""

    by: Literal["time", "order"]
    validation_days: int = Field(default=7, gt=0)
    test_days: int = Field(default=7, gt=0)


class Serving(Strict):
    """How the best items are found among those of the catalogue."""

    retrieval: Literal["auto", "exact", "approximate"] = "auto"
    """`auto`: exact up to 100,000 items, through an index beyond."""
    scan: Literal["float32", "bfloat16"] = "float32"
    """What an exact search reads; bfloat16 is half the memory traffic, and its best are scored exactly again."""
    max_p99_ms: float | None = Field(default=None, gt=0)
    """Latency, 99 of 100 requests asked one by one, above which infra_validate blocks; a ratio to what serves holds in
    any case, and says the same on a busy machine."""


class Release(Strict):
    """What a refresh is asked for before it serves; see components/evaluate/blessing.py."""

    margin: float = Field(default=0.05, gt=0, lt=1)
    """Share of the NDCG@10 of a month's best release that what serves keeps within; it is asked for nine tenths."""
    pool_days: float = Field(default=7.0, ge=0)
    """Tonight's window is one look, the nights of so many days the second; the third is a month's."""
    fresh_days: float = Field(default=35.0, ge=0)
    """Where they cannot tell, a refresh that the month speaks for serves once the champion's data is older by this."""
    power: Literal["say", "require"] = "say"
    """What becomes of a run whose held-out shoppers are too few to tell a model from popularity: said before training,
    or blocked before it."""


class DatasetCard(Strict):
    """See docs/contracts.md, "The card". Read with `load_card`."""

    version: Literal[3] = VERSION
    """`python -m pipelines upgrade CARD` brings a card of before to this version."""
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    source: CardSource
    columns: SourceColumns = SourceColumns(event_time="event_time")
    events: dict[str, CardEventType] | None = Field(default=None, min_length=1)
    """What each kind of event means, by its value in columns.event_type, e.g. {view: {}, purchase: {predict: true}}.
    Left out, all events are of one kind: history, and predicted."""
    features: list[Feature]
    user_features: list[UserFeature] = Field(default_factory=list)
    """What is known of the users, from the users table (source.users)."""
    context: list[ContextFeature] = Field(default_factory=list)
    """What is known of the moment of each event, from the interactions, and of the moment of a request."""
    time_context: list[TimeContext] = Field(default_factory=list)
    """The same, read off a clock: hour and weekday of the event, and of now at a request that does not say it."""
    title: str | None = None
    """The feature that people read as the item's name."""
    segment: str | None = None
    """The feature whose values each have popular items of their own; `segment_feature` where it is left out."""
    split: Split
    repeats: bool = False
    """Whether a shopper may want the same item again; where not, seen items are masked in ranking."""
    ties: Literal["basket", "order"] = "order"
    """`basket`: events of a user at one time (or with one basket id) have no order among them."""
    calendar: Calendar = Calendar()
    limits: Limits = Limits()
    tolerances: Tolerances = Tolerances()
    expectations: list[Expectation] = Field(default_factory=list)
    """Your own expectations of the data, as Great Expectations has them; the gate asks them besides its own."""
    event_log: OutcomeLog = OutcomeLog()
    serving: Serving = Serving()
    release: Release = Release()

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetCard":
        names = [feature.name for feature in self.features]
        every = names + [feature.name for feature in (*self.asking, *self.time_context)]
        if doubled := sorted({name for name in every if every.count(name) > 1}):
            raise ValueError(f"features: {', '.join(doubled)} declared twice")
        if bool(self.user_features) != self.source.has_users:
            raise ValueError(
                "user_features and source.users (or source.sql.users) go together: the table, and what is read of it"
            )
        if self.title is not None and self.title not in names:
            raise ValueError(f"title: {self.title!r} is none of the features {names}")
        if self.segment is not None and self.segment not in (kept := self._lasting_categories):
            raise ValueError(f"segment: {self.segment!r} is none of the categorical features that do not vary {kept}")
        changing = {feature.name for feature in self.varying if feature.storage is Storage.NUMBER}
        for feature in self.derived:
            derive = feature.derive
            assert derive is not None
            if derive.of is not None and derive.of not in changing:
                raise ValueError(f"feature {feature.name!r}: derive.of {derive.of!r} is no varying number of this card")
            if derive.events is not None and self.columns.event_type is None:
                raise ValueError(f"feature {feature.name!r}: derive.events needs columns.event_type")
        self._require_types()
        require_columns(self.expectations, self._stored())
        if self.split.by == "time" and self.columns.event_time is None:
            raise ValueError("split: by time needs columns.event_time; order-only data splits by order")
        if self.time_context and self.columns.event_time is None:
            raise ValueError("time_context needs columns.event_time; order-only data knows no hours")
        if self.event_log.trains and self.columns.event_time is None:
            raise ValueError("event_log: trains needs columns.event_time; the log knows times and no positions")
        if self.limits.max_catalogue_age_days is not None and self.columns.item_available_at is None:
            raise ValueError("limits: max_catalogue_age_days needs columns.item_available_at, which dates the items")
        return self

    def _stored(self) -> dict[Table, dict[str, Storage]]:
        """The tables that there are, and how their features are stored."""
        found: dict[Table, dict[str, Storage]] = {"interactions": {}, "items": {}}
        for feature in self.described:
            found.setdefault(feature.stored_in, {})[feature.name] = feature.storage
        found["interactions"] |= {feature.name: feature.storage for feature in self.observed}
        return found

    def _require_types(self) -> None:
        """Types of events, their column and the event log's interactions fit each other."""
        if (self.columns.event_type is None) != (self.events is None):
            raise ValueError(
                "columns.event_type and events go together: say what each kind of event means, e.g. events: {view: {}, "
                "purchase: {predict: true}} (`python -m pipelines upgrade CARD` writes a card of before anew)"
            )
        if self.events is None:
            return
        require_some_predicted(self.events)
        others = sorted(set(self.event_log.interactions) - set(self.history_types or ()))
        if others and self.event_log.trains:
            raise ValueError(
                f"event_log: {others[0]!r} would change histories online and count for nothing in training; let it be "
                "in the history by `events` too, or leave it out of event_log.interactions"
            )

    @model_validator(mode="after")
    def _tables_fit(self) -> "DatasetCard":
        """What is said of several tables of interactions is about columns and features that there are."""
        tables = self.source.interactions if isinstance(self.source.interactions, list) else []
        roles = {name for name in SourceColumns.model_fields if name not in OF_NO_INTERACTION}
        read = {f.name for f in self.read_off_interactions(has_items=self.source.has_items)}
        for table in tables:
            what = f"source.interactions, {table.name!r}: "
            if wrong := sorted(set(table.columns) - roles - read):
                raise ValueError(
                    f"{what}columns: {wrong[0]!r} is none of {', '.join(sorted(roles))} and no feature that is "
                    "read off the interactions"
                )
            unnamed = [role for role in table.columns if role in roles and getattr(self.columns, role) is None]
            if unnamed or (table.event_type is not None and self.columns.event_type is None):
                role = unnamed[0] if unnamed else "event_type"
                raise ValueError(
                    f"{what}{role} is said, which the card's columns do not name; write columns.{role} too"
                )
        return self

    @model_validator(mode="after")
    def _without_effect(self) -> "DatasetCard":
        """What was written and does nothing is told, and not passed over."""
        source, idle = self.source, []
        if source.adapter == "marketplace":
            idle += [
                f"source.{name}" for name in ("interactions", "items", "users") if getattr(source, name) is not None
            ]
            idle += ["source.csv (it reads no file)"] if source.csv != CsvTables() else []
        elif source.options and source.adapter != "complete_journey":
            idle.append(f"source.options ({source.adapter} has none)")
        if not source.has_items and (self.columns.item_key, self.columns.item_available_at) != _ITEM_COLUMNS:
            idle.append("columns.item_key and item_available_at (there is no items table)")
        if not source.has_items and source.csv.items != Csv():
            idle.append("source.csv.items (there is no items table)")
        names = self.columns
        if not source.has_users and (names.user_key, names.user_available_at) != _USER_COLUMNS:
            idle.append("columns.user_key and user_available_at (there is no users table)")
        if not source.has_users and source.csv.users != Csv():
            idle.append("source.csv.users (there is no users table)")
        dated = {names.event_time, names.created_time, names.item_available_at, names.user_available_at}
        if source.time_format is not None and dated == {None}:
            idle.append("source.time_format (the card names no column of times)")
        if self.split.by == "order" and self.split != Split(by="order"):
            idle.append("split.validation_days and test_days (each shopper's last two events are held out)")
        if self.columns.basket is not None and self.ties == "order":
            idle.append("columns.basket (baskets count where ties: basket)")
        for feature in self.described:
            what = f"feature {feature.name!r}: "
            if feature.separator != "|" and not feature.storage.several:
                idle.append(f"{what}separator (of a list or vector alone)")
            if (feature.min, feature.max) != (None, None) and not feature.storage.numeric:
                idle.append(f"{what}min and max (of numbers alone)")
        if idle:
            raise ValueError(f"without effect: {'; '.join(idle)}. Leave it out, or change what makes it idle")
        return self

    @property
    def history_types(self) -> list[str] | None:
        """The kinds of events that enter histories; None where all events are of one kind."""
        return None if self.events is None else [name for name, each in self.events.items() if each.history]

    @property
    def predicted_types(self) -> list[str] | None:
        """The kinds of events that are targets; None where all events are of one kind."""
        return None if self.events is None else [name for name, each in self.events.items() if each.predict]

    @property
    def typed(self) -> bool:
        """Whether a history has events of several kinds, which the model tells apart."""
        return len(self.history_types or ()) > 1

    @property
    def varying(self) -> list[Feature]:
        """Read from the source, and with a value of its own at each moment."""
        return [feature for feature in self.features if feature.stored_in == "varying"]

    @property
    def sourced(self) -> list[Feature]:
        """Read from the source, and not computed."""
        return [feature for feature in self.features if feature.derive is None]

    @property
    def derived(self) -> list[Feature]:
        return [feature for feature in self.features if feature.stored_in == "derived"]

    @property
    def over_time(self) -> list[Feature]:
        """Varying and derived: what every event of a history carries as it was."""
        return [feature for feature in self.features if feature.varies_in_time]

    @property
    def static(self) -> list[Feature]:
        return [feature for feature in self.features if not feature.varies_in_time]

    @property
    def asking(self) -> list[UserFeature | ContextFeature]:
        """What is known of who asks and of the moment of asking."""
        return [*self.user_features, *self.context]

    @property
    def described(self) -> list[Described]:
        """Every feature that is stored and validated."""
        return [*self.features, *self.user_features, *self.context]

    @property
    def observed(self) -> list[Described]:
        """What each row of interactions/ has beside its keys and times."""
        return [*(feature for feature in self.sourced if feature.table == "interactions"), *self.context]

    def read_off_interactions(self, *, has_items: bool) -> list[Described]:
        """What is read off the source's interactions, where it has a table of items and where not."""
        return self.observed if has_items else [*self.sourced, *self.context]

    @property
    def segment_feature(self) -> str | None:
        """What divides the catalogue: `segment`, else the first categorical feature that does not vary, if any."""
        return self.segment or next(iter(self._lasting_categories), None)

    @property
    def _lasting_categories(self) -> list[str]:
        return [feature.name for feature in self.static if feature.traits.category]


def load_card(name_or_path: str) -> DatasetCard:
    """Read a card by its name in feature_repo/datasets or by a path to a YAML file.

    Relative paths in `source` are taken from the card's folder. Raises `CardError`.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATASETS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in DATASETS.glob("*.yaml")))
        raise CardError(f"dataset {name_or_path!r}: no card at {path}. Known: {known}; or give a path to a .yaml file.")
    return parse_card(path)


def parse_card(path: Path, *, folder: Path | None = None) -> DatasetCard:
    """Read the card in a file; its relative paths are taken from `folder`, the file's own where none is given."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CardError(f"{path}: is not valid YAML: {error}") from error
    version = raw.get("version", VERSION) if isinstance(raw, dict) else VERSION
    if isinstance(version, int) and version > VERSION:
        raise CardError(f"{path}: is of version {version}; this program reads {VERSION}. Update the program.")
    if isinstance(version, int) and version < VERSION:
        raise CardError(f"{path}: is of version {version}. Run `python -m pipelines upgrade {path}`.")
    try:
        card = DatasetCard.model_validate(raw)
    except ValidationError as error:
        raise CardError("\n".join(f"{path}: {_explained(fault)}" for fault in error.errors())) from error
    beside = folder or path.parent

    def located(place: object) -> object:
        if isinstance(place, list):
            return [table.model_copy(update={"place": located(table.place)}) for table in place]
        return (beside / place).resolve() if isinstance(place, Path) else place

    places = {key: located(getattr(card.source, key)) for key in ("interactions", "items", "users")}
    return card.model_copy(update={"source": card.source.model_copy(update=places)})


def _explained(fault: "ErrorDetails") -> str:
    """A fault of a field in the words of this project, where pydantic's are those of Python."""
    found = f" (found {_short(fault['input'])})"
    message = {
        "extra_forbidden": f"no such field{found}; feature_repo/datasets/example.yaml has them all",
        "missing": "is missing",
        "model_type": f"expected fields, as feature_repo/datasets/example.yaml has them{found}",
        "string_pattern_mismatch": f"expected lower case letters a to z, digits and _, a letter first{found}",
        "value_error": fault["msg"].removeprefix("Value error, "),
    }.get(fault["type"], f"{fault['msg']}{found}")
    return f"{'.'.join(map(str, fault['loc'])) or 'card'}: {message}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
