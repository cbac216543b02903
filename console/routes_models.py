"""The pages that ask the models: shopper, item and map."""

from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from console import (
    archives,
    embedding,
    item,
    run,
    runs,
    shopper,
)
from console.archives import Opened
from console.render import render
from console.runs import UnknownName
from console.site import Console
from experiments.document import Rollout
from runtime.errors import InputError


def add_to(app: FastAPI, console: Console) -> None:
    """Add them to an application."""
    for add in (_add_shopper, _add_item, _add_map):
        add(app, console)


def _catalogue(console: Console, model: str) -> tuple[list[str], Rollout | None, Opened | None]:
    """The models that serve, the row of `model` (of the first), and its champion's archive."""
    models, row = archives.chosen(model)
    if row is None or row.champion is None:
        return models, None, None
    return models, row, console.archives.of(row.model, row.champion)


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
        _, row, champion = _catalogue(console, model)
        if row is None or champion is None:
            raise UnknownName(f"model {model!r}: nothing was released under that name")
        tried = _tried(then)
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
        models, row, opened = _catalogue(console, model)
        if opened is None:
            return console.page("item.html", "Item", "Item", row=None, item="")
        known = id in opened.row
        return console.page(
            "item.html", "Item", opened.title(id) if id else "Item", models=models, row=row, q=q, item=id,
            title_=opened.title(id), size=len(opened.ids), known=known, features=item.readable_features(opened, id),
            events=opened.items["events"][opened.row[id]] if known else 0, near=item.near(opened, id),
            found=[(each, opened.title(each)) for each in opened.search(q)] if q else [],
            standing=item.standing_of(opened, row.model, id) if known and row else {},
        )  # fmt: skip

    @app.get("/parts/item")
    def part(model: str, id: str) -> Response:
        return HTMLResponse(render("item_part.html", course=item.course(model, id)))

    @app.get("/parts/item/after")
    def after(model: str, id: str) -> Response:
        _, _, opened = _catalogue(console, model)
        if opened is None:
            raise UnknownName(f"model {model!r}: nothing was released under that name")
        return HTMLResponse(render("ranked_part.html", model=model, answer=item.after(opened, id)))


def _add_map(app: FastAPI, console: Console) -> None:
    @app.get("/map")
    def whole(model: str = "", by: str = "") -> Response:
        models, row, opened = _catalogue(console, model)
        if opened is None:
            return console.page("map.html", "Map", "Map", row=None)
        features = list(opened.items["features"])
        chosen = by if by in features else opened.contract.get("segment") or next(iter(features), "")
        return console.page(
            "map.html", "Map", "Map of the items", models=models, row=row, features=features, by=chosen,
            size=len(opened.ids), map=embedding.draw(opened, chosen), beyond=_beyond(opened.contract["model"]),
        )  # fmt: skip


def _beyond(model: str) -> dict[str, Any] | None:
    """What the latest evaluation reports besides accuracy; None where it reports no such thing."""
    found = runs.latest_with("evaluate", model)
    report = run.evaluation(found) if found else None
    names = run.other_metrics(report) if report else []
    if found is None or report is None or not names:
        return None
    rows = [(name, [values.get(metric) for metric in names]) for name, values in report["models"].items()]
    return {"run": found.name, "names": names, "rows": rows}
