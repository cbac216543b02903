"""What orders a shopper's own purchases best, where things are bought again: `make bench-buy-again`.

Online Retail, each shopper's first invoice of the last 28 days; asked for are those of its items that the shopper had
bought before, among all that the shopper had bought before. What is known of the shop is counted from before those
days. Ties are broken by chance. Paired bootstrap over shoppers, against the last row.
"""

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from benchmarks.model.data import card_of
from components.ingest import step as ingest
from components.package.item_metadata import returns
from heterrec.data.prepare import prepare
from heterrec.evaluation.comparison import paired_bootstrap
from runtime.task import commit
from serving.gateway.placements.returns import Returns

RESULTS = Path(__file__).parents[1] / "results" / "buy_again.json"
DAYS, K = 28, 10
Purchases = list[tuple[str, datetime]]
Order = Callable[[Purchases, datetime], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--back", type=int, default=0, help="days that the question lies earlier: 28 is validation")
    options = parser.parse_args()
    orders, asked = questions(purchases(), options.back)
    found = {name: np.array([ndcg(order, *each) for each in asked]) for name, order in orders.items()}
    *_, ours = found.values()
    rows = []
    for name, values in found.items():
        against = paired_bootstrap(ours, values)
        rows.append({"by": name, "ndcg": values.mean(), "ours less it": [against.mean, against.low, against.high]})
    table = Table("own purchases by", "NDCG@10", "ours less it", "95 % interval")
    for row in rows:
        mean, low, high = row["ours less it"]
        table.add_row(row["by"], f"{row['ndcg']:.4f}", f"{mean:+.4f}", f"[{low:+.4f}, {high:+.4f}]")
    Console().print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result = {"commit": commit(), "machine": machine, "days_back": options.back, "shoppers": len(asked), "rows": rows}
    if not options.back:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def purchases() -> pa.Table:
    """The interactions that ingest accepts, in order."""
    with tempfile.TemporaryDirectory() as folder:
        ingest.run(card=card_of("online_retail"), events=Path(folder))
        columns = ["user_id", "item_id", "basket", "event_time"]
        table = ds.dataset(Path(folder) / "interactions", partitioning=None).to_table(columns)
    return table.sort_by([(name, "ascending") for name in ("user_id", "event_time", "basket", "item_id")])


def questions(lines: pa.Table, back: int) -> tuple[dict[str, Order], list[tuple[Purchases, datetime, set[str]]]]:
    """The orders; and of each shopper the purchases before, the moment of the question, and what was bought again."""
    times = np.asarray(lines["event_time"].combine_chunks().cast(pa.timestamp("us")), "datetime64[us]")
    until = times.max() - np.timedelta64(back, "D")
    since = until - np.timedelta64(DAYS, "D")
    before = lines.filter(pa.array(times < since))
    rhythm, share = returns(known := prepare(before, repeats=True, ties="basket", basket="basket"))
    assert rhythm is not None and share is not None
    shares = dict(zip(known.catalogue.item_ids, share, strict=True))
    ours, alike = Returns(rhythm=rhythm, share=shares), Returns(rhythm=rhythm, share=dict.fromkeys(shares, 1.0))
    orders: dict[str, Order] = {
        "latest first": lambda past, now: {item: (time - now).total_seconds() for item, time in past},
        "most often": lambda past, now: _often(past),
        "most often, fading": lambda past, now: dict(alike.of(_events(past), now)),
        "most often, fading, and how such items come again": lambda past, now: dict(ours.of(_events(past), now)),
    }
    asked, per_user = [], {}
    moments = times.astype("datetime64[s]").tolist()
    for user, item, basket, time, us in zip(
        *(lines[name].to_pylist() for name in ("user_id", "item_id", "basket")), moments, times, strict=True
    ):
        per_user.setdefault(user, []).append((item, basket, time.replace(tzinfo=UTC), us))
    for bought in per_user.values():
        first = next((each for each in bought if since <= each[3] <= until), None)
        if first is None:
            continue
        past = [(item, time) for item, _, time, us in bought if us < since and item in shares]
        wanted = {item for item, basket, _, _ in bought if basket == first[1]} & {item for item, _ in past}
        if wanted:
            asked.append((past, first[2], wanted))
    return orders, asked


def ndcg(order: Order, past: Purchases, now: datetime, wanted: set[str]) -> float:
    score = order(past, now)
    chance = np.random.default_rng(len(past)).permutation(len(score))
    best = [item for _, _, item in sorted(zip([-s for s in score.values()], chance, score, strict=True))][:K]
    gain = [1 / math.log2(place + 2) for place in range(K)]
    return sum(gain[place] for place, item in enumerate(best) if item in wanted) / sum(gain[: len(wanted)])


def _often(past: Purchases) -> dict[str, float]:
    count: dict[str, float] = {}
    for item, _ in past:
        count[item] = count.get(item, 0.0) + 1
    return count


def _events(past: Purchases) -> Sequence[dict[str, Any]]:
    return [{"item_id": item, "event_time": time.isoformat()} for item, time in past]


if __name__ == "__main__":
    main()
