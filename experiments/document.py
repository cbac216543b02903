"""What serves: champion, challenger and the share of shoppers that meet the challenger.

Plain values and pure functions; `experiments.table` keeps the document and its history.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import (
    Any,
    Literal,
    NamedTuple,
    get_args,
)

STAGES = (0.01, 0.05, 0.25, 0.50, 1.0)
"""Shares of shoppers that a challenger meets, one after the other, unless the policy has others."""

Role = Literal["champion", "challenger", "former"]
Status = Literal["champion", "refreshed", "challenger", "queued", "resting", "already released"]
REST, LONGEST_REST = timedelta(days=7), timedelta(days=91)
"""How long a recipe that was sent back is not tried again: the first time, and at most; it doubles with every time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One released model: where its archive lies and what it was made with."""

    version: str
    archive: str
    """Path or URI of the `.mar`."""
    archive_digest: str
    """SHA-256 of the archive's bytes: a `.mar` is code, so compare before loading it."""
    recipe_digest: str
    """What makes two models the same arm of an experiment: recipe, features and code of the model."""
    registered: datetime
    data_until: datetime | None = None
    """The last moment of the data it was trained on: how fresh it is, also after its catalogue was refreshed; of tables
    alone, which every refresh counts anew, that of the refresh. Not known of what was released before this was kept."""
    network: bool = True
    """False for neighbour tables alone, which answer so much sooner that no network can be held to their pace."""

    @property
    def fresh_as_of(self) -> datetime:
        """The last moment of its data; where that was not kept, when it was released."""
        return self.data_until or self.registered

    def __post_init__(self) -> None:
        assert self.registered.tzinfo is not None, "times are UTC"


@dataclass(frozen=True, kw_only=True, slots=True)
class SentBack:
    """A recipe that was taken out again: until when it rests, and what all of its experiments found.

    A recipe is offered anew every night. If each offer opened an experiment that knew nothing of those before, the
    error of one experiment would be made again and again until it came out for the recipe: one of -10 % served at
    the end of every tenth year.
    """

    recipe_digest: str
    until: datetime
    times: int = 1
    effective: float = 0.0
    """Effective exposures behind `change`."""
    change: float = 0.0
    """How much better than the champion, as a share of its rate; negative for worse."""

    def with_evidence(self, effective: float, change: float) -> "SentBack":
        """The same, knowing of one more experiment."""
        total = self.effective + effective
        if not total:
            return self
        mean = (self.effective * self.change + effective * change) / total
        return replace(self, effective=total, change=mean)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """The declared state of one model name. `version` counts its changes; 0 is a name never released."""

    model: str
    champion: ModelVersion | None = None
    challenger: ModelVersion | None = None
    former: ModelVersion | None = None
    """The champion before, kept warm for a while after a promotion: back in one step."""
    reference: ModelVersion | None = None
    """What refreshes are held against: the model that last won an experiment, or was since surely better than that.
    A refresh as such never becomes it, so that many small losses do not add up."""
    weight: float = 0.0
    """Share of shoppers that meet the challenger, 0 to 1."""
    stage: int | None = None
    """Number of the stage, from 0; None while no challenger serves."""
    salt: str = ""
    """Hashed with the user's id to draw the arm; fresh for each experiment, so that arms are drawn anew."""
    since: datetime | None = None
    """When the present stage, or the watch after a promotion, began."""
    paused: bool = False
    """Whether a person holds the experiment where it is; guardrails still roll it back."""
    queue: tuple[ModelVersion, ...] = ()
    """Candidates that wait for the running experiment, oldest first."""
    sent_back: tuple[SentBack, ...] = ()
    """Recipes that were sent back while a model of the present champion's recipe served."""
    version: int = 0

    def __post_init__(self) -> None:
        assert (self.challenger is None) == (self.stage is None), "a challenger has a stage, and nothing else has"
        assert (self.weight > 0) == (self.stage is not None) and self.weight <= 1, "a stage has a weight"
        assert self.champion is not None or not (self.challenger or self.former), "all others stand beside a champion"
        assert self.challenger is None or self.former is None, "a watch ends before the next experiment opens"

    @property
    def roles(self) -> dict[Role, ModelVersion]:
        """The versions that have to be loaded, champion first."""
        arms: dict[Role, ModelVersion | None] = {
            "champion": self.champion,
            "challenger": self.challenger,
            "former": self.former,
        }
        return {role: arm for role, arm in arms.items() if arm is not None}

    @property
    def held_against(self) -> ModelVersion | None:
        """The reference; of a document written before there was one, the champion."""
        return self.reference or self.champion

    @property
    def serving(self) -> tuple[ModelVersion, ...]:
        """The versions that have to be loaded: champion first."""
        return tuple(self.roles.values())

    @property
    def alike(self) -> bool:
        """Whether what serves is of one kind, so that its latencies can be compared."""
        return len({arm.network for arm in self.serving}) <= 1

    @property
    def known(self) -> tuple[ModelVersion, ...]:
        """Every version that the document holds, waiting ones included."""
        return (*self.serving, *self.queue)

    def sent_back_of(self, recipe: str) -> SentBack | None:
        """What is known of a recipe that was sent back; None of any other."""
        return next((each for each in self.sent_back if each.recipe_digest == recipe), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values only; times as ISO 8601."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Rollout":
        """Inverse of `to_json`."""
        # Rows written before there was a former champion, or a reference, do not have one.
        named = (*get_args(Role), "reference")
        arms = {name: _version(raw[name]) if raw.get(name) else None for name in named}
        since = datetime.fromisoformat(raw["since"]) if raw["since"] else None
        queue = tuple(_version(entry) for entry in raw["queue"])
        sent_back = tuple(
            SentBack(**{**entry, "until": datetime.fromisoformat(entry["until"])}) for entry in raw.get("sent_back", ())
        )
        return cls(**{**raw, **arms, "since": since, "queue": queue, "sent_back": sent_back})


class Emptied(RuntimeError):
    """The table that named a champion names none."""


def succeeding(row: Rollout, before: Rollout | None) -> Rollout:
    """`row`, which was read after `before` (None: nothing was read yet).

    Raises `Emptied` where it has lost the champion: no move takes the only one away, so what was read is a table that
    was lost or is about to be restored, and what serves has to go on.
    """
    known = before is not None and before.model == row.model and before.champion is not None
    if known and row.champion is None:
        raise Emptied(f"the table names no champion of {row.model} any more: it was emptied, restore it")
    return row


class DocumentChange(NamedTuple):
    """A new document, with who wants it and why, for the history."""

    rollout: Rollout
    who: str
    why: str


class ReleaseOutcome(NamedTuple):
    """What a new model became, the document that says so, and the reason in one sentence."""

    status: Status
    rollout: Rollout
    why: str


def release(
    rollout: Rollout, model: ModelVersion, *, now: datetime, salt: Callable[[], str], better: bool = False
) -> ReleaseOutcome:
    """What a new model does to what serves.

    The first model becomes champion. A model of an arm's own recipe replaces that arm's version and leaves the
    experiment running (a refresh is not a candidate). Any other is a candidate: challenger at the first stage,
    or queued while an experiment runs or its winner is watched; of a recipe that rests, nothing. `salt` makes the salt
    of a new experiment. `better`: a refresh of the champion that is surely better than the reference becomes it, but
    for one that is watched yet.
    """
    if any(known.archive_digest == model.archive_digest for known in rollout.known):
        return ReleaseOutcome("already released", rollout, f"{model.version} is part of the rollout already")
    if rollout.champion is None:
        first = replace(rollout, champion=model, reference=model, since=now)
        return ReleaseOutcome("champion", first, f"{model.version} is the first model of {rollout.model}")
    for role, arm in rollout.roles.items():
        if arm.recipe_digest == model.recipe_digest:
            why = f"{model.version} refreshes the {role} {arm.version}: same recipe"
            return ReleaseOutcome("refreshed", _with_arm(rollout, role, model, better), why)
    before = rollout.sent_back_of(model.recipe_digest)
    if before is not None and now < before.until:
        return ReleaseOutcome("resting", rollout, f"{model.version} is not tried: {rest(before)}")
    if rollout.challenger is not None or rollout.former is not None:
        # A refresh of a waiting candidate takes its place; the older data it was trained on will never serve.
        others = tuple(waiting for waiting in rollout.queue if waiting.recipe_digest != model.recipe_digest)
        busy = (
            f"{rollout.challenger.version} is being compared with the champion"
            if rollout.challenger is not None
            else f"{rollout.champion.version} was just promoted and is being watched"
        )
        queued = replace(rollout, queue=(*others, model))
        return ReleaseOutcome("queued", queued, f"{model.version} waits: {busy}")
    why = f"{model.version} is a new recipe: challenger of {rollout.champion.version} for {STAGES[0]:.0%} of shoppers"
    return ReleaseOutcome("challenger", opened(rollout, model, now=now, salt=salt), why)


def rest(of: SentBack) -> str:
    """Why a recipe rests, and until when, as one says it."""
    times = "once" if of.times == 1 else f"{of.times} times"
    found = f", at {of.change:+.1%} of the champion's rate over all of its experiments" if of.effective else ""
    return f"its recipe was sent back {times}{found}, and rests until {of.until:%Y-%m-%d %H:%M} UTC"


def opened(rollout: Rollout, challenger: ModelVersion, *, now: datetime, salt: Callable[[], str]) -> Rollout:
    """A new experiment at its first stage."""
    return replace(rollout, challenger=challenger, stage=0, weight=STAGES[0], salt=salt(), since=now, paused=False)


def _with_arm(rollout: Rollout, role: Role, model: ModelVersion, better: bool) -> Rollout:
    match role:
        case "champion":
            won = better and rollout.former is None  # while it is watched it may still go back
            return replace(rollout, champion=model, reference=model if won else rollout.held_against)
        case "challenger":
            return replace(rollout, challenger=model)
        case "former":
            return replace(rollout, former=model)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _version(raw: dict[str, Any]) -> ModelVersion:
    times = {name: datetime.fromisoformat(raw[name]) for name in ("registered", "data_until") if raw.get(name)}
    return ModelVersion(**{**raw, **times})
