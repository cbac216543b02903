"""The commands of a cluster: `python -m pipelines compile|submit|schedule|resume|unschedule|list`."""

import argparse
import json
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from feature_repo.card import load_card
from pipelines import cluster
from pipelines.data_commands import CARD, with_options
from pipelines.recipe_files import RECIPE, SETTING, recipe_of
from runtime import workspace
from runtime.errors import InputError

if TYPE_CHECKING:
    from heterrec.recipes import TrainConfig
    from pipelines.schedule import Server

HOST = "KF_PIPELINES_ENDPOINT"
CRONS = {"training": "0 0 3 * * *", "catalogue": "0 20 * * * *", "rollout": "0 5/10 * * * *",
         "recommend": "0 0 6 * * *"}  # fmt: skip
"""Kubeflow's six fields, in UTC: every night at three, twenty past every hour, every ten minutes; at six."""
ASKED_FOR = ("recommend",)
"""Not every shop wants them: scheduled and submitted where `--only` names them."""
PROJECTED = Path("/var/run/secrets/kubeflow/pipelines/token")
console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def add_to(commands: Any) -> None:
    """Add the parsers of these commands."""
    compiled = commands.add_parser("compile", help="write the pipelines as YAML for a Kubeflow cluster")
    compiled.add_argument("--output", type=Path, help="of the training pipeline; the others lie beside it")
    compiled.add_argument(
        "--kubernetes", action="store_true", help="as Pipeline and PipelineVersion resources (GitOps)"
    )
    _add_cluster(compiled)
    compiled.set_defaults(command=_compile)

    submit = commands.add_parser("submit", help="bring pipelines and their versions to a server; --run starts one")
    submit.add_argument("--run", action="store_true", help="start the training pipeline (or --only) once, now")
    schedule = commands.add_parser(
        "schedule", help="let a server train nightly, refresh hourly, judge every 10 minutes"
    )
    schedule.add_argument("--cron", action="append", default=[], metavar="KIND=CRON", help="six fields, UTC")
    resume = commands.add_parser("resume", help="let a run that failed or was ended go on from where it was")
    resume.add_argument("run", help="its ID in Kubeflow, which is that of its records")
    resume.set_defaults(command=_on_server(_resume))
    _add_access(resume)
    _add_cluster(resume)
    unschedule = commands.add_parser("unschedule", help="remove the recurring runs; pipelines and past runs stay")
    listed = commands.add_parser("list", help="what a server has of us")
    listed.add_argument("--json", action="store_true", help="for a script")
    for parser, command in ((submit, _submit), (schedule, _schedule), (unschedule, _unschedule), (listed, _list)):
        _add_access(parser)
        _add_cluster(parser)
        parser.add_argument("--dataset", default="marketplace", help=CARD)
        parser.add_argument("--only", choices=tuple(CRONS), action="append", help="this pipeline only; may be repeated")
        parser.set_defaults(command=_on_server(command))
    for parser in (submit, schedule, unschedule, resume):
        parser.add_argument("--apply", action="store_true", help="make the changes (default: show them)")
    for parser in (submit, schedule):
        parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the card's source")
        parser.add_argument("--recipe", default="heterrec", help=f"{RECIPE} (default: %(default)s)")
        parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SETTING)
        parser.add_argument("--baseline", default="sasrec", help="what it is measured against (default: %(default)s)")
        parser.add_argument("--budget", choices=("fast", "full"), default="full", help="(default: %(default)s)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--warm-start", action="store_true", help="begin with the champion's weights")
        parser.add_argument(
            "-k", "--k", type=int, default=20, help="items of a list, of recommend (default: %(default)s)"
        )
        parser.add_argument("--policy", type=Path, help="JSON file of what differs from experiments/policy.py")


def recipe(name: str, options: argparse.Namespace, settings: Sequence[str] = ()) -> "TrainConfig":
    """The recipe `name`, or of that file, with the budget and seed of `options`; `InputError` where there is none."""
    return recipe_of(name, budget=options.budget, seed=options.seed, settings=settings)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help=f"YAML of what pipelines/cluster.py names (default: ${cluster.FILE})",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=os.environ.get(HOST, ""), help=f"address of the server (default: ${HOST})")
    parser.add_argument("--namespace", default="", help="your Kubeflow profile, where there are several users")
    parser.add_argument("--token-file", type=Path, help="a file with a token (default: $HETERREC_KFP_TOKEN, if set)")
    parser.add_argument(
        "--service-account-token", type=Path, nargs="?", const=PROJECTED, help="in a pod: its projected token"
    )
    parser.add_argument("--ca-certificate", type=Path, help="of the server, where it is not a public one")


def _compile(options: argparse.Namespace) -> int:
    from pipelines.packages import BUILDERS, package, resources

    where = cluster.read(options.cluster)
    folder = workspace.ROOT / "build" / ("kubernetes" if options.kubernetes else "")
    output: Path = options.output or folder / "training.yaml"
    output.parent.mkdir(parents=True, exist_ok=True)
    for kind in BUILDERS:
        path = output if kind == "training" else output.with_name(f"{kind}.yaml")
        path.write_text(resources(kind, where) if options.kubernetes else package(kind, where).text)
        console.print(f"compiled {path}")
    return 0


def _on_server(command: Callable[[argparse.Namespace, "Server"], None]) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from pipelines.kubeflow import (
            KubeflowAccess,
            KubeflowFault,
            connect,
            kubeflow_faults,
        )
        from pipelines.schedule import Server

        if not options.host:
            raise InputError(f"--host: found nothing, expected the address of a server; ${HOST} may name it too")
        options.facts = cluster.read(options.cluster)
        namespace = options.namespace or options.facts.namespace
        access = KubeflowAccess(
            host=options.host,
            namespace=namespace,
            token_file=options.token_file,
            service_account_token=options.service_account_token,
            ca_certificate=options.ca_certificate,
        )
        apply = getattr(options, "apply", False)
        if command in (_submit, _schedule) and apply:
            options.facts.runnable()
        server = None
        try:
            server = Server(connect(access), namespace=namespace, apply=apply)
            with kubeflow_faults(options.host):
                command(options, server)
        except KubeflowFault as error:
            if server is not None and server.changes and apply:
                _show(server, apply=True)
            if options.debug:
                traceback.print_exc()
            errors.print(f"[red]error[/] {escape(str(error))}")
            return 1
        if "apply" in options:
            _show(server, apply=apply)
        return 0

    return run


def _submit(options: argparse.Namespace, server: "Server") -> None:
    from pipelines.packages import package

    kinds = _kinds(options)
    # Before a version goes to the server: what is refused leaves nothing there.
    parameters = _parameters(options) if options.run else {}
    versions = {kind: server.version(package(kind, options.facts)) for kind in kinds}
    if not options.run:
        return
    started = options.only or ["training"]
    name = load_card(options.dataset).name
    experiment = server.experiment(_experiment(name))
    for kind in started:
        version = versions[kind]
        if version is None or experiment is None or not options.apply:
            server.changes.append(f"start a run of {kind}")
        else:
            run = server.start(
                f"{kind} of {name}", experiment, version, parameters[kind], options.facts.service_account
            )
            server.changes.append(f"start run {run} of {kind}")


def _resume(options: argparse.Namespace, server: "Server") -> None:
    server.resume(options.run)


def _schedule(options: argparse.Namespace, server: "Server") -> None:
    from pipelines.packages import package
    from pipelines.schedule import Recurring

    name = load_card(options.dataset).name
    crons = {**CRONS, **dict(map(_cron, options.cron))}
    parameters = _parameters(options)
    versions = {kind: server.version(package(kind, options.facts)) for kind in _kinds(options)}
    experiment = server.experiment(_experiment(name))
    for kind, version in versions.items():
        wanted = Recurring(
            name=_recurring(kind, name),
            cron=crons[kind],
            parameters=parameters[kind],
            service_account=options.facts.service_account,
        )
        server.recurring(wanted, experiment, version)


def _unschedule(options: argparse.Namespace, server: "Server") -> None:
    name = load_card(options.dataset).name
    for kind in options.only or CRONS:
        server.unschedule(_recurring(kind, name), _experiment(name))


def _list(options: argparse.Namespace, server: "Server") -> None:
    name = load_card(options.dataset).name
    named: dict[str, str] = {}
    pipelines: list[dict[str, Any]] = []
    for kind in options.only or CRONS:
        pipeline = server.pipeline(f"heterrec-{kind}")
        versions = server.versions(pipeline.pipeline_id) if pipeline else []
        named |= {each.pipeline_version_id: each.display_name or each.name for each in versions}
        newest = versions[0].display_name if versions else None
        pipelines.append(
            {"name": f"heterrec-{kind}", "versions": len(versions) if pipeline else None, "newest": newest}
        )
    recurring = []
    for each in server.scheduled(_experiment(name)):
        cron = each.trigger.cron_schedule.cron if each.trigger and each.trigger.cron_schedule else None
        version = each.pipeline_version_reference and each.pipeline_version_reference.pipeline_version_id
        status = str(each.status).lower()
        recurring.append({"name": each.display_name, "status": status, "cron": cron,
                          "version": named.get(version, version)})  # fmt: skip
    if options.json:
        print(json.dumps({"server": options.host, "pipelines": pipelines, "scheduled": recurring}, indent=1))
        return
    for found in pipelines:
        there = f"{found['versions']} versions, the newest {escape(str(found['newest'] or 'none'))}"
        console.print(f"[bold]{found['name']}[/]  {'not there' if found['versions'] is None else there}")
    for run in recurring:
        clock = f"{escape(str(run['cron'] or 'no clock'))}  version {escape(str(run['version']))}"
        console.print(f"  {escape(run['name']):<34} {run['status']:<9} {clock}")
    if not recurring:
        there = options.namespace or options.facts.namespace
        where = f" in namespace {escape(there)}" if there else ""
        console.print(f"nothing is scheduled for {escape(name)}{where}: python -m pipelines schedule")


def _show(server: "Server", *, apply: bool) -> None:
    for change in server.changes:
        console.print(f"  {'[green]✓[/]' if apply else '+'} {escape(change)}")
    if not server.changes:
        console.print("nothing to do: the server has it all")
    elif not apply:
        console.print("Nothing was changed. Pass --apply to do this.")


def _parameters(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    from components.ingest.source import DATA_VARIABLE
    from heterrec.recipes import warm
    from pipelines.reach import placed, require_within_reach

    card = with_options(load_card(options.dataset), options.option)
    card = placed(card, options.facts.environment.get(DATA_VARIABLE))
    require_within_reach(card, options.facts)
    trained = recipe(options.recipe, options, options.set)
    if options.warm_start:
        trained = warm(trained)
    if options.policy is not None and not options.policy.is_file():
        raise InputError(f"{options.policy}: no such file. Pass a JSON file of a policy, or leave --policy out.")
    told = card.model_dump_json()
    return {
        "training": {
            "card": told,
            "recipe": trained.to_json(),
            "baseline": recipe(options.baseline, options).to_json(),
        },
        "catalogue": {"card": told},
        "rollout": {"model": card.name, "policy": options.policy.read_text() if options.policy else ""},
        "recommend": {"model": card.name, "k": options.k},
    }


def _cron(text: str) -> tuple[str, str]:
    kind, found, cron = text.partition("=")
    if not found or kind not in CRONS or len(cron.split()) != 6:
        kinds = ", ".join(CRONS)
        raise InputError(
            f"--cron {text!r}: expected KIND=CRON, KIND one of {kinds}, CRON six fields: second to weekday"
        )
    return kind, cron


def _kinds(options: argparse.Namespace) -> list[str]:
    return [kind for kind in CRONS if (kind in options.only if options.only else kind not in ASKED_FOR)]


def _experiment(name: str) -> str:
    return f"heterrec-{name}"


def _recurring(kind: str, name: str) -> str:
    return f"heterrec-{kind}-{name}"
