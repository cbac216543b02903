"""`python -m serving off-policy`: what would another archive earn in the slots that explore? Before a canary.

In each slot with a draw the archive is asked what it would show there, of what was open to the draw, after the items
that were shown before it. Slots of which that is not known are left out and counted; whether one is does not hang on
what the draw has shown, so that the others stay a fair sample.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from events.logged import Exposure, explored, rewarded
from experiments import off_policy
from experiments.document import ModelVersion
from experiments.off_policy import Interval
from experiments.rules_table import RulesTable, RulesVersion
from experiments.table import Entry, RolloutTable
from runtime import workspace
from runtime.errors import InputError
from serving import operate
from serving.gateway.after.compiled import Compiled, Explorable, compiled
from serving.gateway.after.showing import Items, ShowingLimits, choices
from serving.gateway.archive import Contents, read_contents
from serving.releases import Releases
from serving.replay import load
from serving.scoring.placed import FOR_YOU
from serving.torchserve import archive

if TYPE_CHECKING:
    from serving.scoring.scorer import Scorer

_AT_ONCE = 64


class Slot(NamedTuple):
    """One slot that has a draw: what it showed, and what the archive would."""

    shopper: str
    reward: float
    propensity: float
    shown: str
    choice: str
    features: tuple[list[float], list[float]]
    """Of the item shown, and of the choice."""


class ServingPast:
    """What held when: rules by version, the champion's catalogue by time. `contents_of` raises `OSError` or
    `ValueError` for an archive that cannot be had any more."""

    def __init__(
        self, rules: Iterable[RulesVersion], rollouts: Sequence[Entry], contents_of: Callable[[ModelVersion], Contents]
    ) -> None:
        self._rules = {version.number: version for version in rules}
        self._rollouts, self._contents_of = rollouts, contents_of
        self._contents: dict[str, Contents | None] = {}
        self._made: dict[tuple[int, str], tuple[Compiled, Explorable]] = {}

    def contents(self, time: datetime) -> Contents | None:
        """Of the champion of that moment; None where it cannot be had."""
        champion = next((each.rollout.champion for each in reversed(self._rollouts) if each.at <= time), None)
        if champion is None:
            return None
        if champion.archive_digest not in self._contents:
            try:
                self._contents[champion.archive_digest] = self._contents_of(champion)
            except (OSError, ValueError):
                self._contents[champion.archive_digest] = None  # its slots are counted as left out
        return self._contents[champion.archive_digest]

    def rules(self, number: int, contents: Contents, time: datetime) -> tuple[Compiled, Explorable] | None:
        version = self._rules.get(number)
        if version is None:
            return None
        key = number, str(id(contents))
        made = self._made.get(key)
        if made is None or not (made[0].since <= time and (made[0].until is None or time < made[0].until)):
            rules = compiled(version, contents.catalogue, time)
            made = self._made[key] = rules, Explorable(rules)
        return made


def slots(
    exposures: Sequence[Exposure], world: ServingPast, scorer: "Scorer", rewards: set[tuple[str, str]]
) -> tuple[list[Slot], Counter[str]]:
    """The slots with a draw of exposures that have one, and how many were left out by reason."""
    found: list[Slot] = []
    left_out: Counter[str] = Counter()
    drawn = sorted(exposures, key=lambda row: row["time"])  # rules are made anew where their time has come
    for start in range(0, len(drawn), _AT_ONCE):
        part = drawn[start : start + _AT_ONCE]
        answers = scorer.score([json.loads(row["request"]) for row in part])
        for row, answer in zip(part, answers, strict=True):
            _of_request(row, answer.get("items", []), world, rewards, found, left_out)
    return found, left_out


def _of_request(
    row: Exposure,
    ranked: Items,
    world: ServingPast,
    rewards: set[tuple[str, str]],
    found: list[Slot],
    left_out: Counter[str],
) -> None:
    count = sum(each is not None for each in row["draws"])
    contents = world.contents(row["time"])
    held = world.rules(row["rules"], contents, row["time"]) if contents is not None else None
    if contents is None or held is None:
        left_out["the champion's archive or the rules of then cannot be had"] += count
        return
    asked, catalogue = _asked(row, contents), contents.catalogue
    placed = list(zip(row["items"], row["origins"], strict=True))
    score = {item["item_id"]: item["score"] for item in ranked}
    for slot, choice in enumerate(choices(*held, asked, ranked, placed)):
        if row["draws"][slot] is None:
            continue
        if len(choice.open_E) != row["explorable"][slot]:
            left_out["something was withdrawn then, what was open is not known"] += 1
        elif choice.item is None or not np.any(choice.open_E == catalogue.row.get(choice.item["item_id"], -1)):
            left_out["the archive would show what was not open to the draw"] += 1
        else:
            shown, wanted = row["items"][slot], choice.item["item_id"]
            features = [_features(item, slot, score, contents) for item in (shown, wanted)]
            reward = float((row["request_id"], shown) in rewards)
            found.append(
                Slot(row["user_id"], reward, row["propensities"][slot], shown, wanted, (features[0], features[1]))
            )


def _asked(row: Exposure, contents: Contents) -> ShowingLimits:
    """As the gateway had it; `exclude` of the logged request may hold candidates that could not be shown besides."""
    request = json.loads(row["request"])
    history, items, placement = request["history"], request.get("items", ()), row["placement"] or FOR_YOU
    hidden = contents.hidden(
        history,
        placement=placement,
        items=items,
        exclude=request.get("exclude", ()),
        exclude_seen=request.get("exclude_seen"),
    )
    return ShowingLimits(
        k=row["n_items"],
        request_id=row["request_id"],
        hidden=hidden,
        filters=request.get("filters", {}),
        segment=contents.segment([*history, *({"item_id": item} for item in items)]),
        placement=placement,
        tired=frozenset(row.get("tired") or ()),
    )


def _features(item: str, slot: int, score: Mapping[str, float], contents: Contents) -> list[float]:
    """What the reward is predicted from: the archive's score, how well the item sells, how far down it stands."""
    least = min(score.values(), default=0.0)
    row = contents.catalogue.row.get(item)
    events = 0 if row is None else int(contents.catalogue.events[row])
    return [1.0, score.get(item, least), float(item in score), float(np.log1p(events)), 1 / np.log2(slot + 2)]


def estimate_rewards(found: Sequence[Slot]) -> dict[str, Interval]:
    """Rewards for each slot: of what served, of the archive by inverse propensity and doubly robust, their difference.

    Raises `ValueError` where the log shows nothing that the archive would.
    """
    shopper_N = np.unique([slot.shopper for slot in found], return_inverse=True)[1].astype(np.int64)
    reward_N, propensity_N = np.array([slot.reward for slot in found]), np.array([slot.propensity for slot in found])
    chance_N = np.array([float(slot.shown == slot.choice) for slot in found])
    shown_NF, choice_NF = (np.array([slot.features[n] for slot in found]) for n in (0, 1))
    expected_N, promised_N = off_policy.predicted(shown_NF, choice_NF, reward_N, propensity_N, shopper_N)
    served = off_policy.logged(reward_N)
    doubly = off_policy.doubly_robust(reward_N, propensity_N, chance_N, expected_N, promised_N)
    scored = {
        "served": served,
        "inverse propensity": off_policy.self_normalised(reward_N, propensity_N, chance_N),
        "doubly robust": doubly,
        "difference": doubly.against(served),
    }
    return {name: off_policy.interval(each, shopper_N) for name, each in scored.items()}


class SlotEvidence(NamedTuple):
    """What left a slot to chance, what was taken of it (request and item), and what held then."""

    exposures: Sequence[Exposure]
    rewards: set[tuple[str, str]]
    world: ServingPast


def evidence(model: str, table: RolloutTable, *, last: int, reward: str) -> SlotEvidence:
    """Of the event log of `model`, its rollouts and its rules."""
    log, releases = workspace.event_log(model), Releases(model, workspace.archives())
    exposures = explored(log, last)
    rules, rollouts = RulesTable(table.database, model).history(), table.history(model)
    world = ServingPast(rules, rollouts, lambda arm: read_contents(releases.fetched(arm), arm.archive_digest))
    return SlotEvidence(exposures, rewarded(log, reward, [row["request_id"] for row in exposures]), world)


class Earned(NamedTuple):
    """What an archive would have earned: `estimates` as of `estimate_rewards`, or none, and then `why` says why."""

    slots: int
    left_out: Counter[str]
    estimates: dict[str, Interval]
    why: str = ""


def earned(mar: Path, digest: str, known: SlotEvidence) -> Earned:
    """Ask the archive, which is code and is run, what it would have shown. Raises `InputError` where it is another."""
    if not known.exposures:
        return Earned(
            0, Counter(), {}, "the log has no slot that was left to chance (`exploration` in the shop's rules)"
        )
    with tempfile.TemporaryDirectory(prefix="off-policy-") as folder:
        found, left_out = slots(known.exposures, known.world, load(mar, digest, Path(folder), mar.stem), known.rewards)
    if not found:
        return Earned(0, left_out, {}, f"each of the {left_out.total()} slots that were left to chance is left out")
    try:
        return Earned(len(found), left_out, estimate_rewards(found))
    except ValueError as error:
        return Earned(len(found), left_out, {}, f"{error} in {len(found)} slots")


def run(options: argparse.Namespace) -> int:
    """Print the estimates; 0 whatever they say."""
    name = operate.model_name(options.dataset)
    if not options.archive.is_file():
        raise InputError(f"{options.archive}: is no file. Name an archive, such as releases/…/*.mar.")
    with RolloutTable(workspace.rollout_url()) as table:
        known = evidence(name, table, last=options.last, reward=options.reward)
    found = earned(options.archive, archive.digest(options.archive), known)
    for why, count in found.left_out.items():
        print(f"  {count} slots left out: {why}")
    if not found.estimates:
        raise InputError(
            f"{workspace.event_log(name)}: {found.why}, so that nothing tells of {options.archive}. Let the rules "
            "explore more slots, or for longer (docs/contracts.md)."
        )
    print(f"{options.reward}s for each of {found.slots} slots that explore")
    for what, each in found.estimates.items():
        print(f"  {what:<19} {each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]")
    print(f"  {verdict(found.estimates['difference'])}")
    return 0


def verdict(difference: Interval) -> str:
    if not difference.supported:
        return f"too little to tell: it rests on {difference.shoppers:.0f} shoppers, {off_policy.FEWEST} are the least"
    if difference.low > 0:
        return "surely better than what served there"
    return "surely worse than what served there" if difference.high < 0 else "not told apart from what served there"


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `off-policy` to a command line."""
    judged = commands.add_parser(
        "off-policy", help="what another archive would earn in the slots that explore, by the log"
    )
    judged.add_argument("archive", type=Path, metavar="MAR", help="the archive in question; it is code, and is run")
    judged.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    judged.add_argument(
        "--last", type=int, default=100_000, help="how many exposures that explore (default: %(default)s)"
    )
    judged.add_argument("--reward", default="click", help="type of the event that is the reward (default: %(default)s)")
    judged.set_defaults(command=run)
