"""The rules of each model, beside the rollout row: every version with who set it and why, the latest of which holds."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from experiments.database import Database, TableAway
from experiments.rules import BadRules, Rules

_METADATA = MetaData()
_HISTORY = Table(
    "rules_history",
    _METADATA,
    Column("model", String(200), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("document", Text, nullable=False),
)


class StaleRules(Exception):
    """Somebody else has changed the rules since they were read: read them again and decide anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesVersion:
    """The rules of one version; 0, of a model that never had any, holds none."""

    number: int = 0
    rules: Rules = field(default_factory=Rules)
    at: datetime | None = None
    who: str = ""
    why: str = ""


class RulesTable:
    """The rules of one model, in `database`. Its latest entry is what holds: there is no second copy to disagree."""

    def __init__(
        self, database: Database, model: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._model, self._clock = database, model, clock
        database.create(_HISTORY)

    def read(self, known: RulesVersion | None = None) -> RulesVersion:
        """What holds now; not read again where it is `known`. Raises `TableAway`."""
        mine = select(_HISTORY).where(_HISTORY.c.model == self._model)
        with self._database.reading() as connection:
            row = connection.execute(mine.order_by(_HISTORY.c.version.desc()).limit(1)).first()
        if row is None:
            return RulesVersion()
        if known is not None and known.at is not None and (known.number, known.at.isoformat()) == (row.version, row.at):
            return known
        return self._version(row)

    def history(self) -> list[RulesVersion]:
        """Every version, oldest first. Raises `TableAway`."""
        mine = select(_HISTORY).where(_HISTORY.c.model == self._model).order_by(_HISTORY.c.version)
        with self._database.reading() as connection:
            return [self._version(row) for row in connection.execute(mine)]

    def propose(self, rules: Rules, *, who: str, why: str, expected: int) -> RulesVersion:
        """Let `rules` hold if version `expected` still does. Raises `StaleRules` where it does not."""
        now = self._clock().astimezone(UTC)
        entry = {"at": now.isoformat(), "who": who, "why": why, "document": json.dumps(rules.to_json())}
        stale = f"{self._model}: the rules are no longer at version {expected}"
        if self.read().number != expected:
            raise StaleRules(stale)
        with self._database.writing() as connection:
            try:
                connection.execute(insert(_HISTORY).values(model=self._model, version=expected + 1, **entry))
            except IntegrityError as error:
                raise StaleRules(stale) from error
        return RulesVersion(number=expected + 1, rules=rules, at=now, who=who, why=why)

    def _version(self, row: Any) -> RulesVersion:
        number = row.version
        try:
            return RulesVersion(
                number=number,
                rules=Rules.of(json.loads(row.document)),
                at=datetime.fromisoformat(row.at),
                who=row.who,
                why=row.why,
            )
        except (BadRules, ValueError) as error:
            raise TableAway(
                f"rules of {self._model}: version {number} is damaged ({error}). Set them anew: `python -m serving "
                "rules set`."
            ) from error
