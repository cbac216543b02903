"""The event log as a canary's judge reads it: DuckDB sums exposures and outcomes by user and stratum.

The layout is in docs/contracts.md. Only exposures drawn with the experiment's salt count, each once, and none that
lies after `now`: the same log read with an earlier clock is the log of that day.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import duckdb

from experiments.assignment import HOLDOUT, PLACE_SQL
from experiments.policy import Policy
from experiments.sequential_test import Floats, Integers
from runtime.clocks import TOLERANCE
from runtime.sql import literals, session

EXPOSURE = {
    "request_id": "VARCHAR", "user_id": "VARCHAR", "variant": "VARCHAR", "model_version": "VARCHAR",
    "stage": "INTEGER", "weight": "DOUBLE", "salt": "VARCHAR", "time": "TIMESTAMPTZ", "latency_ms": "DOUBLE",
    "status": "VARCHAR", "n_items": "INTEGER", "items": "VARCHAR[]", "cause": "VARCHAR",
    "placement": "VARCHAR",
}  # fmt: skip
LATER = ("cause", "placement")
"""Columns that older files lack: null in them."""
_UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException)
OUTCOME = {"request_id": "VARCHAR", "event_type": "VARCHAR", "time": "TIMESTAMPTZ"}


MOST_OF_USER = 50
"""Exposures of one user that count in a stratum, its first: nobody is more than a shopper."""


class LogFault(ValueError):
    """The log does not hold what docs/contracts.md promises; the message names the file, and what to do."""


class Sums(NamedTuple):
    """A row for each user, stratum and arm; see `sequential.difference`."""

    user: Integers
    stratum: Integers
    treated: Floats
    exposures: Floats
    outcomes: Mapping[str, Floats]


class Draws(NamedTuple):
    """Users whose arm was drawn with `chance` for the challenger: how many, and how many of them got it."""

    chance: float
    users: int
    challengers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedTraffic:
    """How much was logged: of the experiment, and of the challenger at the present stage."""

    exposures: int
    stage_exposures: int
    misdrawn: int
    """Exposures in another arm than their salt draws."""
    latest: datetime | None
    busiest: float = 0.0
    """Largest share that one user has of the exposures that count (see `MOST_OF_USER`)."""


class ExposureLog:
    """`with EventLog(root, salt=..., opened=..., now=..., policy=...) as log:` reads one experiment's exposures.

    `opened` prunes the day partitions. Raises `LogFault` where a file is not what the contract says.
    """

    def __init__(self, root: Path, *, salt: str, opened: datetime, now: datetime, policy: Policy) -> None:
        self._policy = policy
        self._now = now
        self._open = ExitStack()
        self._sql = self._open.enter_context(session())
        self._load("exposures", EXPOSURE, root, opened)
        self._load("outcomes", OUTCOME, root, opened)
        try:
            self._sql.execute(_DRAWN, {"salt": salt, "now": now})
            self._sql.execute(_SHOPPER)
            counted = {"now": now, "outcome": policy.outcome, "attribution": policy.hours("attribution"),
                       "tolerance": TOLERANCE}  # fmt: skip
            self._sql.execute(_EXPOSURE, counted)
        except _UNREADABLE as error:
            raise LogFault(f"{root}: the event log cannot be read ({error}). Restore the file it names.") from error

    def __enter__(self) -> "ExposureLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _load(self, name: str, columns: Mapping[str, str], root: Path, opened: datetime) -> None:
        """A view of the partitions from the day of `opened` on; an empty one where there are none."""
        # A shop's midnight is not the gateway's: the day before may hold the first exposures.
        first = f"day={opened - timedelta(days=1):%Y-%m-%d}"
        files = [str(file) for file in sorted((root / name).glob("day=*/*.parquet")) if file.parent.name >= first]
        if not files:
            empty = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
            self._sql.execute(f"CREATE VIEW {name} AS SELECT {empty} WHERE false")
            return
        relation = f"read_parquet({_literal(files)}, union_by_name = true, hive_partitioning = false)"
        try:
            found = {row[0] for row in self._sql.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
        except _UNREADABLE as error:
            raise LogFault(f"{root / name}: a file is no Parquet ({error}). Restore or remove the file.") from error
        if missing := sorted(set(columns) - found - set(LATER)):
            raise LogFault(
                f"{root / name}: no column {', '.join(missing)}; expected {', '.join(columns)} (docs/contracts.md). "
                "Was it written by another version of the gateway?"
            )
        chosen = ", ".join(
            f"{column if column in found else 'NULL'}::{kind} AS {column}" for column, kind in columns.items()
        )
        self._sql.execute(f"CREATE VIEW {name} AS SELECT {chosen} FROM {relation}")

    def traffic(self, stage: int | None) -> LoggedTraffic:
        """Counts; `stage` is the present one."""
        wrong = f"stage IS NOT NULL AND (variant = 'challenger') != ({PLACE_SQL} < weight)"
        total, misdrawn, latest, here = self._row(
            f"""SELECT count(*), count(*) FILTER ({wrong}), max(time),
                count(*) FILTER (variant = 'challenger' AND stage = $stage)
            FROM exposure""",
            {"stage": stage},
        )
        return LoggedTraffic(
            exposures=total,
            stage_exposures=here,
            misdrawn=misdrawn,
            latest=latest,
            busiest=self._row(_BUSIEST)[0] or 0.0,
        )

    def draws(self) -> list[Draws]:
        """Who was drawn into which arm, each chance once.

        A user who is new is drawn with the weight w; one who met the champion at weight v before, with
        (w - v) / (1 - v); one who met the challenger stays there, which is no draw.
        """
        return [Draws(*row) for row in self._sql.execute(_DRAWS).fetchall()]

    def successes(self) -> Sums:
        """Successful exposures ("success") of both arms side by side, without each stage's novelty window and without
        exposures too young for their outcome; a stratum is a stage, a day and a placement."""
        counted = {"novelty": self._policy.hours("novelty"), "until": self._now - self._policy.hours("attribution")}
        return self._sums(_SUCCESSES, counted)

    def technical(self, *, full: bool) -> Sums:
        """What the guardrails watch, as sums of bad exposures: "errors", "empties", "slow_p50", "slow_p99", "overlap".

        Side by side by stage, day and placement; or (`full`) through full traffic and the watch too, against the
        holdout that kept the champion of before. A log of before there was one compares with the last stage that had
        both. Slow
        means slower than the champion's own quantile of the stratum, for the challenger by the policy's factor more.
        Overlap is the mean share of an answer's items that an answer of the same arm to another user shows too; its
        inverse measures how many different items the arm shows.
        """
        factors = {"p50": self._policy.p50_factor, "p99": self._policy.p99_factor}
        compared = _CONCURRENT
        if full:
            (held,) = self._row(f"SELECT count(*) FROM exposure WHERE variant = 'former' OR weight = {1 - HOLDOUT}")
            compared = _HELD if held else _FULL
        return self._sums(_TECHNICAL.format(compared=compared, most=MOST_OF_USER), factors)

    def _sums(self, query: str, parameters: dict[str, Any]) -> Sums:
        found = self._sql.execute(query, parameters).fetchnumpy()
        user, stratum, treated, exposures = (found.pop(name) for name in ("user", "stratum", "treated", "exposures"))
        outcomes = {name: column.astype(float) for name, column in found.items()}
        return Sums(user.astype(int), stratum.astype(int), treated.astype(float), exposures.astype(float), outcomes)

    def _row(self, query: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        row = self._sql.execute(query, parameters).fetchone()
        assert row is not None
        return tuple(row)


def _literal(files: list[str]) -> str:
    return f"[{literals(files)}]"


_DRAWN = """
CREATE TEMP TABLE drawn AS
    SELECT * FROM exposures WHERE salt = $salt AND time <= $now
    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY time) = 1
"""

_SHOPPER = """
CREATE TEMP TABLE shopper AS
    SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS "user" FROM (SELECT DISTINCT user_id FROM drawn)
"""

_EXPOSURE = """
CREATE TEMP TABLE exposure AS
    SELECT drawn.*, "user", success.request_id IS NOT NULL AS success,
        min(time) OVER (PARTITION BY stage) AS stage_began
    FROM drawn JOIN shopper USING (user_id) LEFT JOIN (
        SELECT DISTINCT request_id FROM outcomes JOIN drawn USING (request_id)
        WHERE event_type = $outcome AND outcomes.time <= $now
            AND outcomes.time BETWEEN drawn.time - $tolerance AND drawn.time + $attribution
    ) AS success USING (request_id)
"""

_PLACEMENT = "coalesce(placement, 'for_you')"
"""What is asked for in one place of a shop and answered at its own pace is compared with its like alone."""

_CONCURRENT = f"""
    SELECT *, dense_rank() OVER (ORDER BY stage, time::DATE, {_PLACEMENT}) - 1 AS stratum,
        (variant = 'challenger')::INTEGER AS treated
    FROM exposure WHERE stage IS NOT NULL AND weight < 1
"""

_CAPPED = f"""
    QUALIFY row_number() OVER (PARTITION BY stage, time::DATE, "user" ORDER BY time, request_id) <= {MOST_OF_USER}
"""

_FULL = """
    SELECT *, 0 AS stratum, (stage IS NULL OR weight = 1)::INTEGER AS treated
    FROM exposure WHERE stage IS NULL OR weight = 1 OR (
        variant = 'champion' AND stage = (SELECT max(stage) FROM exposure WHERE weight < 1)
    )
"""

_HELD = f"""
    SELECT *, dense_rank() OVER (ORDER BY coalesce(stage, 2147483647), time::DATE, {_PLACEMENT}) - 1 AS stratum,
        (CASE WHEN stage IS NULL THEN variant != 'former' ELSE variant = 'challenger' END)::INTEGER AS treated
    FROM exposure WHERE stage IS NULL OR weight < 1
"""

_BUSIEST = f"""
    SELECT max(mine) / sum(mine) FROM (SELECT count(*) AS mine FROM ({_CONCURRENT}{_CAPPED}) GROUP BY "user")
"""

_SUCCESSES = f"""
SELECT "user", stratum, treated, count(*) AS exposures, count(*) FILTER (success) AS success
FROM ({_CONCURRENT}{_CAPPED})
WHERE time >= stage_began + $novelty AND time <= $until
GROUP BY ALL ORDER BY stratum, treated, "user"
"""

_TECHNICAL = """
WITH compared AS (
    -- Of the model's own calls: what the store or the load kept from it is no fault of either model.
    SELECT * FROM ({compared}) WHERE coalesce(cause, 'model') = 'model'
    QUALIFY row_number() OVER (PARTITION BY stratum, "user" ORDER BY time, request_id) <= {most}
),
bound AS (
    SELECT stratum, quantile_cont(latency_ms, 0.5) AS p50, quantile_cont(latency_ms, 0.99) AS p99
    FROM compared WHERE treated = 0 GROUP BY stratum
),
answer AS (SELECT stratum, treated, "user", items FROM compared WHERE n_items > 0),
shown AS (
    SELECT stratum, treated, "user", item, count(*) AS times, sum(share) AS share
    FROM (SELECT stratum, treated, "user", unnest(list_distinct(items)) AS item, 1 / len(items) AS share FROM answer)
    GROUP BY ALL
),
answers AS (SELECT stratum, treated, "user", count(*) AS own FROM answer GROUP BY ALL),
overlap AS (
    SELECT stratum, treated, "user", sum(share * (everybody - times) / nullif(total - own, 0)) AS overlap
    FROM (SELECT *, sum(times) OVER (PARTITION BY stratum, treated, item) AS everybody FROM shown)
    JOIN (SELECT *, sum(own) OVER (PARTITION BY stratum, treated) AS total FROM answers)
        USING (stratum, treated, "user")
    GROUP BY ALL
),
counted AS (
    SELECT "user", stratum, treated, count(*) AS exposures,
        count(*) FILTER (status != 'ok') AS errors,
        count(*) FILTER (n_items = 0 AND status != 'error') AS empties,
        count(*) FILTER (latency_ms > p50 * CASE treated WHEN 1 THEN $p50 ELSE 1 END) AS slow_p50,
        count(*) FILTER (latency_ms > p99 * CASE treated WHEN 1 THEN $p99 ELSE 1 END) AS slow_p99
    FROM compared LEFT JOIN bound USING (stratum) GROUP BY ALL
)
SELECT counted.*, coalesce(overlap, 0) AS overlap
FROM counted LEFT JOIN overlap USING (stratum, treated, "user") ORDER BY stratum, treated, "user"
"""

_DRAWS = """
WITH met AS (
    SELECT "user", stage, max(weight) AS weight, bool_or(variant = 'challenger') AS challenger
    FROM exposure WHERE stage IS NOT NULL AND weight < 1 GROUP BY ALL
),
drawn_before AS (
    SELECT *, coalesce(max(weight) OVER earlier, 0) AS before,
        coalesce(bool_or(challenger) OVER earlier, false) AS stays
    FROM met WINDOW earlier AS (
        PARTITION BY "user" ORDER BY stage ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT (weight - before) / (1 - before) AS chance, count(*), count(*) FILTER (challenger)
FROM drawn_before WHERE NOT stays GROUP BY before, weight ORDER BY before, weight
"""
