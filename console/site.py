"""What the pages of one console share."""

from typing import Any

from fastapi.responses import HTMLResponse

from console.archives import OpenArchives
from console.door import ConsoleDoor
from console.metrics import MetricsReader
from console.render import render
from console.settings import ConsoleSettings
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

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings, self.door = settings, ConsoleDoor(settings.hosts)
        self.metrics = MetricsReader(settings.metrics, settings.prometheus)
        self.trials = Trials(settings.mlflow)
        self.archives = OpenArchives()

    def page(self, name: str, here: str, title: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A whole page; `here` is the place that it belongs to."""
        told = render(name, places=PLACES, here=here, title=f"{title} · HeterRec", **values)
        return HTMLResponse(told, status)
