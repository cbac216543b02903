"""`python -m serving worth`: what models are worth to the shop, by the shoppers whom its rules hold out."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.off_policy import FEWEST
from experiments.rules import Holdout
from experiments.rules_table import RulesTable, RulesVersion
from experiments.table import RolloutTable
from runtime import workspace
from runtime.errors import InputError
from serving import operate
from serving.gateway.after.catalogue import UnknownFeature
from serving.gateway.archive import read_contents
from serving.releases import Releases

if TYPE_CHECKING:
    from experiments.worth import HoldoutShoppers


def standing(versions: Sequence[RulesVersion]) -> tuple[Holdout, datetime] | None:
    """The holdout of the latest rules, and since when it is the same; None where they have none."""
    if not versions or (holdout := versions[-1].rules.holdout) is None:
        return None
    since = versions[-1].at
    for version in reversed(versions):
        if version.rules.holdout != holdout:
            break
        since = version.at
    assert since is not None
    return holdout, since


def worth_lines(found: "HoldoutShoppers") -> list[str]:
    """A line for each outcome: of those whom models serve, of those held out, and by how much more it is."""
    from experiments.worth import difference

    lines = []
    for name, outcome_N in found.outcomes.items():
        each = difference(found.held_N, outcome_N)
        served, held = outcome_N[~found.held_N].mean(), outcome_N[found.held_N].mean()
        share = f", {each.value / held:+.1%} [{each.low / held:+.1%}, {each.high / held:+.1%}]" if held > 0 else ""
        verdict = ""
        if not each.supported:
            verdict = f"  too little to tell: it rests on {each.shoppers:.0f} shoppers, {FEWEST} are the least"
        numbers = f"{each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]"
        lines.append(f"  {name:<12} {served:9.4f} {held:9.4f}   {numbers}{share}{verdict}")
    return lines


def run(options: argparse.Namespace) -> int:
    """Print the differences; 0 whatever they say."""
    import duckdb  # which the images of gateway and server need not have

    from experiments.worth import shoppers

    name, now = operate.model_name(options.dataset), datetime.now(UTC)
    with RolloutTable(workspace.rollout_url()) as table:
        stands = standing(RulesTable(table.database, name).history())
        worth = _worth(options.value, name, table) if options.value else None
    if stands is None:
        raise InputError(f"{name}: the rules hold nobody out; set `holdout` (docs/contracts.md) and wait for shoppers.")
    holdout, since = stands
    if options.days is not None:
        since = max(since, now - timedelta(days=options.days))
    log = workspace.event_log(name)
    try:
        found = shoppers(log, since=since, until=now, events=options.outcome or ["click", "purchase"], value=worth)
        lines = worth_lines(found)
    except ValueError as error:
        raise InputError(f"{log}: {error}, of {_counted(0)} since {since:%Y-%m-%d %H:%M}. Wait for more.") from error
    except duckdb.Error as error:
        raise InputError(f"{log}: cannot be read ({error}). Restore the file that it names.") from error
    counts = _counted(int(np.sum(~found.held_N))), _counted(int(np.sum(found.held_N)))
    print(f"{name} since {since:%Y-%m-%d %H:%M} UTC: {counts[0]} served by models, {counts[1]} held out", end=" ")
    print(f"({holdout.share:.1%} by {holdout.salt!r})\n  for a shopper    served  held out   difference")
    print("\n".join(lines))
    return 0


def _counted(shoppers: int) -> str:
    return f"{shoppers:,} shoppers"


def _worth(feature: str, name: str, table: RolloutTable) -> Mapping[str, float]:
    """What each item of the champion's catalogue brings; nothing where it is not known."""
    champion = table.read(name).champion
    if champion is None:
        raise InputError(f"{name}: nothing was released whose catalogue could tell {feature!r}")
    mar = Releases(name, workspace.archives()).fetched(champion)
    try:
        catalogue = read_contents(mar, champion.archive_digest).catalogue
        numbers = catalogue.numbers(feature)
    except UnknownFeature as error:
        raise InputError(f"--value: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{error}. Restore the released archive, or leave out --value.") from error
    return {item: float(each) for item, each in zip(catalogue.ids, numbers, strict=True) if np.isfinite(each)}


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `worth` to a command line."""
    worth = commands.add_parser("worth", help="what models are worth, by the shoppers whom the rules hold out")
    worth.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    worth.add_argument(
        "--outcome", action="append", metavar="TYPE",
        help="type of an event that counts, several times for several (default: click, purchase)",
    )  # fmt: skip
    worth.add_argument("--value", metavar="FEATURE", help="a number of items: sum it over the last --outcome")
    worth.add_argument("--days", type=float, help="of these last days only (default: since the holdout is the same)")
    worth.set_defaults(command=run)
