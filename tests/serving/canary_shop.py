"""A shop that writes the event log of a gateway: it serves what the rollout says, for as long as it is told to."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.assignment import place
from experiments.document import Rollout

ITEMS = 200
K = 5


class CanaryShop:
    """Shoppers with habits of their own. `challenger` says how that arm differs: its `rate` of clicks, `errors`,
    `empties`, `slow` (factor of the latency), `items` (how many different ones it shows), `lost` (share of its users
    whose log is missing).
    """

    def __init__(
        self, root: Path, *, users: int = 2000, a_day: float = 2.0, seed: int = 0, **challenger: float
    ) -> None:
        self.root, self.a_day = root, a_day
        self.rng = np.random.default_rng(seed)
        self.ids = np.array([f"u{number}" for number in range(users)])
        self.activity = self.rng.lognormal(-0.32, 0.8, users)
        self.taste = self.rng.lognormal(-0.08, 0.4, users)
        self.fate = self.rng.random(users)
        champion = {"rate": 0.2, "errors": 0.002, "empties": 0.002, "slow": 1.0, "items": ITEMS, "lost": 0.0}
        self.behaviour = {"champion": champion, "challenger": {**champion, **challenger}}
        self.served = 0

    def serve(self, rollout: Rollout, start: datetime, hours: float = 6.0) -> None:
        """Write the exposures and clicks of the hours after `start` into one file of each table, the day of `start`."""
        number = self.rng.poisson(self.activity * self.a_day * hours / 24)
        user = np.repeat(np.arange(len(self.ids)), number)
        rows = len(user)
        places = np.array([place(rollout.salt, name) for name in self.ids])[user]
        treated = places < rollout.weight
        # Once promoted the new model answers as champion.
        acts = treated | (rollout.former is not None)
        like = {
            name: np.where(acts, self.behaviour["challenger"][name], self.behaviour["champion"][name])
            for name in self.behaviour["champion"]
        }
        draw = self.rng.random((4, rows))
        error, empty = draw[0] < like["errors"], draw[1] < like["empties"]
        none = error | empty
        first = self.rng.integers(0, like["items"].astype(int))
        items = [[] if blank else [f"i{(at + step * 7) % int(most)}" for step in range(K)]
                 for blank, at, most in zip(none, first, like["items"], strict=True)]  # fmt: skip
        offset = np.sort(self.rng.random(rows)) * hours * 3600
        times = [start + timedelta(seconds=float(seconds)) for seconds in offset]
        request = [f"r{self.served + row}" for row in range(rows)]
        self.served += rows
        kept = np.flatnonzero(~(treated & (self.fate[user] < like["lost"])))
        exposures = {
            "request_id": request,
            "user_id": self.ids[user].tolist(),
            "variant": np.where(treated, "challenger", "champion").tolist(),
            "model_version": ["v"] * rows,
            "stage": [rollout.stage] * rows,
            "weight": [rollout.weight] * rows,
            "salt": [rollout.salt] * rows,
            "time": times,
            "latency_ms": (self.rng.lognormal(2.5, 0.4, rows) * like["slow"]).tolist(),
            "status": np.where(error, "error", "ok").tolist(),
            "n_items": [len(shown) for shown in items],
            "items": items,
        }
        self._write("exposures", start, pa.table(exposures, schema=EXPOSURE).take(pa.array(kept)))
        clicked = np.flatnonzero((draw[2] < like["rate"] * self.taste[user]) & ~none)
        outcomes = {
            "request_id": [request[row] for row in clicked],
            "event_type": ["click"] * len(clicked),
            "time": [times[row] + timedelta(seconds=30) for row in clicked],
        }
        self._write("outcomes", start, pa.table(outcomes, schema=OUTCOME))

    def _write(self, table: str, start: datetime, rows: Any) -> None:
        folder = self.root / table / f"day={start:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"{start:%H%M%S}.parquet")


_TIME = pa.timestamp("us", tz="UTC")
EXPOSURE = pa.schema(
    [
        ("request_id", pa.string()), ("user_id", pa.string()), ("variant", pa.string()), ("model_version", pa.string()),
        ("stage", pa.int32()), ("weight", pa.float64()), ("salt", pa.string()), ("time", _TIME),
        ("latency_ms", pa.float64()), ("status", pa.string()), ("n_items", pa.int32()),
        ("items", pa.list_(pa.string())),
    ]
)  # fmt: skip
OUTCOME = pa.schema([("request_id", pa.string()), ("event_type", pa.string()), ("time", _TIME)])
