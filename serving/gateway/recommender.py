"""Who answers: the drawn arm, then the champion, each with its own deadline, then what lies in this process: the
neighbour tables for who has a history, the most popular items for who has none."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import orjson

from events.schema import POPULAR, REMEMBERED, WITHOUT_A_MODEL
from experiments.assignment import Variant
from experiments.document import ModelVersion, Rollout
from experiments.rules import Fatigue
from feature_repo.wall_clock import said_at
from serving.gateway.after.after import After
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.news import News
from serving.gateway.after.rounds import until_full
from serving.gateway.after.showing import ShowingLimits, ShownList
from serving.gateway.archive import Contents
from serving.gateway.archives import ArchiveCache
from serving.gateway.counted import popular
from serving.gateway.models import Items, ModelFailed, TorchServeModels
from serving.gateway.placements.session import joined
from serving.gateway.tables import NeighbourAnswers
from serving.gateway.wish import Wish
from serving.scoring.asker import FIELDS
from serving.scoring.item_values import FIELD as UPSERTS
from serving.scoring.placed import (
    AGAIN,
    RANKING,
    SIMILAR,
)
from serving.scoring.placed import POPULAR as POPULAR_ITEMS

History = Callable[[str], list[dict[str, Any]]]
"""The events of a user as docs/contracts.md sends them to TorchServe, oldest first. Blocks; called in a thread."""
Traits = Callable[[str], Mapping[str, Any]]
"""The features of a user by name, as the store has them. Blocks, and is called in the same thread."""
ImpressionsOf = Callable[[str], Mapping[str, Sequence[int]]]
"""What a shopper was shown and did nothing with, as `feature_repo.impressions` keeps it. Blocks; called in a thread."""
Read = TypeVar("Read")
Status = Literal["ok", "fallback", "error"]
Cause = Literal["model", "history", "overload", "archive"]
"""Why another than the drawn arm answered: a model's own call failed, the history did, too much was in flight, or the
arm's archive is of before there was such a placement."""
NOW = "now"
"""The moment of what is asked; an archive is told what its clocks say of it."""
ASKER_FIELDS = frozenset((*FIELDS.values(), NOW))
_READERS = 16
"""Histories that are read at the same time."""


class NotOffered(LookupError):
    """No archive that serves can be asked for that; the message says what to do, and `status` what HTTP answers."""

    def __init__(self, why: str, status: int = 501) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class ServingDeadlines:
    """Seconds that each part may take before the next one answers; `log` before an exposure counts as not logged."""

    history: float = 0.2
    challenger: float = 0.3
    champion: float = 0.5
    log: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """`variant` is the arm that was drawn, `version` who answered, `request` what the model was asked, as JSON."""

    variant: Variant
    version: str
    status: Status
    shown: ShownList
    request: str
    history: Sequence[Mapping[str, Any]]
    failures: list[tuple[str, str]]
    """(version or "history", what went wrong), in their order."""
    history_seconds: float
    cause: Cause | None = None
    """Where the status is not `ok`."""
    tired: frozenset[str] | None = None
    """What the shopper was shown too often; None where no rule asks, or nobody could say."""


class Recommender:
    """Asks `models` for what a rollout document says, whose `archives` were prepared before."""

    def __init__(
        self,
        models: TorchServeModels,
        history: History,
        deadlines: ServingDeadlines | None = None,
        archives: ArchiveCache | None = None,
        after: After | None = None,
        traits: Traits = lambda user_id: {},
        impressions: ImpressionsOf = lambda user_id: {},
    ) -> None:
        self._models, self._history = models, history
        self._traits, self._impressions = traits, impressions
        self.after = after or After(News(None, None))
        self.archives = archives or ArchiveCache()
        self.deadlines = deadlines or ServingDeadlines()
        self._readers = ThreadPoolExecutor(_READERS, "history")

    async def recommend(self, rollout: Rollout, wish: Wish) -> Recommended:
        """The answer of the first in line that has one; never raises for a fault of a model or of the history."""
        assert rollout.champion is not None
        # Now: the row may be another one before the models have answered.
        contents, tables = self.archives.contents(rollout.champion), self.archives.tables(rollout.champion)
        failures: list[tuple[str, str]] = []
        arm = wish.variant(rollout)
        line = self._line(rollout.champion, rollout, arm)
        _check_offered(contents, wish)
        drawn_arm = line[0][0].version
        by_version = {each.version: each for each, _ in line}
        line = [(each, deadline) for each, deadline in line if self.archives.answers(each, wish.placement)]
        rule, tired = self._fatigue(contents, wish), None
        if rule is None:
            known, traits, seconds = await self._known(wish, failures)
        else:
            (known, traits, seconds), tired = await asyncio.gather(
                self._known(wish, failures), self._tired(rule, wish, failures)
            )
        session = wish.session if wish.of_somebody else ()
        if not wish.modelled or (known is None and not session and not wish.items):
            line = []  # nothing to ask a model about
        history = joined(known or [], session)
        explain = wish.explain and all(self.archives.answers(each, SIMILAR, RANKING) for each, _ in line)
        asked = wish.request(history, self._candidates(contents, wish), explain=explain)
        if traits:
            asked["user_features"] = dict(traits)
        if wish.context:
            asked["context"] = dict(wish.context)
        asked[NOW] = wish.now
        if (put := self.after.news.upserts).items:
            asked[UPSERTS] = put  # of now, for who is asked and for the log: others may come meanwhile
        version, items = POPULAR, None
        if wish.modelled:
            version, items = await self._ranked(rollout.model, line, asked, tables, failures)
        if items is None:
            version, items = POPULAR, popular(contents, history, replace(wish, k=asked["k"]))
        answering = [(each, deadline) for each, deadline in line if each.version == version]

        async def again(more: dict[str, Any]) -> Items | None:
            """By who has answered, and nobody else."""
            if version == POPULAR:
                return popular(contents, history, replace(wish, k=more["k"], exclude=more["exclude"]))
            who, found = await self._ranked(rollout.model, answering, more, tables, failures)
            return found if who == version else None

        def show(ranked: Items) -> ShownList:
            return self._shown(contents, history, wish, version, ranked, tired or frozenset())

        if wish.placement == RANKING:
            shown = show(items)
        else:
            asked, shown = await until_full(
                asked, items, k=wish.k, most=min(asked["k"], contents.max_k), show=show, rank=again
            )
        status: Status = "fallback"
        if version in WITHOUT_A_MODEL and not shown.items and not (wish.placement == AGAIN and known is not None):
            status = "error"
        elif known is not None and (not wish.modelled or version == drawn_arm):
            status = "ok"
        cause: Cause | None = None
        if status != "ok" and (wish.modelled or known is None):
            tried = bool(line) and line[0][0].version == drawn_arm
            cause = "history" if known is None else "model" if tried else "archive"
        return Recommended(
            variant=arm,
            version=version,
            status=status,
            shown=shown,
            request=orjson.dumps(self._for(asked, by_version.get(version))).decode(),
            history=history,
            failures=failures,
            history_seconds=seconds,
            cause=cause,
            tired=tired,
        )

    def _line(self, champion: ModelVersion, rollout: Rollout, arm: Variant) -> list[tuple[ModelVersion, float]]:
        """Who is asked, one after the other, and the seconds that each may take."""
        drawn_arm = {"challenger": rollout.challenger, "former": rollout.former}.get(arm)
        line = [(champion, self.deadlines.champion)]
        return line if drawn_arm is None else [(drawn_arm, self.deadlines.challenger), *line]

    async def _known(
        self, wish: Wish, failures: list[tuple[str, str]]
    ) -> tuple[list[dict[str, Any]] | None, Mapping[str, Any], float]:
        """The history that the store has, None where it does not answer, the user's features, and the seconds that it
        took."""
        if not (wish.of_somebody and wish.user_id):
            return [], {}, 0.0
        began = time.perf_counter()
        found = await self._read_of_shopper(self._read_shopper, wish.user_id, failures)
        known, traits = (None, {}) if found is None else found
        return known, traits, time.perf_counter() - began

    def _read_shopper(self, user_id: str) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        return self._history(user_id), self._traits(user_id)

    def _for(self, asked: Mapping[str, Any], arm: ModelVersion | None) -> dict[str, Any]:
        """What of `asked` the archive of `arm` knows of who asks, the items that were put since, and the rest as it is;
        of the tables nothing of the former."""
        contents = None if arm is None else self.archives.known(arm)
        told = {name: value for name, value in asked.items() if name not in ASKER_FIELDS and name != UPSERTS}
        if contents is None:
            return told
        said = said_at(contents.clocks, asked[NOW]) if contents.clocks else {}
        whole = {**asked, FIELDS["context"]: {**said, **asked.get(FIELDS["context"], {})}}
        for field_, names in contents.asking.items():
            if known := {name: value for name, value in whole.get(field_, {}).items() if name in names}:
                told[field_] = known
        if UPSERTS in asked:
            sent = self.after.sent(asked[UPSERTS], contents)
            told |= {} if sent is None else {UPSERTS: sent}
        return told

    def _fatigue(self, contents: Contents, wish: Wish) -> Fatigue | None:
        """The rule that holds for this shopper there."""
        if wish.held or not (wish.of_somebody and wish.user_id):
            return None
        return self.after.fatigue(self.after.catalogue(contents), wish.placement)

    async def _tired(self, rule: Fatigue, wish: Wish, failures: list[tuple[str, str]]) -> frozenset[str] | None:
        """What the shopper was shown too often; None where the store does not answer."""
        impressions = await self._read_of_shopper(self._impressions, wish.user_id, failures)
        return None if impressions is None else self.after.tired(rule, impressions)

    async def _read_of_shopper(
        self, read: Callable[[str], Read], user_id: str, failures: list[tuple[str, str]]
    ) -> Read | None:
        """What the store has; None where it does not answer in time."""
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, read, user_id)
            return await asyncio.wait_for(reading, self.deadlines.history)
        except Exception as error:  # whatever the store raises, the shopper gets an answer and the log the reason
            why = f"not within {self.deadlines.history} s" if isinstance(error, TimeoutError) else error
            failures.append(("history", f"{type(error).__name__}: {why}"))
            return None

    def from_memory(self, rollout: Rollout, wish: Wish) -> Recommended:
        """An answer without store and model, for when these have no room: popular items, as the history that the
        tables would be asked about is the store's to read."""
        assert rollout.champion is not None
        contents = self.archives.contents(rollout.champion)
        _check_offered(contents, wish)
        history = joined([], wish.session if wish.of_somebody else ())
        asked = wish.request(history, self._candidates(contents, wish))
        items = popular(contents, history, replace(wish, k=asked["k"]))
        shown = self._shown(contents, history, wish, POPULAR, items)
        return Recommended(
            variant=wish.variant(rollout),
            version=POPULAR,
            status="fallback" if shown.items else "error",
            shown=shown,
            request=orjson.dumps(asked).decode(),
            history=(),
            failures=[],
            history_seconds=0.0,
            cause="overload",
        )

    def _candidates(self, contents: Contents, wish: Wish) -> int:
        """How many to rank; of a ranking all that is given comes back anyway."""
        if wish.placement == RANKING:
            return wish.k
        return self.after.candidates(self.after.catalogue(contents), wish.k, wish.placement)

    def _shown(
        self,
        contents: Contents,
        history: Sequence[Mapping[str, Any]],
        wish: Wish,
        version: str,
        items: Items,
        tired: frozenset[str] = frozenset(),
    ) -> ShownList:
        """What comes after every ranking, whoever made it."""
        asked = ShowingLimits(
            k=len(items) if wish.placement == RANKING else wish.k,
            request_id=wish.request_id,
            hidden=wish.hidden(contents, history),
            filters=wish.filters,
            segment=contents.segment(wish.before(history)),
            placement=wish.placement,
            tired=tired,
        )
        catalogue = self.after.catalogue(contents)
        unwanted = self._unwanted(catalogue, wish, items)
        wanted = [item for item in items if item["item_id"] not in unwanted] if unwanted else items
        shown = self.after.show(catalogue, asked, wanted, counts=version == POPULAR)
        shown.withheld += unwanted
        return shown

    def _unwanted(self, catalogue: ServedCatalogue, wish: Wish, items: Items) -> list[str]:
        """Of what was ranked the changed items that the filters do not let pass any more: tables and counts, and models
        that take no change, have filtered by what the items were."""
        put = self.after.news.upserts.items
        if not wish.filters or not put:
            return []
        forbidden_V, changed = catalogue.forbidden(wish.filters), {each.item_id for each in put}
        ids = [item["item_id"] for item in items if item["item_id"] in changed]
        return [item for item in ids if item in catalogue.row and forbidden_V[catalogue.row[item]]]

    async def _ranked(
        self,
        model: str,
        line: Sequence[tuple[ModelVersion, float]],
        asked: Mapping[str, Any],
        tables: NeighbourAnswers | None,
        failures: list[tuple[str, str]],
    ) -> tuple[str, Items | None]:
        """Who ranks, first in line or by the tables, and the items; None where nobody does."""
        version, items = await self._first(model, line, asked, failures)
        return (version, items) if items is not None else _remembered(tables, self._for(asked, None), failures)

    async def _first(
        self,
        model: str,
        line: Sequence[tuple[ModelVersion, float]],
        asked: Mapping[str, Any],
        failures: list[tuple[str, str]],
    ) -> tuple[str, Items | None]:
        """Who answers first in line, and the items; None where nobody does."""
        for arm, deadline in line:
            if not self._models.breakers[arm.version].allows():
                failures.append((arm.version, "out of traffic"))
                continue
            body = orjson.dumps(self._for(asked, arm))
            try:
                return arm.version, await self._models.ask(model, arm, body, deadline=deadline)
            except ModelFailed as error:
                failures.append((arm.version, str(error)))
        return POPULAR, None


def _check_offered(contents: Contents, wish: Wish) -> None:
    if wish.placement == POPULAR_ITEMS and wish.kind not in contents.counted:
        raise NotOffered(f"the archive that serves tells of no {wish.kind} items; package it anew (a catalogue run)")
    if wish.placement == AGAIN and contents.exclude_seen:
        why = "here nothing is bought twice (the card says `repeats: false`), so that nothing is there to buy again"
        raise NotOffered(why, status=422)
    if wish.placement == AGAIN and contents.returns is None:
        raise NotOffered("the archive that serves tells of nothing that comes again; package it anew (a catalogue run)")


def _remembered(
    tables: NeighbourAnswers | None, asked: Mapping[str, Any], failures: list[tuple[str, str]]
) -> tuple[str, Items | None]:
    """What the tables answer, or None: without tables, without items that they know, or where they fail."""
    if tables is None or not (asked["history"] or asked.get("items")):
        return REMEMBERED, None
    try:
        return REMEMBERED, tables.answer(asked)
    except Exception as error:  # whatever the archive's own code raises, the shopper gets an answer
        failures.append((REMEMBERED, f"{type(error).__name__}: {error}"))
        return REMEMBERED, None
