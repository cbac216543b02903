"""The command line of the pipelines; `python -m pipelines --help` lists its commands."""

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments.database import TableAway
from feature_repo.card import load_card
from feature_repo.faults import Unavailable
from pipelines import cluster_commands, data_commands, library_commands
from pipelines.data_commands import moment, new_run_id, with_options
from pipelines.recipe_files import RECIPE, SETTING
from pipelines.stopping import Stopped, stopped_by_signal
from runtime import service_log, teardown, workspace
from runtime.errors import InputError
from runtime.object_store import StoreFault
from runtime.options import with_debug
from serving.releases import Unreached

if TYPE_CHECKING:
    from pipelines.lineage import Lineage

REQUEST_ID = re.compile("[0-9a-f]{32}")
BLOCKED = 3
"""Exit status of a blocked run, where `--blocked-fails` asks for one of its own."""
AGAIN = "Run the same command again: what was finished is reused, and a training goes on from its checkpoint."
console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 success (a blocked gate is a success), 1 a fault, 2 bad input, 3 blocked (`--blocked-fails`),
    130 and 143 where it was stopped by Ctrl-C or SIGTERM."""
    service_log.configure()
    options = _parser().parse_args(arguments)
    try:
        with stopped_by_signal():
            return int(options.command(options))
    except Stopped as stop:
        errors.print(f"[red]stopped[/] by {stop.name}. {AGAIN}")
        return stop.status
    except (InputError, Unavailable, Unreached, TableAway, StoreFault) as error:
        if options.debug:
            traceback.print_exc()
        for line in str(error).splitlines():
            errors.print(f"[red]error[/] {_plain(line)}")
        return 2 if isinstance(error, InputError) else 1


def _run(options: argparse.Namespace) -> int:
    from components.report import step as report
    from heterrec.recipes import warm
    from pipelines import local
    from pipelines.lock import run_lock

    card = with_options(load_card(options.dataset), options.option)
    recipe = cluster_commands.recipe(options.recipe, options, options.set)
    baseline = cluster_commands.recipe(options.baseline, options)
    if options.warm_start:
        recipe = warm(recipe)
    if options.shuffle_targets:
        # Without a memory, which would answer in its place.
        recipe = replace(recipe, shuffle_targets=True, memory=())
    as_of = moment(options.as_of)
    run_id = new_run_id(card.name)
    started = time.monotonic()
    console.print(f"run {run_id}  (workspace {workspace.home()})")
    with run_lock(run_id):
        try:
            outcome = local.run(
                run_id=run_id,
                card=card,
                recipe=recipe.to_json(),
                baseline=baseline.to_json(),
                as_of=as_of,
                new_reference=options.new_reference,
                containers=options.containers,
            )
        except Stopped:
            console.print(f"  page: {report.run(run_id=run_id, state='stopped')}")
            raise
    console.print(f"[bold]{outcome.ending}[/] after {time.monotonic() - started:.0f} s")
    if outcome.serves:
        console.print(f"  {_plain(outcome.serves)}")
    for line in outcome.last_lines(options.dataset):
        console.print(f"  {_plain(line)}")
    if failed := outcome.failed:
        return 2 if failed.input_fault else 1
    return BLOCKED if options.blocked_fails and outcome.blocked else 0


def _ask(options: argparse.Namespace) -> int:
    from pipelines.ask import ask

    request, answer = ask(load_card(options.dataset), user_id=options.user, k=options.k)
    console.print(f"[bold]{_plain(answer['model'])} {_plain(answer['version'])}[/] in TorchServe recommends:")
    console.print(f"  shopper {_plain(request['user_id'])}, {len(request['history'])} events in the online store")
    for place, item in enumerate(answer["items"], start=1):
        title = item.get("title") or item["item_id"]
        console.print(f"  {place:>3}. {_plain(str(title)):<60} {_plain(item['item_id']):<12} {item['score']:.3f}")
    return 0


def _rollout(options: argparse.Namespace) -> int:
    from components.rollout import step

    policy = options.policy.read_text() if options.policy else ""
    name = load_card(options.dataset).name if options.dataset.endswith((".yaml", ".yml")) else options.dataset
    folder = workspace.home() / "rollout" / name
    folder.mkdir(parents=True, exist_ok=True)
    report = step.run(
        model=name,
        policy=policy,
        log=workspace.event_log(name),
        rollout_url=workspace.rollout_url(),
        mlflow_url=workspace.mlflow_url(),
        decision=folder,
    )
    console.print(f"[bold]{report['action']}[/]: {_plain(report['why'])}\npage: {folder / 'page.html'}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from pipelines.status import latest

    runs = list(latest(options.last))
    if options.json:
        print(json.dumps({"workspace": str(workspace.home()), "runs": [run.as_json() for run in runs]}, indent=1))
        return 0
    console.print(f"workspace {workspace.home()}")
    if not runs:
        console.print("no runs yet: python -m pipelines run")
    for run in runs:
        console.print(f"[bold]{run.run_id}[/]  {_plain(run.outcome)}, {run.seconds:,.0f} s")
        for line in run.reasons:
            console.print(f"  {_plain(line)}")
        for record in run.records.values():
            # A record that is still "running" without a holder of the lock belongs to a killed run.
            console.print(f"  {record.task:<15} {record.status:<8} {record.seconds:7.1f} s  {record.digest[:12]}")
        if "refit" in run.records and (report := run.records["refit"].report):
            console.print(f"  {_plain(report['sentence'])}")
        if run.page:
            console.print(f"  page: {run.page}")
    return 0


def _lineage(options: argparse.Namespace) -> int:
    from events.schema import WITHOUT_A_MODEL
    from pipelines.lineage import served, trace

    request, model, version = None, options.model, options.version
    if REQUEST_ID.fullmatch(model) and version is None:
        request = served(model)
        model, version = request.model, request.exposure["model_version"]
    found = None if request and version in WITHOUT_A_MODEL else trace(model, version)
    if options.json:
        asked = {"request": request.as_json()} if request else {}
        print(json.dumps({**asked, "made_of": found.as_json() if found else None}, indent=1))
        return 0
    if request:
        _show_request(request.exposure)
    if found:
        _show_lineage(found, all_days=options.partitions)
    return 0


def _show_request(shown: Mapping[str, Any]) -> None:
    from events.schema import POPULAR, WITHOUT_A_MODEL

    user, time, version = _plain(shown["user_id"]), shown["time"], shown["model_version"]
    console.print(f"[bold]request {shown['request_id']}[/] of {user}, {time:%Y-%m-%d %H:%M:%S} UTC")
    answered = f"drawn {shown['variant']}, status {shown['status']}, answered by {_plain(version)}"
    console.print(f"  {shown['n_items']} items, {answered}")
    if version in WITHOUT_A_MODEL:
        what = "most popular items" if version == POPULAR else "neighbour tables"
        console.print(f"  no model answered: {what} of the champion's archive")


def _show_lineage(found: "Lineage", *, all_days: bool) -> None:
    console.print(f"[bold]{_plain(found.model)} {_plain(found.version)}[/] {' '.join(found.aliases)}")
    console.print(f"  archive {found.tags['archive_digest'][:12]}  run {found.tags['run_id']}")
    console.print(f"  commit  {found.tags['git_commit']}")
    for task, record in found.records.items():
        if digest := found.tags.get(f"parent.{task}"):
            parents = ", ".join(f"{key} {value[:12]}" for key, value in record.parents.items())
            console.print(f"  {task:<15} {digest[:12]}  {'from ' + parents if parents else ''}")
    if ingest := found.records.get("ingest"):
        report = ingest.report
        console.print(
            f"  data: {report['accepted']:,} events of {report['users']:,} users, "
            f"{report['first_event'][:10]} to {report['last_event'][:10]}"
        )
    if partitions := found.partitions:
        days = sorted(partitions)
        digests = " ".join(f"{day} {partitions[day][:12]}" for day in (days if all_days else days[-3:]))
        console.print(f"  {len(days)} day partitions{'' if all_days else ', the last of them'}: {digests}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _exporter(options: argparse.Namespace) -> int:
    from pipelines import exporter

    return exporter.run(options)


def _add_exporter(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    exporter = commands.add_parser("exporter", help="what the latest runs, gates and looks came to, for Prometheus")
    exporter.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    exporter.add_argument("--port", type=int, default=9300, help="0 for a free one (default: %(default)s)")
    exporter.set_defaults(command=_exporter)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train, evaluate and release one model on this machine")
    run.add_argument("--dataset", default="marketplace", help="a card in feature_repo/datasets, or a path to one")
    run.add_argument("--recipe", default="heterrec", help=f"{RECIPE} (default: %(default)s)")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SETTING)
    run.add_argument("--baseline", default="sasrec", help="what it is measured against (default: %(default)s)")
    run.add_argument("--budget", choices=("fast", "full"), default="fast", help="fast: minutes on two cores")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--as-of", default="", help="train as of this day or moment, ISO 8601 (default: the newest event)")
    run.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="override a source option")
    run.add_argument("--warm-start", action="store_true", help="begin with the champion's weights, on half the budget")
    run.add_argument(
        "--new-reference",
        action="store_true",
        help="the data has changed and that is meant: hold it against its card only, not against the last accepted run",
    )
    run.add_argument("--blocked-fails", action="store_true", help="end with status 3 where a gate blocked the release")
    run.add_argument("--containers", action="store_true", help="each task in its image, by the Docker engine at hand")
    run.add_argument("--shuffle-targets", action="store_true", help="train a bad model on purpose, to see it blocked")
    run.set_defaults(command=_run)

    ask = commands.add_parser("ask", help="one recommendation: history from the online store, answer from TorchServe")
    ask.add_argument("--dataset", default="marketplace", help="a card in feature_repo/datasets, or a path to one")
    ask.add_argument("--user", help="a shopper of the data (default: who came last)")
    ask.add_argument("-k", "--k", type=int, default=5, help="how many items (default: %(default)s)")
    ask.set_defaults(command=_ask)

    rollout = commands.add_parser("rollout", help="look once at the experiment: raise, promote, hold, roll back")
    rollout.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    rollout.add_argument("--policy", type=Path, help="JSON file of what differs from experiments/policy.py")
    rollout.set_defaults(command=_rollout)

    status = commands.add_parser("status", help="list the latest runs and their tasks")
    status.add_argument("--last", type=int, default=3, help="how many runs (default: %(default)s)")
    status.add_argument("--json", action="store_true", help="for a script")
    status.set_defaults(command=_status)

    lineage = commands.add_parser("lineage", help="what a released model, or a served answer, was made from")
    lineage.add_argument(
        "model", nargs="?", default="marketplace", help="a model's name, or the request_id of an answer"
    )
    lineage.add_argument("version", nargs="?")
    lineage.add_argument("--partitions", action="store_true", help="the digest of every day of the data")
    lineage.add_argument("--json", action="store_true", help="for a script")
    lineage.set_defaults(command=_lineage)
    data_commands.add_to(commands)
    cluster_commands.add_to(commands)
    library_commands.add_to(commands)
    _add_exporter(commands)
    return with_debug(parser)


if __name__ == "__main__":
    teardown.skip()
    sys.exit(main())
