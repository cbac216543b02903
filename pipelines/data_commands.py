"""The commands of the data side: `python -m pipelines card|check|backfill|catalogue|forget`."""

import argparse
import json
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from feature_repo.card import DatasetCard, load_card
from pipelines.lock import run_lock
from runtime import workspace
from runtime.clocks import end_of
from runtime.errors import InputError
from runtime.task import read_records

CARD = "a card in feature_repo/datasets, or a path to one"


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    card = commands.add_parser("card", help="look at tables and write a card for them, each guess with its evidence")
    card.add_argument(
        "tables", nargs="+", type=Path, metavar="FILE", help="the interactions and the items, in any order"
    )
    card.add_argument("--to", type=Path, help="the card to write (default: NAME.yaml beside the interactions)")
    card.set_defaults(command=_card)
    check = commands.add_parser("check", help="ingest and the data gate alone, with the page; trains nothing")
    check.add_argument("dataset", metavar="CARD", help=CARD)
    check.add_argument("--json", action="store_true", help="for a script")
    check.set_defaults(command=_check, option=[])
    upgrade = commands.add_parser(
        "upgrade", help="a card of before in the present version, and what its workspace needs"
    )
    upgrade.add_argument("card", type=Path, metavar="CARD", help="the path of its .yaml file")
    upgrade.set_defaults(command=_upgrade)
    backfill = commands.add_parser("backfill", help="the training frame of each day, as that day's run saw it")
    backfill.add_argument("first", metavar="FROM", type=_day, help="first day, e.g. 2025-02-01")
    backfill.add_argument("last", metavar="TO", type=_day, help="last day")
    backfill.set_defaults(command=_backfill)
    catalogue = commands.add_parser("catalogue", help="serve new items and prices without training")
    catalogue.add_argument(
        "--as-of", default="", help="now, a day, or a moment in ISO 8601 (default: the newest event)"
    )
    catalogue.set_defaults(command=_catalogue)
    forget = commands.add_parser("forget", help="delete users: online, in every partition, and what was made of them")
    forget.add_argument("users", nargs="+", metavar="USER")
    forget.set_defaults(command=_forget)
    for command in (backfill, catalogue, forget):
        command.add_argument("--dataset", default="marketplace", help=CARD)
        command.add_argument(
            "--option", action="append", default=[], metavar="NAME=VALUE", help="override a source option"
        )


def moment(text: str) -> str:
    """`--as-of` as ISO 8601 in UTC; a day means its last moment, "now" this one, nothing the newest event."""
    if not text:
        return ""
    if text == "now":
        return datetime.now(UTC).isoformat()
    try:
        if len(text) == len("2026-01-31"):
            return end_of(date.fromisoformat(text)).isoformat()
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--as-of {text!r}: expected a day, or an ISO 8601 time such as 2026-01-31T00:00:00Z"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def with_options(card: DatasetCard, settings: list[str]) -> DatasetCard:
    """The card with `source.options` overridden by NAME=VALUE settings (YAML values)."""
    import yaml

    changed = dict(card.source.options)
    for setting in settings:
        name, found, value = setting.partition("=")
        if not found:
            raise InputError(f"--option {setting!r}: expected NAME=VALUE, e.g. --option days=30")
        changed[name] = yaml.safe_load(value)
    return card.model_copy(update={"source": card.source.model_copy(update={"options": changed})})


def _card(options: argparse.Namespace) -> int:
    from pipelines.write_card import write_card

    path = write_card(options.tables, options.to)
    show = Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    show(f"card: {escape(str(path))}  (each line says what it was seen by; correct it where it is wrong)")
    show(f"next: python -m pipelines check {escape(str(path))}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from components.features.power import power
    from pipelines.check import check
    from pipelines.local import set_environment

    set_environment()
    card = load_card(options.dataset)
    found = check(card)
    if options.json:
        print(json.dumps(found.as_json(), indent=1, default=str))
        return 0
    report, show = found.report, Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in report["reasons"].items())
    show(f"  {report['rows']:,} rows: {report['accepted']:,} accepted, {report['rejected']:,} set aside {reasons}")
    show(
        f"  {report['users']:,} shoppers, {report['items']:,} items, {report['first_event']} to {report['last_event']}"
    )
    told = power(found.judges, card.split.by)
    show(f"  {'' if told.enough else '[yellow]few[/]: '}{escape(told.sentence)}")
    for ahead in found.plans:
        show(f"  {escape(ahead.model)} would train {escape(ahead.sentence)}")
    for note in report["notes"]:
        show(f"  {escape(note)}")
    for reason in found.decision.reasons:
        if not reason.held:
            mark = "[red]blocks[/]" if reason.level == "block" else "[yellow]warns[/]"
            show(f"  {mark} {escape(reason.check)}: {escape(reason.message)}")
            show(f"      to change it: {escape(reason.remedy)}")
    show("[bold]passed[/]" if found.decision.passed else f"[bold]blocked[/]  card: {escape(options.dataset)}")
    show(f"page: {found.page}")
    return 0


def _upgrade(options: argparse.Namespace) -> int:
    from pipelines.upgrade import upgrade

    for line in upgrade(options.card):
        Console(file=sys.stdout, highlight=False, soft_wrap=True).print(escape(line))
    return 0


def _backfill(options: argparse.Namespace) -> int:
    from pipelines.frames import backfill

    if options.last < options.first:
        raise InputError(f"backfill: TO {options.last} lies before FROM {options.first}")
    card = with_options(load_card(options.dataset), options.option)
    run_id = new_run_id(card.name, "backfill")
    show = Console(highlight=False, soft_wrap=True).print
    with run_lock(run_id):
        for day in backfill(card, options.first, options.last, run_id=run_id):
            if day.digest is None:
                why = day.frame.decision.blocking[0]
                show(f"  {day.day}  [yellow]blocked[/]  {escape(f'{why.check}: {why.message} {why.remedy}')}")
                continue
            known = {None: "new", day.digest: "as before"}.get(day.before, f"[yellow]was {str(day.before)[:12]}[/]")
            show(f"  {day.day}  {day.digest[:12]}  {day.frame.report['events']:>10,} events  {known}")
    return 0


def _catalogue(options: argparse.Namespace) -> int:
    from pipelines.catalogue import refresh

    card = with_options(load_card(options.dataset), options.option)
    run_id = new_run_id(card.name, "catalogue")
    console = Console(highlight=False, soft_wrap=True)
    with run_lock(run_id):
        records, arms = refresh(card, moment(options.as_of), run_id=run_id)
    items = records["features"].report["items"]
    console.print(f"  catalogue as of {records['resolve'].report['as_of'][:16]}: {items:,} items, in the online store")
    for arm in arms:
        news = f"{arm.report['items']:,} items, {arm.report['new_items']:,} of them new"
        console.print(f"  {arm.arm:<10} {arm.before} -> {arm.version}  [bold]{arm.status}[/]  {news}")
    console.print(f"page: {workspace.runs() / run_id / 'page.html'}")
    return 0


def _forget(options: argparse.Namespace) -> int:
    from pipelines.forget import forget
    from pipelines.local import logged

    card = with_options(load_card(options.dataset), options.option)
    run_id = new_run_id(card.name, "forget")
    show = Console(file=sys.stdout, highlight=False, soft_wrap=True).print
    with run_lock(run_id):
        try:
            with logged(run_id):
                deleted = forget(card, options.users, run_id=run_id)
        except SystemExit:
            # A task ends its process over a fault of the input; here that process is ours.
            (fault,) = (record.error for record in read_records(run_id).values() if record.error)
            raise InputError(fault) from None
        online = ("online, in the event log and " if deleted.log else "online and ") if deleted.online else ""
        show(
            f"  deleted {len(options.users)} users {online}offline, "
            f"and with them {deleted.artifacts} artifacts that named users"
        )
        for user in deleted.strangers:
            show(f"  [yellow]{escape(repr(user))} had no event[/]: is it the id as the data has it, or deleted before?")
        for version in deleted.releases:
            show(
                f"  [yellow]release {escape(version)} shows one of them, or remembers what one bought[/]: make it anew "
                "from what is left, with `python -m pipelines catalogue`, or train and release anew"
            )
    return 0


def new_run_id(*names: str) -> str:
    """Of a run that begins now; a second that has one already is waited out."""
    while True:
        found = "-".join([*names, f"{datetime.now(UTC):%Y%m%dT%H%M%S}"])
        if not (workspace.runs() / found).exists():
            return found
        time.sleep(0.1)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a day such as 2026-01-31") from None
