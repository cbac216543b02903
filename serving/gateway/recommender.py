"""Who answers: the drawn arm, then the champion, then the most popular items, each with its own deadline."""

import asyncio
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx

from serving.gateway.breaker import Breaker
from serving.rollout.assignment import Variant, variant
from serving.rollout.document import ModelVersion, Rollout

History = Callable[[str], list[dict[str, Any]]]
"""The events of a user as docs/contracts.md sends them to TorchServe, oldest first. Blocks; called in a thread."""
Status = Literal["ok", "fallback", "error"]
POPULAR = "popular"
"""The version that is named where the popular items answered."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds that each part may take before the next one answers."""

    history: float = 0.2
    challenger: float = 0.3
    champion: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a shopper asks for. `exclude` are items that must not be shown."""

    user_id: str
    k: int = 10
    exclude_seen: bool | None = None
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """`variant` is the arm that was drawn, `version` who answered, `request` what the model was asked."""

    variant: Variant
    version: str
    status: Status
    items: list[dict[str, Any]]
    request: dict[str, Any]
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(version or "history", what went wrong), in their order."""


class Recommender:
    """Asks TorchServe at `address` for what a rollout document says."""

    def __init__(
        self, client: httpx.AsyncClient, address: str, history: History, deadlines: Deadlines | None = None
    ) -> None:
        self._client, self._address, self._history = client, address.rstrip("/"), history
        self._deadlines = deadlines or Deadlines()
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        self._popular: dict[str, list[dict[str, Any]]] = {}

    async def recommend(self, rollout: Rollout, wish: Wish) -> Recommended:
        """The answer of the first in line that has one; never raises for a fault of a model or of the history."""
        assert rollout.champion is not None
        failures: list[tuple[str, str]] = []
        drawn: Variant = "champion"
        line = [(rollout.champion, self._deadlines.champion)]
        if rollout.challenger is not None and variant(rollout.salt, wish.user_id, rollout.weight) == "challenger":
            drawn = "challenger"
            line.insert(0, (rollout.challenger, self._deadlines.challenger))
        request: dict[str, Any] = {"user_id": wish.user_id, "k": wish.k + len(wish.exclude)}
        if wish.exclude_seen is not None:
            request["exclude_seen"] = wish.exclude_seen
        try:
            events = await asyncio.wait_for(asyncio.to_thread(self._history, wish.user_id), self._deadlines.history)
        except Exception as error:  # whatever the store raises, the shopper gets an answer and the log the reason
            failures.append(("history", _reason(error)))
            line = []
        else:
            request["history"] = events
        for place, (arm, deadline) in enumerate(line):
            items = await self._ask(rollout.model, arm, request, deadline, failures)
            if items is not None:
                status: Status = "ok" if place == 0 else "fallback"
                shown = _shown(items, wish)
                return Recommended(
                    variant=drawn, version=arm.version, status=status, items=shown, request=request, failures=failures
                )
        shown = _shown(self._popular_of(rollout.champion), wish)
        return Recommended(
            variant=drawn,
            version=POPULAR,
            status="fallback" if shown else "error",
            items=shown,
            request=request,
            failures=failures,
        )

    async def _ask(
        self,
        model: str,
        arm: ModelVersion,
        request: dict[str, Any],
        deadline: float,
        failures: list[tuple[str, str]],
    ) -> list[dict[str, Any]] | None:
        """The items of one version, or None where it is out of traffic or fails."""
        breaker = self.breakers[arm.version]
        if not breaker.allows():
            failures.append((arm.version, "out of traffic"))
            return None
        url = f"{self._address}/predictions/{quote(model)}/{quote(arm.version)}"
        try:
            # One deadline for the whole call: httpx has one for each of its phases.
            reply = await asyncio.wait_for(self._client.post(url, json=request), deadline)
            reply.raise_for_status()
            items: list[dict[str, Any]] = reply.json()["items"]
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
            breaker.failed()
            failures.append((arm.version, _reason(error)))
            return None
        breaker.succeeded()
        return items

    def _popular_of(self, arm: ModelVersion) -> list[dict[str, Any]]:
        """The most popular items of the archive, most popular first; read once, when a version begins to serve."""
        return self._popular.get(arm.archive_digest, [])

    def prepare(self, rollout: Rollout) -> None:
        """Read what answers when no model does, before it is needed. Blocks; raises `OSError` where it is gone."""
        champion = rollout.champion
        if champion is not None and champion.archive_digest not in self._popular:
            with zipfile.ZipFile(champion.archive) as mar:  # not through serving.torchserve, which imports torch
                entries = json.loads(mar.read("popular.json"))["overall"]
            items = [{"item_id": entry["item_id"], "score": float(entry["events"])} for entry in entries]
            self._popular = {champion.archive_digest: items}


def _shown(items: Sequence[dict[str, Any]], wish: Wish) -> list[dict[str, Any]]:
    return [item for item in items if item["item_id"] not in wish.exclude][: wish.k]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
