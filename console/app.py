"""The console as an application: its pages, what is said of faults, and the door before all of them."""

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from console import routes, routes_models
from console.door import HEADERS
from console.runs import UnknownName
from console.settings import ConsoleSettings
from console.site import Console
from experiments.database import TableAway
from runtime.charts import STYLE
from runtime.errors import InputError
from runtime.object_store import StoreFault

_HTTP = {404: "There is no such page", 405: "That cannot be done here", 422: "The address is not complete"}
_logger = logging.getLogger(__name__)


def make_app(settings: ConsoleSettings) -> FastAPI:
    """The application of a console, which reads what is there and keeps nothing."""
    app = FastAPI(title="HeterRec console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.console = console = Console(settings)
    app.middleware("http")(console.door)
    app.get("/static/charts.css")(lambda: FileResponse(STYLE))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.get("/health", response_class=PlainTextResponse)(lambda: "alive")
    routes.add_to(app, console)
    routes_models.add_to(app, console)
    _add_faults(app, console)
    return app


def _add_faults(app: FastAPI, console: Console) -> None:
    """Every fault is a page that says what is wrong; what nobody foresaw is logged whole and told in a word."""

    def told(status: int, title: str, error: object, remedy: str) -> Response:
        return console.page("fault.html", "", title, status, message=str(error), remedy=remedy)

    @app.exception_handler(UnknownName)
    def unknown(request: Request, error: UnknownName) -> Response:
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
