"""A gate's answer: passed or blocked, each reason with its numbers (idea 5: a gate decides, a fault raises)."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

NAME = "decision.json"
EARLIER = "an earlier version of the program decided this, and did not say"
Level = Literal["block", "warn", "info"]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One check: its name, whether it held, what was found and allowed, and how much that weighs."""

    check: str
    held: bool
    found: Any
    allowed: Any
    message: str
    """What was found, with its numbers, as a sentence."""
    remedy: str = ""
    """What to do where it does not hold: the command or the field of the card that would change it."""
    level: Level = "block"
    evidence: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.level != "info" and not self.remedy:
            raise ValueError(f"check {self.check!r} can stop or warn, and does not say what to do then: give `remedy`")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of `gate`; blocked when any check of level "block" did not hold."""

    gate: str
    reasons: list[Reason]

    @property
    def checks(self) -> list[Reason]:
        """What was held against a bound; the rest is only told, and counts nowhere."""
        return [reason for reason in self.reasons if reason.level != "info"]

    @property
    def held(self) -> list[Reason]:
        return [reason for reason in self.checks if reason.held]

    @property
    def open(self) -> list[Reason]:
        """What did not hold: first what blocks, then what warns."""
        found = [reason for reason in self.checks if not reason.held]
        return sorted(found, key=lambda reason: reason.level != "block")

    @property
    def count(self) -> str:
        """As every page says it."""
        return f"{len(self.held)} of {len(self.checks)} checks held"

    @property
    def passed(self) -> bool:
        return all(reason.held for reason in self.reasons if reason.level == "block")

    @property
    def blocking(self) -> list[Reason]:
        return [reason for reason in self.reasons if reason.level == "block" and not reason.held]

    def summary(self) -> dict[str, Any]:
        """What a run's record keeps: the outcome, the numbers found, and the sentences of what did not hold."""
        return {
            "passed": self.passed,
            "checks": len(self.checks),
            "found": {reason.check: reason.found for reason in self.reasons},
            "blocking": [reason.check for reason in self.blocking],
            "blocked": [reason.message for reason in self.blocking],
            "remedies": [reason.remedy for reason in self.blocking],
            "warned": [reason.message for reason in self.reasons if reason.level == "warn" and not reason.held],
        }

    def write(self, root: Path) -> None:
        """Write `decision.json` into the artifact directory `root`."""
        (root / NAME).write_text(json.dumps({"passed": self.passed, **asdict(self)}, indent=1, default=str))

    @classmethod
    def read(cls, root: Path) -> "Decision":
        """Read `write`'s file, also one of a version before, which had no remedies."""
        raw = json.loads((root / NAME).read_text())
        return cls(gate=raw["gate"], reasons=[Reason(**{"remedy": EARLIER, **reason}) for reason in raw["reasons"]])
