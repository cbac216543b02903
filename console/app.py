"""The console as an application: a function for each page, each of which reads what is there and keeps nothing."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from components.errors import InputError
from components.store import StoreFault
from console import archives, canary, changes, data, item, now, rollouts, run, runs, shopper
from console.door import FRAMED_POLICY, HEADERS, Door
from console.metrics import Metrics
from console.render import render
from console.runs import Unknown
from console.settings import Settings
from serving.rollout.table import TableAway

PLACES = [("/", "Now"), ("/runs", "Runs"), ("/canary", "Canary"), ("/data", "Data"), ("/shopper", "Shopper"), ("/item", "Item")]
_HTTP = {404: "There is no such page", 405: "That cannot be done here", 422: "The address is not complete"}
_logger = logging.getLogger(__name__)


class Console:
    """What the pages of one console share."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.door = settings, Door(settings.hosts)
        self.metrics = Metrics(settings.metrics, settings.prometheus)
        self.archives = archives.Archives()

    def page(self, name: str, here: str, title: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A whole page; `here` is the place that it belongs to."""
        told = render(name, places=PLACES, here=here, title=f"{title} · HeterRec", **values)
        return HTMLResponse(told, status)


def make_app(settings: Settings) -> FastAPI:
    """The application of a console."""
    app = FastAPI(title="HeterRec console", docs_url=None, redoc_url=None, openapi_url=None)
    console = Console(settings)
    app.state.console = console
    app.middleware("http")(console.door)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.get("/health", response_class=PlainTextResponse)(lambda: "alive")
    _add_faults(app, console)
    _add_now(app, console)
    _add_runs(app, console)
    _add_canary(app, console)
    _add_data(app, console)
    _add_shopper(app, console)
    _add_item(app, console)
    return app


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
        report = run.evaluation(found)
        metrics = ["hr@10", "ndcg@10", "mrr", *run.other_metrics(report)] if report else []
        return console.page(
            "run.html", "Runs", found.name,
            run=found, report=report, metrics=metrics, facts=run.facts(found), lineage=run.lineage(found),
            standing=run.standing(report) if report else None,
            against=run.against(report["differences"], "differences to each peer") if report else None,
            pages=run.pages(found),
        )  # fmt: skip

    @app.get("/compare")
    def compare(a: str, b: str) -> Response:
        left, right = runs.one(a), runs.one(b)
        parts = run.compared(left, right)
        return console.page("compare.html", "Runs", "Two runs", left=left, right=right, parts=parts)

    @app.get("/files/{address:path}")
    def file(address: str) -> Response:
        if (found := run.file(address)) is None:
            raise Unknown(f"{address}: is no page of this workspace")
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

    def _canary(request: Request, model: str, told: changes.Told | None = None) -> Response:
        with rollouts.opened() as table:
            models = table.models() if table is not None else []
            if model and model not in models:
                raise Unknown(f"model {model!r}: nothing was released under that name")
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


def _add_shopper(app: FastAPI, console: Console) -> None:
    @app.get("/shopper")
    def whole(model: str = "", q: str = "", user: str = "", then: str = "", random: str = "") -> Response:
        models, row = archives.chosen(model)
        if row is not None and random and (found := shopper.somebody(row.model)) is not None:
            return RedirectResponse(f"/shopper?{urlencode({'model': row.model, 'user': found})}", 303)
        return console.page(
            "shopper.html", "Shopper", f"Shopper {user}".strip(), models=models, row=row, q=q, user=user,
            tried=_tried(then), found=shopper.find(row.model, q) if row is not None and q else [],
        )  # fmt: skip

    @app.get("/parts/shopper")
    def part(model: str, user: str, then: str = "") -> Response:
        _, row = archives.chosen(model)
        if row is None or row.champion is None:
            raise Unknown(f"model {model!r}: nothing was released under that name")
        tried, champion = _tried(then), console.archives.of(row.model, row.champion)
        try:
            records, source = shopper.history(row.model, user)
            seen = shopper.line(records, tried, champion)
            lists = shopper.lists(row, console.archives, user, seen)
        except InputError as error:
            return HTMLResponse(render("fault_part.html", message=str(error)))
        return HTMLResponse(
            render("shopper_part.html", row=row, user=user, seen=seen, tried=tried, source=source, lists=lists)
        )


def _tried(then: str) -> list[str]:
    return [item for item in then.split("\n") if item][-shopper.MOST_TRIED :]


def _add_item(app: FastAPI, console: Console) -> None:
    @app.get("/item")
    def whole(model: str = "", q: str = "", id: str = "") -> Response:
        models, row = archives.chosen(model)
        if row is None or row.champion is None:
            return console.page("item.html", "Item", "Item", row=None, item="")
        opened = console.archives.of(row.model, row.champion)
        known = id in opened.row
        return console.page(
            "item.html", "Item", opened.title(id) if id else "Item", models=models, row=row, q=q, item=id,
            title_=opened.title(id), size=len(opened.ids), known=known, features=opened.features(id),
            events=opened.items["events"][opened.row[id]] if known else 0, near=item.near(opened, id),
            found=[(each, opened.title(each)) for each in opened.search(q)] if q else [],
        )  # fmt: skip

    @app.get("/parts/item")
    def part(model: str, id: str) -> Response:
        return HTMLResponse(render("item_part.html", course=item.course(model, id)))

    @app.get("/parts/item/after")
    def after(model: str, id: str) -> Response:
        _, row = archives.chosen(model)
        if row is None or row.champion is None:
            raise Unknown(f"model {model!r}: nothing was released under that name")
        answer = item.after(console.archives.of(row.model, row.champion), id)
        return HTMLResponse(render("ranked_part.html", model=row.model, answer=answer))


def _add_faults(app: FastAPI, console: Console) -> None:
    """Every fault is a page that says what is wrong; what nobody foresaw is logged whole and told in a word."""

    def told(status: int, title: str, error: object, remedy: str) -> Response:
        return console.page("fault.html", "", title, status, message=str(error), remedy=remedy)

    @app.exception_handler(Unknown)
    def unknown(request: Request, error: Unknown) -> Response:
        return told(404, "Not found", error.args[0], "Was it removed, or is the console looking at another workspace?")

    @app.exception_handler(TableAway)
    def away(request: Request, error: TableAway) -> Response:
        return told(503, "The rollout table is away", error, "What serves goes on serving; try again when it is back.")

    @app.exception_handler(StoreFault)
    def store(request: Request, error: StoreFault) -> Response:
        return told(503, "The object store is away", error, "Try again when it is back.")

    @app.exception_handler(InputError)
    def wrong(request: Request, error: InputError) -> Response:
        return told(400, "That cannot be shown", error, "")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return told(error.status_code, _HTTP.get(error.status_code, "Not here"), error.detail, "")

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        _logger.exception("%s", request.url.path)
        what = f"{type(error).__name__} while this page was made; the console's log has the whole of it."
        response = told(500, "A fault of the console", what, "The other pages are not touched by it.")
        # Starlette answers what nobody foresaw outside of every middleware.
        response.headers.update(HEADERS)
        return response
