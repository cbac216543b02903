"""What comes after a ranking: the milliseconds that it costs, and a million draws held against their law (chi-square).

In one process, without HTTP, store and model. 10,000 items, of which 1,000 are withdrawn; rules of every kind at once.
"""

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from scipy import stats

from events.consumer.impressions import MOST_ITEMS
from experiments.rules import Rules
from experiments.rules_table import RulesVersion
from runtime.task import commit
from serving.gateway.after.after import After
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.compiled import Explorable, compiled
from serving.gateway.after.news import News
from serving.gateway.after.showing import ShowingLimits, show
from serving.gateway.after.stock import Stock
from serving.scoring.placed import FOR_YOU

RESULTS = Path(__file__).parents[1] / "results" / "after.json"
ITEMS, WITHDRAWN, K, TIMES, DRAWS = 10_000, 1_000, 10, 3_000, 1_000_000
NOW = datetime(2026, 1, 5, tzinfo=UTC)
SLOTS, NEW, SHARE = 8, 24, 0.25
"""Of the requests whose draws are counted: all slots explore."""


def shop(rng: np.random.Generator) -> ServedCatalogue:
    features = {
        "brand": [f"b{n}" for n in rng.integers(0, 200, ITEMS)],
        "category": [f"c{n}" for n in rng.integers(0, 40, ITEMS)],
        "price": rng.uniform(1, 50, ITEMS).round(2).tolist(),
    }
    items = {"item_id": [f"i{n:07d}" for n in range(ITEMS)], "events": rng.integers(0, 500, ITEMS).tolist()}
    kinds = {"brand": "categorical", "category": "categorical", "price": "numeric"}
    return ServedCatalogue({**items, "features": features}, kinds)


def rules(catalogue: ServedCatalogue, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Some of each kind, alone and together."""
    ids = rng.choice(catalogue.ids, 40, replace=False).tolist()
    every = {
        "blocks": [{"where": {"brand": [f"b{n}"]}} for n in range(10)] + [{"items": ids[n : n + 2]} for n in range(10)],
        "pins": [{"item": ids[30 + n], "slot": n + 2} for n in range(2)],
        "boosts": [{"where": {"category": [f"c{n}"]}, "factor": 1.5} for n in range(9)]
        + [{"where": {"price": {"max": 5}}, "share": 0.2}],
        "value": {"by": "price", "alpha": 0.5},
        "diversity": {"caps": {"brand": 2}, "alike": {"relevance": 0.7, "by": ["brand", "category"]}},
        "exploration": {"share": 0.1, "slots": [4, 8], "most_events": 20},
        "fatigue": {"after": 3},
    }
    return {"nothing": {}, **{name: {name: value} for name, value in every.items()}, "all at once": every}


def milliseconds(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """At p10, p50 and p99: of what comes after the ranking, and of reading the more candidates that it needs."""
    catalogue = shop(rng)
    found: dict[str, dict[str, float]] = {}
    for name, plain in rules(catalogue, rng).items():
        after = After(News(None, None), lambda: NOW)
        after.news.rules = RulesVersion(number=1, rules=Rules.of(plain))
        after.news.stock.withdrawn = set(rng.choice(catalogue.ids, WITHDRAWN, replace=False).tolist())
        count, taken = after.candidates(catalogue, K), []
        bodies = [_body(catalogue, rng, count) for _ in range(50)]
        shown = [_impressions(catalogue, rng) if "fatigue" in plain else b"{}" for _ in range(50)]
        fewer = [orjson.dumps(orjson.loads(body)[:K]) for body in bodies]
        for number in range(TIMES):
            hidden = frozenset(catalogue.ids[:50])
            began = time.perf_counter()
            rule, impressions = after.fatigue(catalogue, FOR_YOU), orjson.loads(shown[number % 50])
            tired = frozenset[str]() if rule is None else after.tired(rule, impressions)
            asked = ShowingLimits(k=K, request_id=str(number), hidden=hidden, tired=tired)
            ranked = orjson.loads(bodies[number % 50])
            after.candidates(catalogue, K)
            after.show(catalogue, asked, ranked, counts=False)
            ended = time.perf_counter()
            orjson.loads(fewer[number % 50])
            taken.append(1000 * (ended - began - (time.perf_counter() - ended)))
        found[name] = {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (10, 50, 99)}
    return found


def _body(catalogue: ServedCatalogue, rng: np.random.Generator, count: int) -> bytes:
    score = np.sort(rng.normal(size=count))[::-1].tolist()
    ids = rng.choice(catalogue.ids, count, replace=False).tolist()
    return orjson.dumps([{"item_id": i, "score": s, "title": f"Kettle {i}"} for i, s in zip(ids, score, strict=True)])


def _impressions(catalogue: ServedCatalogue, rng: np.random.Generator) -> bytes:
    """As many as are kept of a shopper, half of them often enough to tire."""
    ids = rng.choice(catalogue.ids, MOST_ITEMS, replace=False).tolist()
    return orjson.dumps({item: [int(NOW.timestamp())] * (2 + n % 2) for n, item in enumerate(ids)})


def law(draws: int) -> dict[str, Any]:
    """Each slot of each request is a draw: which item explores it, or that none does, against what is logged."""
    ids = [f"i{n}" for n in range(2 * NEW)]
    events = [0] * NEW + [100] * NEW
    plain = Rules.of({"exploration": {"share": SHARE, "most_events": 0}})
    made = compiled(RulesVersion(number=1, rules=plain), ServedCatalogue({"item_id": ids, "events": events}, {}), NOW)
    explorable, stock, number = Explorable(made), Stock(), {item: n for n, item in enumerate(ids)}
    ranked = [{"item_id": item, "score": -float(n)} for n, item in enumerate([*ids[NEW : NEW + 8], *ids[:4]])]
    seen, expected = np.zeros((SLOTS, NEW + 1)), np.zeros((SLOTS, NEW + 1))
    wrong = 0
    for request in range(draws // SLOTS):
        asked = ShowingLimits(k=SLOTS, request_id=f"law {request}", hidden=frozenset())
        found = show(made, explorable, stock, asked, ranked, counts=False)
        open_E = np.ones(NEW + 1)
        for slot, (item, origin) in enumerate(zip(found.items, found.origins, strict=True)):
            left = open_E[:NEW].sum()
            expected[slot, :NEW] += SHARE / left * open_E[:NEW]
            expected[slot, NEW] += 1 - SHARE
            place = number[item["item_id"]]
            explored = origin == "explored"
            seen[slot, place if explored else NEW] += 1
            if place < NEW:
                open_E[place] = 0
            # The best candidate is no new item, as there are eight others before the first of these.
            wrong += abs(found.propensities[slot] - (SHARE / left if explored else 1 - SHARE)) > 1e-12
    # Of each slot the cells are of one draw, and what is expected of it is known before it: Pearson's statistic.
    statistic = float(((seen - expected) ** 2 / expected).sum())
    freedom = SLOTS * NEW
    return {
        "draws": int(seen.sum()),
        "explored": int(seen[:, :NEW].sum()),
        "chi_square": round(statistic, 1),
        "degrees_of_freedom": freedom,
        "p": round(float(stats.chi2.sf(statistic, freedom)), 4),
        "wrong_propensities": int(wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args()
    told = {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "items": ITEMS}
    times = milliseconds(np.random.default_rng(0))
    print(json.dumps(times, indent=1), flush=True)
    counted = law(options.draws)
    print(json.dumps(counted, indent=1))
    result = {**told, "withdrawn": WITHDRAWN, "k": K, "milliseconds": times, "law": counted}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
