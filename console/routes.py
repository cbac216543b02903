"""The pages about runs, canaries and data: what each address reads, and the template that shows it."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool

from components.shared.pictures import differences
from console import (
    canary,
    changes,
    data,
    lineage,
    now,
    rollouts,
    run,
    runs,
)
from console.door import FRAMED_POLICY
from console.render import render
from console.runs import UnknownName
from console.site import Console
from runtime.charts import WIDTH


def add_to(app: FastAPI, console: Console) -> None:
    """Add them to an application."""
    for add in (_add_now, _add_runs, _add_canary, _add_data):
        add(app, console)


def _add_now(app: FastAPI, console: Console) -> None:
    @app.get("/")
    def whole() -> Response:
        return console.page("now.html", "Now", "Now", now=now.now(console.metrics.traffic()))

    @app.get("/parts/now")
    def part() -> Response:
        return HTMLResponse(render("now_part.html", now=now.now(console.metrics.traffic())))


def _add_runs(app: FastAPI, console: Console) -> None:
    @app.get("/runs")
    def all_runs(dataset: str = "", page: int = 1) -> Response:
        every = runs.names()
        datasets = sorted({runs.dataset_of(name) for name in every})
        found = [name for name in every if not dataset or runs.dataset_of(name) == dataset]
        pages = max(1, -(-len(found) // runs.A_PAGE))
        number = min(max(page, 1), pages)
        drawn = dataset or (runs.dataset_of(every[0]) if every else "")
        evaluated = runs.evaluated(drawn) if number == 1 and drawn else []
        return console.page(
            "runs.html", "Runs", "Runs",
            runs=runs.page(found, number), total=len(found), number=number, pages=pages, datasets=datasets,
            dataset=dataset, drawn=drawn,
            over_time=runs.over_time(evaluated) if evaluated else None,
            differences=runs.differences(evaluated) if evaluated else [],
        )  # fmt: skip

    @app.get("/runs/{name}")
    def one_run(name: str) -> Response:
        found = runs.one(name)
        report, made_of = run.evaluation(found), lineage.parents(found)
        metrics = ["hr@10", "ndcg@10", "mrr", *run.other_metrics(report)] if report else []
        return console.page(
            "run.html", "Runs", found.name,
            run=found, report=report, metrics=metrics, facts=run.facts(found),
            parents=made_of, graph=lineage.graph(found.records, made_of) if any(made_of.values()) else None,
            standing=run.standing(report) if report else None,
            against=differences(report["differences"], "differences to each peer", width=WIDTH) if report else None,
            pages=run.pages(found),
        )  # fmt: skip

    @app.get("/parts/trials")
    def trials(dataset: str, run: str = "") -> Response:
        kept = console.trials.made_by(dataset, run) if run else console.trials.of(dataset)
        here = set(runs.names(dataset))
        return HTMLResponse(render("trials_part.html", kept=kept, here=here, of_run=bool(run)))

    @app.get("/compare")
    def compare(a: str, b: str) -> Response:
        left, right = runs.one(a), runs.one(b)
        parts = run.compared(left, right)
        return console.page("compare.html", "Runs", "Two runs", left=left, right=right, parts=parts)

    @app.get("/files/{address:path}")
    def file(address: str) -> Response:
        if (found := run.file(address)) is None:
            raise UnknownName(f"{address}: is no page of this workspace")
        return HTMLResponse(found.read_text(), headers={"Content-Security-Policy": FRAMED_POLICY})


def _add_canary(app: FastAPI, console: Console) -> None:
    @app.get("/canary")
    def newest(request: Request, model: str = "") -> Response:
        return _canary(request, model)

    @app.get("/canary/{model}")
    def of_model(request: Request, model: str) -> Response:
        return _canary(request, model)

    @app.post("/canary/{model}/change")
    async def change(request: Request, model: str) -> Response:
        form = changes.read(await request.body())
        told = await run_in_threadpool(changes.make, console.settings, console.door, request, model, form)
        return await run_in_threadpool(_canary, request, model, told)

    def _canary(request: Request, model: str, told: changes.ChangeResult | None = None) -> Response:
        with rollouts.opened() as table:
            models = table.models() if table is not None else []
            if model and model not in models:
                raise UnknownName(f"model {model!r}: nothing was released under that name")
            rows = [table.read(name) for name in models] if table is not None else []
            # What is under way before what only serves.
            chosen = model or next((row.model for row in rows if row.salt), models[0] if models else "")
            found = canary.read(table, chosen, console.settings.policy) if table is not None and chosen else None
        visitor, settings = console.door.visitor(request), console.settings
        response = console.page(
            "canary.html", "Canary", f"Canary of {chosen}" if chosen else "Canary",
            status=told.status if told else 200, canary=found, models=models, policy=settings.policy, told=told,
            token=console.door.token(visitor, f"change {chosen}") if settings.changes else "",
            who=changes.who(settings, request), signed=bool(settings.user_header),
        )  # fmt: skip
        if settings.changes:
            console.door.remember(response, visitor, secure=request.url.scheme == "https")
        return response


def _add_data(app: FastAPI, console: Console) -> None:
    @app.get("/data")
    def latest(dataset: str = "") -> Response:
        datasets = sorted({runs.dataset_of(name) for name in runs.names()})
        newest = runs.latest_with("validate") if not dataset else None
        chosen = dataset or (newest.dataset if newest else datasets[0] if datasets else "")
        found = data.read(chosen) if chosen in datasets else None
        return console.page("data.html", "Data", f"Data {chosen}", data=found, datasets=datasets, dataset=chosen)
