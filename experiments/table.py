"""The rollout table: one row for each model name, changed by conditional update only, with its whole history."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from experiments.database import Database, TableAway
from experiments.document import DocumentChange, Rollout

_METADATA = MetaData()
_ROLLOUT = Table(
    "rollout",
    _METADATA,
    Column("model", String(200), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("document", Text, nullable=False),
)
_HISTORY = Table(
    "rollout_history",
    _METADATA,
    Column("model", String(200), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("document", Text, nullable=False),
)
_DECISIONS = Table(
    "rollout_decision",
    _METADATA,
    Column("number", Integer, primary_key=True),
    Column("model", String(200), nullable=False),
    Column("at", String(40), nullable=False),
    Column("salt", String(40), nullable=False),
    Column("action", String(20), nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
)
_BY_EXPERIMENT = Index("rollout_decision_experiment", _DECISIONS.c.model, _DECISIONS.c.salt)


class StaleRollout(Exception):
    """The row has moved on since it was read: read it again and decide anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One change that was made: `rollout` is the document after it."""

    at: datetime
    who: str
    why: str
    rollout: Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimAnalysis:
    """One look at an experiment (named by its salt): what was decided, why, and the evidence as JSON values."""

    at: datetime
    salt: str
    action: str
    why: str
    evidence: dict[str, Any]


class RolloutTable:
    """Opens (and where needed creates) the table at `url`, e.g. `sqlite:///var/rollout.db`. Close it after use."""

    def __init__(self, url: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self.database = Database(url)
        """Which holds more than this table."""
        self._reading, self._writing = self.database.reading, self.database.writing
        self.database.create(_ROLLOUT, _HISTORY, _DECISIONS, _BY_EXPERIMENT)

    def __enter__(self) -> "RolloutTable":
        return self

    def __exit__(self, *exception: object) -> None:
        self.database.close()

    def _document(self, model: str, text: str) -> Rollout:
        try:
            return Rollout.from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise TableAway(
                f"rollout table {self.database.where}: the document of {model} is damaged ({error!r}). Restore it."
            ) from error

    def models(self) -> list[str]:
        """Names that have a row, sorted."""
        with self._reading() as connection:
            return list(connection.execute(select(_ROLLOUT.c.model).order_by(_ROLLOUT.c.model)).scalars())

    def read(self, model: str) -> Rollout:
        """The present document; an empty one of version 0 for a name never released."""
        with self._reading() as connection:
            found = connection.execute(select(_ROLLOUT.c.document).where(_ROLLOUT.c.model == model)).scalar()
        return Rollout(model=model) if found is None else self._document(model, found)

    def history(self, model: str) -> list[Entry]:
        """Every change of `model`, oldest first."""
        query = select(_HISTORY).where(_HISTORY.c.model == model).order_by(_HISTORY.c.version)
        with self._reading() as connection:
            return [
                Entry(
                    at=datetime.fromisoformat(row.at),
                    who=row.who,
                    why=row.why,
                    rollout=self._document(model, row.document),
                )
                for row in connection.execute(query)
            ]

    def decisions(self, model: str, salt: str) -> list[InterimAnalysis]:
        """Every look at the experiment `salt` of `model`, oldest first."""
        mine = (_DECISIONS.c.model == model) & (_DECISIONS.c.salt == salt)
        with self._reading() as connection:
            return [
                InterimAnalysis(
                    at=datetime.fromisoformat(row.at),
                    salt=row.salt,
                    action=row.action,
                    why=row.why,
                    evidence=json.loads(row.evidence),
                )
                for row in connection.execute(select(_DECISIONS).where(mine).order_by(_DECISIONS.c.number))
            ]

    def record(self, model: str, decision: InterimAnalysis) -> None:
        """Keep a decision that changes nothing."""
        with self._writing() as connection:
            connection.execute(insert(_DECISIONS).values(_row(model, decision)))

    def propose(
        self, change: DocumentChange, expected_version: int, decision: InterimAnalysis | None = None
    ) -> Rollout:
        """Make `change` if the row is still at `expected_version`, and return the document as it now stands.

        The row, its history and the `decision` behind the change are written in one transaction. Raises
        `StaleRollout` when the row has moved on.
        """
        proposed = replace(change.rollout, version=expected_version + 1)
        document = json.dumps(proposed.to_json(), sort_keys=True)
        entry = {"at": self._clock().astimezone(UTC).isoformat(), "who": change.who, "why": change.why}
        with self._writing() as connection:
            if not _swap(connection, proposed.model, expected_version, document):
                raise StaleRollout(f"{proposed.model}: the rollout is no longer at version {expected_version}")
            connection.execute(
                insert(_HISTORY).values(model=proposed.model, version=proposed.version, document=document, **entry)
            )
            if decision is not None:
                connection.execute(insert(_DECISIONS).values(_row(proposed.model, decision)))
        return proposed


def _row(model: str, decision: InterimAnalysis) -> dict[str, Any]:
    kept = {"salt": decision.salt, "action": decision.action, "why": decision.why}
    evidence = json.dumps(decision.evidence, sort_keys=True)
    return {"model": model, "at": decision.at.astimezone(UTC).isoformat(), "evidence": evidence, **kept}


def _swap(connection: Connection, model: str, expected: int, document: str) -> bool:
    """Compare and set; the statement that compares also writes, so no other writer comes between."""
    if expected == 0:
        try:
            connection.execute(insert(_ROLLOUT).values(model=model, version=1, document=document))
        except IntegrityError:
            return False
        return True
    unmoved = (_ROLLOUT.c.model == model) & (_ROLLOUT.c.version == expected)
    done = connection.execute(update(_ROLLOUT).where(unmoved).values(version=expected + 1, document=document))
    return done.rowcount == 1
