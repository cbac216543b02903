"""What a canary has to show before its weight rises, and what sends it back: one frozen set of numbers."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from itertools import pairwise

from experiments.document import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Durations in hours, rates as shares of exposures."""

    stages: tuple[float, ...] = STAGES
    stage_hours: float = 24.0
    """Least time at a stage."""
    stage_exposures: int = 500
    """Fewest exposures of the challenger at a stage."""
    patience_hours: float = 28 * 24.0
    """When a canary that is neither better nor worse by then goes back."""
    watch_hours: float = 48.0
    """How long the former champion stays loaded after a promotion."""
    silence_hours: float = 6.0
    """A log that ends longer ago than this says nothing about now: no rise, no promotion."""

    outcome: str = "click"
    """Event type that counts as success of an exposure."""
    attribution_hours: float = 1.0
    """An outcome counts this long after its exposure; younger exposures are left out of the comparison."""
    novelty_hours: float = 12.0
    """The first hours of a stage do not count for the comparison: for many of its shoppers the challenger is new."""
    decision_users: int = 100
    """Fewest users of the challenger behind a decision on the outcome: the interval is asymptotic."""
    planned_exposures: float = 5_000.0
    """Effective exposures (challenger's times champion's over both) at which the interval is tightest, at least."""
    planned_successes: float = 500.0
    """Successes among those, at least: where they are rare it takes more exposures. An interval that is tight before
    there are any is no interval: at a rate of .03 % it was wrong in every fourth canary without a difference."""
    alpha: float = 0.05
    """Chance that the interval of the outcome ever misses the true difference, over the whole life of a canary."""

    allowed_loss: float = 0.0
    """Promote when the challenger's rate is surely above the champion's less this share of it (0: it must be
    better)."""
    patience_loss: float = 0.05
    """The same at the end of patience, for a challenger of fresher data: one that is no worse serves then."""
    fresh_hours: float = 14 * 24.0
    """Where at the end of patience nothing is sure, the likelier side of that loss decides for a challenger whose data
    is fresher by this; of two models of like age the champion stays."""

    guardrail_alpha: float = 0.01
    """The error budget: chance that any guardrail ever sends back a canary that is within all of its margins."""
    guardrail_users: int = 30
    """Fewest users of the challenger behind a guardrail."""
    guardrail_exposures: float = 500.0
    """Effective exposures at which a guardrail is sharpest."""
    errors_margin: float = 0.005
    empties_margin: float = 0.005
    p50_factor: float = 1.2
    """How much slower than the champion's median the challenger's may be."""
    p99_factor: float = 1.3
    coverage_share: float = 0.7
    """Least effective number of different items shown, as a share of the champion's."""

    ratio_alpha: float = 0.001
    """Chance that the sample-ratio check ever withholds the decision of a canary whose log is whole."""

    def __post_init__(self) -> None:
        rising = all(earlier < later for earlier, later in pairwise(self.stages))
        if len(self.stages) < 2 or not rising or self.stages[0] <= 0 or self.stages[-1] != 1:
            raise ValueError(f"policy: stages={list(self.stages)}; expected shares that rise to 1, as 0.01, 0.5, 1")
        for name in ("alpha", "guardrail_alpha", "ratio_alpha", "coverage_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"policy: {name}={getattr(self, name)}; expected a share between 0 and 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"policy: {field.name}={value}; expected no negative number")

    def hours(self, name: str) -> timedelta:
        """The duration `<name>_hours`."""
        return timedelta(hours=getattr(self, f"{name}_hours"))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """The policy of a JSON object; names that are left out keep their defaults. `ValueError` says what is wrong."""
        try:
            raw = json.loads(text or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"policy: not JSON ({error})") from error
        if not isinstance(raw, dict):
            raise ValueError(f'policy: found {type(raw).__name__}, expected an object such as {{"stage_hours": 6}}')
        known = {field.name: field.type for field in fields(cls)}
        for name, value in raw.items():
            if name not in known:
                raise ValueError(f"policy: {name!r} is unknown; known are {', '.join(known)}")
            wanted = list if name == "stages" else str if name == "outcome" else int | float
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ValueError(
                    f"policy: {name}={value!r} is of the wrong type; the default is {getattr(cls(), name)!r}"
                )
        if "stages" in raw:
            raw["stages"] = tuple(raw["stages"])
        return cls(**raw)
