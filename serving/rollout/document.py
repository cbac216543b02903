"""What serves: champion, challenger and the share of shoppers that meet the challenger.

Plain values and pure functions; `serving.rollout.table` keeps the document and its history.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

STAGES = (0.01, 0.05, 0.25, 0.50, 1.0)
"""Shares of shoppers that a challenger meets, one after the other."""

Status = Literal["champion", "refreshed", "challenger", "queued", "already released"]


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

    def __post_init__(self) -> None:
        assert self.registered.tzinfo is not None, "times are UTC"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """The declared state of one model name. `version` counts its changes; 0 is a name never released."""

    model: str
    champion: ModelVersion | None = None
    challenger: ModelVersion | None = None
    weight: float = 0.0
    """Share of shoppers that meet the challenger, 0 to 1."""
    stage: int | None = None
    """Index into `STAGES`; None while no experiment runs."""
    salt: str = ""
    """Hashed with the user's id to draw the arm; fresh for each experiment, so that arms are drawn anew."""
    since: datetime | None = None
    """When the present stage began."""
    queue: tuple[ModelVersion, ...] = ()
    """Candidates that wait for the running experiment, oldest first."""
    version: int = 0

    def __post_init__(self) -> None:
        assert (self.challenger is None) == (self.stage is None), "a challenger has a stage, and nothing else has"
        assert self.weight == (0.0 if self.stage is None else STAGES[self.stage]), "the stage gives the weight"
        assert self.challenger is None or self.champion is not None, "a challenger challenges a champion"

    @property
    def serving(self) -> tuple[ModelVersion, ...]:
        """The versions that have to be loaded: champion first."""
        return tuple(arm for arm in (self.champion, self.challenger) if arm is not None)

    @property
    def known(self) -> tuple[ModelVersion, ...]:
        """Every version that the document holds, waiting ones included."""
        return (*self.serving, *self.queue)

    def to_json(self) -> dict[str, Any]:
        """JSON values only; times as ISO 8601."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Rollout":
        """Inverse of `to_json`."""
        arms = {arm: _version(raw[arm]) if raw[arm] else None for arm in ("champion", "challenger")}
        since = datetime.fromisoformat(raw["since"]) if raw["since"] else None
        return cls(**{**raw, **arms, "since": since, "queue": tuple(_version(entry) for entry in raw["queue"])})


class Change(NamedTuple):
    """A new document, with who wants it and why, for the history."""

    rollout: Rollout
    who: str
    why: str


class Release(NamedTuple):
    """What a new model became, the document that says so, and the reason in one sentence."""

    status: Status
    rollout: Rollout
    why: str


def release(rollout: Rollout, model: ModelVersion, *, now: datetime, salt: Callable[[], str]) -> Release:
    """What a new model does to what serves.

    The first model becomes champion. A model of an arm's own recipe replaces that arm's version and leaves the
    experiment running (a refresh is not a candidate). Any other is a candidate: challenger at the first stage,
    or queued while an experiment runs. `salt` makes the salt of a new experiment.
    """
    if any(known.archive_digest == model.archive_digest for known in rollout.known):
        return Release("already released", rollout, f"{model.version} is part of the rollout already")
    if rollout.champion is None:
        first = replace(rollout, champion=model, since=now)
        return Release("champion", first, f"{model.version} is the first model of {rollout.model}")
    for arm in ("champion", "challenger"):
        serving: ModelVersion | None = getattr(rollout, arm)
        if serving is not None and serving.recipe_digest == model.recipe_digest:
            why = f"{model.version} refreshes the {arm} {serving.version}: same recipe"
            return Release("refreshed", _with_arm(rollout, arm, model), why)
    if rollout.challenger is not None:
        # A refresh of a waiting candidate takes its place; the older data it was trained on will never serve.
        others = tuple(waiting for waiting in rollout.queue if waiting.recipe_digest != model.recipe_digest)
        why = f"{model.version} waits: {rollout.challenger.version} is being compared with the champion"
        return Release("queued", replace(rollout, queue=(*others, model)), why)
    opened = replace(rollout, challenger=model, stage=0, weight=STAGES[0], salt=salt(), since=now)
    why = f"{model.version} is a new recipe: challenger of {rollout.champion.version} for {STAGES[0]:.0%} of shoppers"
    return Release("challenger", opened, why)


def _with_arm(rollout: Rollout, arm: str, model: ModelVersion) -> Rollout:
    return replace(rollout, champion=model) if arm == "champion" else replace(rollout, challenger=model)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _version(raw: dict[str, Any]) -> ModelVersion:
    return ModelVersion(**{**raw, "registered": datetime.fromisoformat(raw["registered"])})
