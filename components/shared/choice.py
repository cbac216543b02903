"""What a run releases: tonight's model, or the neighbour tables in its place, or nothing.

Who would take the place of the other has to be surely better: a network that of the tables, the tables that of a
network that serves. So a shop whose window cannot tell the two apart begins with the tables, which are simple and
cheap, and one that a network serves keeps it, with its refreshes, until the tables are shown to be better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.shared.model_names import (
    CHAMPION,
    NEIGHBOURS,
    POPULARITY,
    REFERENCE,
)
from heterrec.evaluation.comparison import MeanDifference
from runtime.decision import Reason

K = 10
LONGER = "hold out more shoppers (split.test_days in the card): the difference may be there, and is not sure yet"
TRAIN = "train longer (--budget full), or see in the page's slices for whom it is worse"
TABLES = "nothing was trained that could be trained longer: give the card features, or the source more days or users"
OLD = "what serves goes on serving; train longer (--budget full) or begin from it (--warm-start)"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model that could be released, with what was asked of it and found."""

    name: str
    reasons: list[Reason]

    @property
    def passed(self) -> bool:
        return not self.missing

    @property
    def missing(self) -> list[Reason]:
        """What it was asked for in vain."""
        return [reason for reason in self.reasons if reason.level == "block" and not reason.held]


@dataclass(frozen=True, kw_only=True)
class ReleaseChoice:
    """What is released, beside the model that was judged."""

    judged: Judged
    released: Judged | None
    reasons: list[Reason]
    """Of the decision about this run: blocked where nothing is released."""

    @property
    def why(self) -> str:
        """Why another than the judged model is released, or nothing."""
        return "" if self.released is self.judged else " ".join(reason.message for reason in self.judged.missing)

    def to_json(self) -> dict[str, Any]:
        name = self.released.name if self.released else None
        return {"judged": self.judged.name, "released": name, "why": self.why}


def choose(model: Judged, tables: Judged | None) -> ReleaseChoice:
    """The model where it passed, else the tables where they did; `tables` is None where they are the model."""
    if model.passed or tables is None:
        return ReleaseChoice(judged=model, released=model if model.passed else None, reasons=model.reasons)
    if not tables.passed:
        return ReleaseChoice(judged=model, released=None, reasons=[*model.reasons, *tables.reasons])
    # What the model lacks is told, and blocks nothing: it is not what is released.
    told = [replace(reason, level="warn") if reason in model.missing else reason for reason in model.reasons]
    return ReleaseChoice(judged=model, released=tables, reasons=[*told, *tables.reasons])


def of_model(
    differences: Mapping[str, MeanDifference], champion: list[Reason], *, network_serves: bool
) -> list[Reason]:
    """What is asked of tonight's model. `champion` is what it is asked for against the champion, or its reference."""
    longer = TRAIN if NEIGHBOURS in differences else TABLES
    reasons = [above(POPULARITY, differences[POPULARITY], level="block", longer=longer)]
    if NEIGHBOURS in differences and network_serves:
        reasons.append(not_below(NEIGHBOURS, differences[NEIGHBOURS], check=f"no worse than the {NEIGHBOURS}"))
    apart = (CHAMPION, REFERENCE, POPULARITY)
    peers = [
        above(name, difference, level="block" if name == NEIGHBOURS and not network_serves else "warn", longer=longer)
        for name, difference in differences.items()
        if name not in apart
    ]
    return [*reasons, *champion, *peers]


def of_tables(
    differences: Mapping[str, MeanDifference], champion: list[Reason], *, network_serves: bool
) -> list[Reason]:
    """What is asked of the tables that would take the model's place; `differences` are theirs."""
    reasons = [above(POPULARITY, differences[POPULARITY], level="block", longer=TABLES)]
    if not network_serves:
        reasons += champion
    elif CHAMPION in differences:
        reasons.append(above(CHAMPION, differences[CHAMPION], level="block", longer=OLD))
    else:
        message = "The champion cannot be ranked on this data, so that nothing shows it to be worse."
        reasons.append(
            Reason(
                check=f"better than {CHAMPION}",
                held=False,
                found=None,
                allowed="interval above 0",
                message=message,
                remedy=OLD,
            )
        )
    return [
        replace(reason, check=f"{NEIGHBOURS}: {reason.check}", message=f"The {NEIGHBOURS} alone: {reason.message}")
        for reason in reasons
    ]


def above(name: str, difference: MeanDifference, *, level: Any, longer: str) -> Reason:
    """Asks for a difference that is surely above nought; `longer` is what to do where it does not even seem so."""
    verdict = "above" if difference.low > 0 else "not surely above" if difference.high > 0 else "not above"
    return Reason(
        check=f"better than {name}",
        held=difference.low > 0,
        found=interval(difference),
        allowed="interval above 0",
        level=level,
        message=f"NDCG@{K} is {verdict} that of {name}: difference {interval(difference)}.",
        remedy=LONGER if difference.mean > 0 else longer,
    )


def not_below(name: str, difference: MeanDifference, *, check: str = "no worse than the champion") -> Reason:
    verdict = "not below" if difference.high >= 0 else "below"
    return Reason(
        check=check,
        held=difference.high >= 0,
        found=interval(difference),
        allowed="interval not below 0",
        message=f"NDCG@{K} is {verdict} that of the {name}: difference {interval(difference)}.",
        remedy=TRAIN if name == NEIGHBOURS else OLD,
    )


def interval(difference: MeanDifference) -> str:
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def describe_choice(release: Mapping[str, Any] | None) -> str:
    """In a few words what was released in place of the judged model; nothing where that itself was, or none.

    `release` is `ReleaseChoice.to_json`, of the record of evaluate; runs of before it was kept have none.
    """
    if not release or release["released"] in (None, release["judged"]):
        return ""
    return f"the {release['released']}, not {release['judged']}"
