"""From nothing to a promoted challenger: a shop trains, serves its shoppers, and canaries decide for themselves.

A better model is promoted, a worse one sent back, and three broken ones are out of traffic within two seconds.
The days of the shop are simulated, everything else is real: pipeline, TorchServe, gateway, consumer, judge.
`make demo`
"""

import argparse
import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.serving.sabotage import (
    FAULTS,
    Fault,
    faulty,
    worse,
)
from benchmarks.serving.shop_floor import ShopFloor
from benchmarks.serving.shoppers import Tally
from experiments import transitions
from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    opened,
)
from experiments.table import RolloutTable
from runtime import workspace
from serving.torchserve import archive

MODEL = "marketplace"
SHOP = {"users": 1200, "days": 40, "items": 600}
POLICY = {
    "stages": [0.05, 0.25, 0.5, 1.0], "stage_hours": 12, "stage_exposures": 60, "novelty_hours": 3,
    "planned_exposures": 2000, "planned_successes": 200, "watch_hours": 12, "patience_hours": 240,
    "p50_factor": 2.0, "p99_factor": 3.0,
}  # fmt: skip
"""A small shop in a hurry: it looks after half a day where the default policy takes a day. Shoppers, gateway and models
share the cores of one machine here, so that paces differ more than elsewhere."""
A_DAY = 2.5
"""Visits of a shopper."""
LOOK_HOURS = 6.0
MOST_DAYS = 14
OUT_SECONDS = 2.0


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    console, began = Console(highlight=False, soft_wrap=True), time.monotonic()
    shutil.rmtree(workspace.home(), ignore_errors=True)
    console.print("[bold]1. Two models[/]: the neighbour tables alone, then HeterRec")
    for recipe in ("neighbours", "heterrec"):
        _train(recipe)
    pages = asyncio.run(_serve(console))
    seconds = time.monotonic() - began
    console.print(f"\n[bold]done after {seconds // 60:.0f} min {seconds % 60:.0f} s[/]. Pages:")
    for page in (*sorted(workspace.runs().glob("*/page.html")), *pages):
        console.print(f"  {page}")
    return 0


def _train(recipe: str) -> None:
    size = [part for name, value in SHOP.items() for part in ("--option", f"{name}={value}")]
    command = [sys.executable, "-m", "pipelines", "run", "--dataset", MODEL, "--recipe", recipe, *size]
    subprocess.run(command, check=True)


async def _serve(console: Console) -> list[Path]:
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read(MODEL)
        assert row.challenger is not None, "HeterRec was not released: see the page of its run"
        better = row.challenger
        # The pipeline opened the experiment by the wall clock; it is opened again by the shop's.
        back = transitions.roll_back(row, now=_wall(), salt=_salt)
        table.propose(DocumentChange(back, "demo", "to be opened by the shop's clock"), row.version)
    pages = []
    async with ShopFloor(MODEL, SHOP) as floor:
        console.print(f"\n[bold]2. A better challenger[/]  gateway {floor.address}, TorchServe {floor.torchserve}")
        pages.append(await _experiment(floor, better, "better", console))
        champion = floor.row().champion
        assert champion is not None
        console.print("\n[bold]3. A worse challenger[/]: half of the items' vectors have changed places")
        pages.append(await _experiment(floor, _planted(champion, "worse"), "worse", console))
        console.print("\n[bold]4. Broken challengers[/]: sound when they are loaded, at 5 % of the shoppers")
        for fault in FAULTS:
            await _broken(floor, fault, console)
    return pages


async def _experiment(floor: ShopFloor, challenger: ModelVersion, name: str, console: Console) -> Path:
    """Days of shoppers and looks, until the experiment is over."""
    await _open(floor, challenger)
    tally = Tally()
    page = workspace.home() / "demo" / name
    page.mkdir(parents=True, exist_ok=True)
    for look in range(int(MOST_DAYS * 24 / LOOK_HOURS)):
        await floor.trade(LOOK_HOURS, A_DAY, tally)
        report = await floor.look(json.dumps(POLICY), page)
        day = (look + 1) * LOOK_HOURS / 24
        console.print(f"  day {day:5.2f}  {tally.asked:>6,} asked  {report['action']}: {report['why']}")
        await floor.settled()
        row = floor.row()
        if row.challenger is None and row.former is None:
            break
    if tally.failed:
        raise SystemExit(f"{len(tally.failed)} requests had no answer, such as: {tally.failed[0]}")
    champion = floor.row().champion
    assert champion is not None
    wanted = challenger.version if name == "better" else None
    if (champion.version == challenger.version) != (wanted is not None) or floor.row().challenger is not None:
        raise SystemExit(f"the {name} challenger was to be {'promoted' if wanted else 'rolled back'}: {page}/page.html")
    return page / "page.html"


async def _broken(floor: ShopFloor, fault: Fault, console: Console) -> None:
    champion = floor.row().champion
    assert champion is not None
    trigger = workspace.home() / "demo" / f"trigger {fault}"
    trigger.unlink(missing_ok=True)
    challenger = _planted(champion, fault, trigger)
    await _open(floor, challenger)
    tally = Tally()
    shoppers = asyncio.create_task(floor.trade(LOOK_HOURS, A_DAY, tally))
    await asyncio.sleep(1.0)
    trigger.touch()
    began = time.monotonic()
    while challenger.version not in await floor.out_of_traffic():
        if time.monotonic() - began > 5 * OUT_SECONDS:
            raise SystemExit(f"{challenger.version} is still in traffic after {5 * OUT_SECONDS:.0f} s")
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - began
    await shoppers
    served = sum(count for (_, _, status), count in tally.answers.items() if status != "error")
    console.print(
        f"  {fault:<16} out of traffic after {seconds:.2f} s; {served} of {tally.asked} shoppers were answered, "
        f"{sum(n for (_, _, status), n in tally.answers.items() if status == 'fallback')} of them by a fallback"
    )
    if seconds > OUT_SECONDS or served < tally.asked:
        raise SystemExit(f"{fault}: more than {OUT_SECONDS} s, or shoppers without an answer")
    now = floor.clock()
    await floor.propose(lambda row: transitions.roll_back(row, now=now, salt=_salt), "out of traffic: rolled back")


async def _open(floor: ShopFloor, challenger: ModelVersion) -> None:
    weight = POLICY["stages"][0]
    assert isinstance(weight, float)

    def begin(row: Rollout) -> Rollout:
        return replace(opened(row, challenger, now=floor.clock(), salt=_salt), weight=weight)

    await floor.propose(begin, f"{challenger.version} is opened")
    await floor.settled()


def _planted(champion: ModelVersion, kind: Fault | str, trigger: Path | None = None) -> ModelVersion:
    folder = workspace.home() / "demo" / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{kind.replace(' ', '-')}.mar"
    if trigger is None:
        version = worse(Path(champion.archive), out)
    else:
        version = faulty(Path(champion.archive), out, kind, trigger)  # type: ignore[arg-type]
    return ModelVersion(
        version=version,
        archive=str(out),
        archive_digest=archive.digest(out),
        recipe_digest=f"sabotage: {kind}",
        registered=_wall(),
    )


def _wall() -> datetime:
    return datetime.now(UTC)


def _salt() -> str:
    return secrets.token_hex(8)


if __name__ == "__main__":
    sys.exit(main())
