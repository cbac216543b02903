"""Every page, found by following every link: it answers, it injects nothing, and it is quick with a lot in it."""

import os
import re
import shutil
import time
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from console import runs
from console.ahead import prepare
from console.app import make_app
from console.archives import OpenArchives
from console.settings import ConsoleSettings
from console.site import PLACES
from runtime import workspace
from runtime.errors import InputError
from tests.console import made
from tests.console.conftest import HOSTS, written

SECONDS = 0.5
"""Processor time that any page may take: .09 measured, and a busy machine takes twice that."""
ELEMENTS = {
    "a", "b", "bdi", "body", "br", "button", "circle", "code", "details", "div", "figcaption", "figure", "form",
    "g", "h1", "h2", "h3", "head", "header", "html", "iframe", "input", "label", "li", "line", "link", "main",
    "meta", "nav", "noscript", "ol", "option", "p", "path", "polygon", "polyline", "rect", "script", "section",
    "select", "span", "strong", "summary", "svg", "table", "td", "text", "th", "title", "tr", "ul",
}  # fmt: skip
"""Of which the console makes its pages; whatever else is in one came from data."""


FORMS = (
    "/runs?dataset=shop", "/compare?a=shop-20260105T000000&b=shop-20260106T000000", "/canary?model=shop",
    "/shopper?model=shop&q=u", "/shopper?model=shop&user=u1", "/item?model=shop&q=i", "/map?by=price", "/map?by=shelf",
)  # fmt: skip
"""What no link leads to but a form."""


class Page(HTMLParser):
    """What a browser would make of a page, as far as it matters here."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.append((tag, found))
        self.links += [value for name in ("href", "src", "data-live") if (value := found.get(name))]

    def handle_data(self, data: str) -> None:
        self.text += data


def crawl(client: TestClient, most: int = 400) -> dict[str, Page]:
    """Every page that can be reached, by its address; all of them answer."""
    waiting, seen = ["/", *FORMS], {}
    while waiting:
        address = waiting.pop()
        if address in seen or address.startswith(("#", "/static", "/files")):
            continue
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text[:2000])
        assert answer.headers["content-security-policy"].startswith("default-src 'none'"), address
        seen[address] = Page(answer.text)
        waiting += [] if address.count("then=") else seen[address].links  # lists after lists go on for ever
        assert len(seen) < most, sorted(seen)
    return seen


def test_every_page_of_an_empty_workspace_says_what_to_do_and_makes_nothing(empty: TestClient, tmp_path: Path):
    for address, name in PLACES:
        answer = empty.get(address)
        assert answer.status_code == 200, address
        assert "make run" in answer.text, name
    assert not list((tmp_path / "home").rglob("*")), "to look at a workspace must not change it"


def test_every_link_of_every_page_leads_somewhere_and_no_data_becomes_markup(console: TestClient):
    pages = crawl(console)
    assert {address for address, _ in PLACES} <= pages.keys()
    assert len(pages) > 30
    for address, page in pages.items():
        for tag, attributes in page.elements:
            assert tag in ELEMENTS, (address, tag)
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (address, attributes)
            assert tag != "script" or attributes.get("src") == "/static/console.js", address
            outside = [v for n, v in attributes.items() if n in ("href", "src", "action") and v and v[0] not in "/#"]
            assert not outside, (address, outside)
        assert "1337" not in page.text, (address, "a template in data was filled in")


def test_hostile_texts_are_shown_as_they_are_and_isolated(console: TestClient):
    """Every text of a shop is shown whole; a mark that turns the writing round ends where the text does."""
    for address in (
        "/data",
        "/canary",
        "/parts/shopper?model=shop&user=u1",
        "/item?q=alert",
        "/runs/shop-20260106T000000",
    ):
        answer = console.get(address)
        assert made.HOSTILE in Page(answer.text).text, address
        assert made.HOSTILE not in answer.text, address
        assert "<bdi>" in answer.text or "<text" in answer.text, address
    answer = console.get("/shopper", params={"model": "shop", "user": made.HOSTILE})
    assert made.HOSTILE in Page(answer.text).text


def test_a_shopper_s_lists_answer_what_was_tried_and_write_nothing(console: TestClient, home: Path):
    before = written(home)
    plain = Page(console.get("/parts/shopper?model=shop&user=u1").text)
    tried = Page(console.get("/parts/shopper?model=shop&user=u1&then=i5").text)
    assert plain.text.count("champion") and "tried now" not in plain.text
    assert "tried now" in tried.text and "challenger" in tried.text
    assert plain.text.count("why") > 10  # of each model's places
    assert plain.links != tried.links
    assert cpu(console, "/parts/shopper?model=shop&user=u1&then=i5") < SECONDS, "a click is answered at once"
    assert written(home) == before


def test_an_archive_that_was_altered_is_not_opened(console: TestClient, home: Path, tmp_path: Path, mars: list[Path]):
    """It is code."""
    altered = tmp_path / "altered.mar"
    altered.write_bytes(mars[0].read_bytes() + b"x")
    arm = made.arm(mars[0], "1.0")
    with pytest.raises(InputError, match="refused, an archive is code"):
        OpenArchives().of("shop", replace(arm, archive=str(altered)))


@pytest.mark.parametrize(
    "address",
    [
        "/runs/..",
        "/runs/%2e%2e",
        "/runs/no-such",
        "/compare?a=x&b=y",
        "/canary/no-such",
        "/item?model=no-such",
        "/nothing",
    ],
)
def test_what_is_not_there_is_told_on_a_page(console: TestClient, address: str):
    answer = console.get(address)
    assert answer.status_code in (200, 404) and "<header>" in answer.text
    assert answer.status_code == 404 or address == "/runs/.."  # which a client turns into "/"


def test_pages_that_a_run_wrote_stand_in_a_sandbox_and_nothing_else_is_handed_out(console: TestClient, home: Path):
    page = console.get("/files/runs/shop-20260105T000000/page.html")
    assert (page.status_code == 200 and "The run&#39;s page" in page.text) or "The run's page" in page.text
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    (home / "secret.html").write_text("no")
    (home.parent / "outside.html").write_text("no")
    (home / "runs" / "out.html").symlink_to(home.parent / "outside.html")
    for address in (
        "secret.html", "rollout.db", "runs/shop-20260105T000000/ingest.json", "../outside.html", "%2e%2e/outside.html",
        "runs/..%2f..%2foutside.html", "/etc/passwd", "runs/out.html", "runs/../secret.html",
    ):  # fmt: skip
        assert console.get(f"/files/{address}").status_code == 404, address
    for planted in (home / "secret.html", home / "runs" / "out.html"):
        planted.unlink()
    framed = [each for tag, each in Page(console.get("/runs/shop-20260105T000000").text).elements if tag == "iframe"]
    assert framed and all(each["sandbox"] == "" for each in framed)


def test_a_run_s_page_says_first_what_came_of_it_and_last_how_it_was_made(console: TestClient):
    sections = re.findall(r"<section[^>]*><h2>(.*?)</h2>", console.get("/runs/shop-20260105T000000").text)
    assert "NDCG@10" in sections[0] and sections[-1] == "Tasks", sections


def test_a_run_going_on_is_told_from_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: TestClient):
    name = made.run(0)
    made.record(name, "refit", status="running", started="2026-01-09T00:00:00+00:00", digest="")
    lock = workspace.home() / "run.lock"
    lock.write_text(f"run {name} (process {os.getpid()})")
    assert "running: refit" in empty.get("/").text
    assert "interrupted" not in empty.get(f"/runs/{name}").text
    lock.write_text(f"run {name} (process 999999999)")
    assert "killed in refit" in empty.get("/").text
    assert "interrupted" in empty.get(f"/runs/{name}").text
    lock.unlink()  # a cluster has none: what was not told of as ended is at work
    assert "running: refit" in empty.get("/").text
    (workspace.runs() / name / "ending").write_text("{}")
    assert "killed in refit" in empty.get("/").text


def test_a_damaged_record_costs_its_own_run_alone(empty: TestClient):
    good, bad = made.run(0), made.run(1)
    (workspace.runs() / bad / "ingest.json").write_text("{")
    answer = empty.get("/runs")
    assert answer.status_code == 200 and "its records cannot be read" in answer.text and good in answer.text
    assert empty.get(f"/runs/{bad}").status_code == 200


def cpu(client: TestClient, address: str) -> float:
    """Seconds of this process for an answer: those of the clock are those of who else is at work."""
    began = time.process_time()
    assert client.get(address).status_code == 200, address
    return time.process_time() - began


RUN, OTHER = "shop-20260105T000000", "shop-20260106T000000"
ADDRESSES = {
    "/": [""],
    "/parts/now": [""],
    "/runs": ["", "?page=40", "?dataset=shop"],
    "/runs/{name}": [],
    "/parts/trials": ["?dataset=shop", f"?dataset=shop&run={RUN}"],
    "/compare": [f"?a={RUN}&b={OTHER}"],
    "/files/{address:path}": [],
    "/canary": [""],
    "/canary/{model}": [],
    "/data": ["", "?dataset=shop"],
    "/shopper": ["?q=u9", "?model=shop&user=u1"],
    "/parts/shopper": ["?model=shop&user=u1", "?model=shop&user=u1&then=i5"],
    "/item": ["?id=i500", "?q=kettle+i99"],
    "/parts/item": ["?model=shop&id=i7"],
    "/parts/item/after": ["?model=shop&id=i7"],
    "/map": ["", "?by=price"],
    "/health": [""],
    "/static/charts.css": [""],
}
"""Of every page what it is asked for; those whose address is more than a question stand in PATHS."""
PATHS = [f"/runs/{RUN}", f"/files/runs/{RUN}/page.html", "/canary/shop"]


def test_first_answers_of_all_pages_are_quick_with_many_items_and_runs(tmp_path: Path, empty: TestClient):
    """10^5 items and 1,000 runs: no page that the console has is left out."""
    pages = {route.path for route in empty.app.routes if isinstance(route, APIRoute) and "GET" in route.methods}
    assert pages == ADDRESSES.keys()
    empty.get("/runs")  # templates are read once
    first = workspace.runs() / made.run(0, whole=True)
    for number in range(1, 1000):
        folder = first.with_name(f"shop-{made.NOW + timedelta(days=number):%Y%m%dT%H%M%S}")
        folder.mkdir()
        for path in first.glob("*.json"):
            (folder / path.name).hardlink_to(path)
        os.utime(folder, (number, number))
    os.utime(first, (0, 0))
    mar = made.large(tmp_path, 100_000)
    made.canary([mar, mar])
    made.histories([f"u{number}" for number in range(1000)])
    prepare(empty.app.state.console)  # as the command does before anybody asks
    runs._READ.clear()
    page = Page(empty.get("/runs?page=40").text)
    assert len(runs._READ) == 4 * runs.A_PAGE, "the records of the runs on the page, and no others"
    assert "page 40 of 40" in page.text and RUN in page.text
    asked = [*PATHS, *(path + question for path, questions in ADDRESSES.items() for question in questions)]
    took = {address: cpu(empty, address) for address in asked}
    assert max(took.values()) < SECONDS, took


def test_a_fault_nobody_foresaw_is_a_page_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Behind the same policy, without a word of what was in the program; the other pages go on."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    for path in (tmp_path / "home" / "runs").glob("*/validate.json"):
        path.write_text(path.read_text().replace(str(home), str(tmp_path / "home")))
    for path in (tmp_path / "home" / "artifacts" / "validation").glob("*/profile.json"):
        path.write_text('{"days": {"secret": 3}, "features": {}}')
    with TestClient(make_app(ConsoleSettings(hosts=HOSTS, metrics=())), raise_server_exceptions=False) as client:
        answer = client.get("/data")
        assert answer.status_code == 500 and "A fault of the console" in answer.text and "secret" not in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert client.get("/").status_code == 200


def test_a_date_of_an_item_is_shown_as_a_date_of_the_shop_s_clock(console: TestClient):
    page = Page(console.get("/item?model=shop&id=i3").text)
    assert "2026-01-03 13:00" in page.text  # noon of UTC, in Berlin
    assert "20456" not in page.text.replace(",", "") and "e+04" not in page.text
