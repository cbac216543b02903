"""The commands of the library over a card's data: `python -m pipelines compare|recommend|audience`."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from feature_repo.card import load_card
from pipelines.data_commands import (
    CARD,
    moment,
    new_run_id,
    with_options,
)
from pipelines.lock import run_lock
from pipelines.recipe_files import RECIPE, SETTING
from runtime.errors import InputError

if TYPE_CHECKING:
    from heterrec.plugins import Plugins

PLUGINS = "a Python file with BASELINES, RECIPES or both, by name; it is run, so name files that you trust"


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    compare = commands.add_parser("compare", help="recipes and baselines on one card, with intervals; releases nothing")
    compare.add_argument("dataset", metavar="CARD", help=CARD)
    compare.add_argument(
        "recipes", nargs="+", metavar="RECIPE", help=f"{RECIPE}; or a baseline. The others are held against the first"
    )
    compare.add_argument("--seeds", type=_positive, default=1, help="trainings of each recipe (default: %(default)s)")
    compare.add_argument("--budget", choices=("fast", "full"), default="fast", help="fast: minutes on two cores")
    compare.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=f"of every recipe: {SETTING}")
    compare.add_argument("--plugins", type=Path, metavar="FILE.py", help=PLUGINS)
    compare.add_argument("--as-of", default="", help="a day or moment, ISO 8601 (default: the newest event)")
    compare.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="override a source option")
    compare.set_defaults(command=_compare)
    batch = commands.add_parser("recommend", help="the champion's lists for all shoppers at once, as Parquet")
    batch.add_argument("--dataset", default="marketplace", help=CARD)
    batch.add_argument("-k", "--k", type=_positive, default=50, help="items a shopper (default: %(default)s)")
    batch.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new, or one that goes on")
    batch.add_argument(
        "--filters",
        type=_filters,
        metavar="JSON",
        help="""as of a request: '{"brand": ["acme"], "released": {"within_days": 30}}'""",
    )
    batch.add_argument("--processes", type=_positive, default=os.cpu_count() or 1, help="(default: %(default)s)")
    batch.set_defaults(command=_recommend)
    asking = commands.add_parser("audience", help="the shoppers most likely to want an item, for a campaign about it")
    asking.add_argument("--dataset", default="marketplace", help=CARD)
    asking.add_argument(
        "--item", action="append", required=True, metavar="ID", help="the item; given more than once: any of them"
    )
    asking.add_argument("--top", type=_positive, default=1000, help="shoppers at most (default: %(default)s)")
    asking.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends with .parquet or .csv")
    asking.add_argument(
        "--owners",
        action=argparse.BooleanOptionalAction,
        help="who has one of the items already too (default: where the card says `repeats: true`)",
    )
    asking.add_argument("--processes", type=_positive, default=os.cpu_count() or 1, help="(default: %(default)s)")
    asking.set_defaults(command=_audience)


def plugins_of(path: Path | None) -> "Plugins":
    """`--plugins` read; `InputError` names the file and what is wrong with it."""
    from heterrec.plugins import load_plugins

    try:
        return load_plugins(path)
    except ValueError as error:
        raise InputError(f"--plugins {error}") from error


def _compare(options: argparse.Namespace) -> int:
    from pipelines.compare import compare
    from pipelines.local import set_environment

    set_environment()
    card = with_options(load_card(options.dataset), options.option)
    plugins = plugins_of(options.plugins)
    run_id = new_run_id(card.name, "compare")
    show = Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    with run_lock(run_id):
        found = compare(
            card,
            options.recipes,
            budget=options.budget,
            seeds=options.seeds,
            settings=options.set,
            plugins=plugins,
            as_of=moment(options.as_of),
            run_id=run_id,
        )
        show(escape(str(found.contest)))
        show(f"numbers: {escape(str(found.result))}")
        show(f"page: {escape(str(found.page))}")
    return 0


def _recommend(options: argparse.Namespace) -> int:
    from components.recommend.step import of_champion
    from pipelines.local import set_environment

    set_environment()
    show = Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    tenths = -1

    def told(done: int, of: int) -> None:
        nonlocal tenths
        if of and done * 10 // of > tenths:
            tenths = done * 10 // of
            show(f"  {done:,} of {of:,} parts")

    name = load_card(options.dataset).name
    done = of_champion(
        name, k=options.k, out=options.out, filters=options.filters, processes=options.processes, told=told
    )
    for problem in done.problems:
        show(f"  left out: {escape(problem)}")
    before = f", {done.found:,} of {done.plan.parts:,} parts were there" if done.found else ""
    show(
        f"{done.rows:,} rows of {done.plan.shoppers:,} shoppers, by {escape(name)} {escape(done.plan.version)}{before}"
    )
    show(f"written to {escape(str(options.out))}")
    return 0


def _audience(options: argparse.Namespace) -> int:
    from pipelines.audience import of_champion
    from pipelines.local import set_environment

    set_environment()
    name = load_card(options.dataset).name
    found, version = of_champion(
        name,
        items=options.item,
        top=options.top,
        out=options.out,
        owners=options.owners,
        processes=options.processes,
    )
    show = Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    show(
        f"{len(found.best):,} of {found.shoppers:,} shoppers, by {escape(name)} {escape(version)}; "
        f"{found.unknown:,} have no history, {found.owners:,} have one of the items already"
    )
    show(f"written to {escape(str(options.out))}")
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def _filters(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an object of features and what is wanted of them")
    return found
