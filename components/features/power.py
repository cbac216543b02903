"""Can the held-out shoppers decide? Said before training, which takes minutes to hours, and not after it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scipy.stats import norm

from feature_repo.card import DatasetCard
from heterrec.data.sequences import read_sequences

SPREAD = 0.25
"""Standard deviation of a shopper's difference in NDCG@10 between a model and popularity; .23 in the run of ml-100k
for which this was made (42 shoppers, an interval of .070 to each side)."""
GAIN = 0.05
"""A gain over popularity as trained models have it: .058 on Amazon Beauty, .055 on Online Retail."""
LEVEL, ENOUGH = 0.05, 0.8


@dataclass(frozen=True, kw_only=True)
class Power:
    """What the gate after training will be able to tell."""

    queries: int
    """Held-out shoppers with a history."""
    detectable: float
    """Difference in NDCG@10 that is found four times in five."""
    power: float
    """Chance that a model ahead of popularity by `GAIN` is found to be."""
    needed: int
    """Shoppers with which that chance would be `ENOUGH`."""

    by: Literal["time", "order"] = "time"
    """How the card's split holds out."""

    @property
    def enough(self) -> bool:
        return self.power >= ENOUGH

    @property
    def found(self) -> str:
        """Who judges, and what that can tell."""
        return (
            f"{self.queries:,} held-out shoppers have a history: a difference of {self.detectable:.3f} in NDCG@10 is "
            f"found four times in five; a model ahead of popularity by {GAIN:g} would be blessed in {self.power:.0%}"
        )

    @property
    def advice(self) -> str:
        """What to change where that is too little."""
        more = {
            "time": "raise split.test_days in the card, or take more users or days",
            "order": "take more users: each has one basket held out already (split.by: order)",
        }[self.by]
        return f"about {self.needed:,} would do: {more}"

    @property
    def sentence(self) -> str:
        return f"{self.found}{'' if self.enough else f'; {self.advice}'}."

    def to_json(self) -> dict[str, Any]:
        told = {"found": self.found, "advice": f"{self.advice}; or train all the same (release.power: say in the card)"}
        return {**asdict(self), "enough": self.enough, "sentence": self.sentence, **told}


def power(queries: int, by: Literal["time", "order"] = "time") -> Power:
    """Of a two-sided paired comparison at `LEVEL` over `queries` shoppers."""
    z, aim = norm.ppf(1 - LEVEL / 2), norm.ppf(ENOUGH)
    error = SPREAD / max(queries, 1) ** 0.5
    return Power(
        queries=queries,
        detectable=float((z + aim) * error),
        power=float(norm.cdf(GAIN / error - z)) if queries else 0.0,
        needed=round(((z + aim) * SPREAD / GAIN) ** 2),
        by=by,
    )


def of(sequences: Path, card: DatasetCard) -> Power:
    """The power of the comparison on a `sequences` artifact."""
    return power(len(read_sequences(sequences).queries("test")), card.split.by)


def goes_on(found: Power, card: DatasetCard) -> bool:
    """Whether training is worth its time: the card chooses whether too little is only said, or stops the run."""
    return found.enough or card.release.power == "say"
