"""Does the data gate leave clean data alone? Trading days night by night, each judged against the nights before.

The marketplace with its dirt, and windows of Online Retail. No night may be blocked; how often it warns is told.
`make bench-gate NIGHTS=60`
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.gate.trading_days import (
    TradingShop,
    marketplace,
    night,
    online_retail,
    trading_days,
)
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "gate_days.json"
WARM_UP = 10
"""Days that are there before the first night."""


@dataclass(frozen=True, kw_only=True)
class DayOutcome:
    commit: str
    shop: str
    first: str
    last: str
    nights: int
    blocked: dict[str, int]
    """Nights by check that blocked."""
    warned: dict[str, int]
    warned_nights: int
    seconds_a_night: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--only", type=int, choices=(0, 1, 2), help="one row of the table; the others stay")
    options = parser.parse_args()
    shops = [
        marketplace(days=WARM_UP + options.nights, users=1000),
        # Spring, and the weeks before Christmas, when a wholesaler of gifts sells most and then next to nothing.
        *(online_retail(first, last, options.nights + WARM_UP) for first, last in (
            (date(2010, 2, 15), date(2010, 7, 31)), (date(2010, 10, 4), date(2011, 2, 28)),
        )),
    ]  # fmt: skip
    console = Console()
    if options.only is None:
        outcomes = [sweep(shop, options.nights, console) for shop in shops]
    else:
        outcomes = [DayOutcome(**row) for row in json.loads(RESULTS.read_text())["rows"]]
        outcomes[options.only] = sweep(shops[options.only], options.nights, console)
    table = Table("shop", "nights", "blocked", "nights that warn", "warned by", "seconds a night")
    for found in outcomes:
        warned = ", ".join(f"{check} {nights}" for check, nights in found.warned.items()) or "none"
        blocked = ", ".join(f"{check} {nights}" for check, nights in found.blocked.items()) or "0"
        where = f"{found.shop}, {found.first} to {found.last}"
        table.add_row(
            where, str(found.nights), blocked, str(found.warned_nights), warned, f"{found.seconds_a_night:.2f}"
        )
    console.print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    rows = [asdict(found) for found in outcomes]
    RESULTS.write_text(json.dumps({"machine": machine, "seed": 3, "rows": rows}, indent=1) + "\n")


def sweep(shop: TradingShop, nights: int, console: Console | None = None) -> DayOutcome:
    """Run the last `nights` of the shop's days. A night that blocks is no reference for the next."""
    # The code that is loaded now; the working tree may move on during the minutes that follow.
    code, days = commit(), trading_days(shop)[-nights:]
    blocked: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    warned_nights, reference, started = 0, None, time.monotonic()
    with TemporaryDirectory(prefix="nights-") as folder:
        for day in days:
            found = night(shop, shop.until(day), day, Path(folder) / str(day), reference)
            unheld = found.unheld()
            blocked.update(check for check, level in unheld.items() if level == "block")
            warned.update(check for check, level in unheld.items() if level == "warn")
            warned_nights += "warn" in unheld.values()
            if found.decision.passed:
                reference = found.reference
            if console is not None and unheld:
                console.print(f"{shop.name} {day:%a %Y-%m-%d} {unheld}")
    return DayOutcome(
        commit=code,
        shop=shop.name,
        first=str(days[0]),
        last=str(days[-1]),
        nights=len(days),
        blocked=dict(blocked),
        warned=dict(warned),
        warned_nights=warned_nights,
        seconds_a_night=round((time.monotonic() - started) / len(days), 2),
    )


if __name__ == "__main__":
    main()
