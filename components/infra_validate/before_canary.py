"""What the archive would earn, by the log of what serves: a reason that may warn before a canary, and never blocks.

It tells of slots that the shop's rules leave to chance, and of those alone; the canary judges all of them.
"""

from pathlib import Path

from runtime.decision import Reason
from serving.off_policy import Earned, SlotEvidence, earned, verdict

CHECK = "off_policy"
LAST = 10_000
"""Exposures that explore and are asked again."""
REMEDY = (
    "nothing has to be done, the canary will tell; whoever will not wait for it sends it back with "
    "`python -m serving rollout rollback`"
)


def reason(mar: Path, digest: str, known: SlotEvidence, *, reward: str) -> Reason:
    """Of the archive `mar`. It does not hold where the archive is surely worse than what served."""
    return as_reason(earned(mar, digest, known), reward)


def as_reason(found: Earned, reward: str) -> Reason:
    """Of estimates, or of why there are none."""
    left_out = "".join(f"; {count} slots left out: {why}" for why, count in found.left_out.items())
    if not found.estimates:
        message = f"no estimate of what it would earn: {found.why}{left_out}"
        return Reason(check=CHECK, held=True, found=None, allowed="any", message=message, level="info")
    difference, decides = found.estimates["difference"], found.estimates["difference"].supported
    estimates = {
        name: f"{each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]" for name, each in found.estimates.items()
    }
    each = ", ".join(f"{name} {value}" for name, value in estimates.items())
    return Reason(
        check=CHECK,
        held=not (decides and difference.high < 0),
        found=difference.value,
        allowed="not surely below 0" if decides else "any",
        message=f"{reward}s for each of {found.slots} slots left to chance: {each}: {verdict(difference)}{left_out}",
        remedy=REMEDY,
        level="warn" if decides else "info",
        evidence=[{"estimate": name, "value": value} for name, value in estimates.items()],
    )
