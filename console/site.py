"""What the pages of one console share."""

from typing import Any

from fastapi.responses import HTMLResponse

from console.archives import Archives
from console.door import Door
from console.metrics import Metrics
from console.render import render
from console.settings import Settings
from console.trials import Trials

PLACES = [
    ("/", "Now"),
    ("/runs", "Runs"),
    ("/canary", "Canary"),
    ("/data", "Data"),
    ("/shopper", "Shopper"),
    ("/item", "Item"),
    ("/map", "Map"),
]


class Console:
    """Of one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.door = settings, Door(settings.hosts)
        self.metrics = Metrics(settings.metrics, settings.prometheus)
        self.trials = Trials(settings.mlflow)
        self.archives = Archives()

    def page(self, name: str, here: str, title: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A whole page; `here` is the place that it belongs to."""
        told = render(name, places=PLACES, here=here, title=f"{title} · HeterRec", **values)
        return HTMLResponse(told, status)
