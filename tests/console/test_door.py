"""Who may look and who may change: the names the console is called by, the forms it knows again, the row they move."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from console.app import make_app
from console.door import COOKIE
from console.settings import ConsoleSettings
from experiments.table import RolloutTable
from runtime import workspace
from tests.console import made
from tests.console.conftest import HOSTS

Open = Callable[..., TestClient]
HERE = {"Origin": "http://testserver"}


@pytest.fixture
def open_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A console of a workspace with a canary of its own, with settings."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    mars = [tmp_path / name for name in ("1.mar", "2.mar")]
    for mar in mars:
        mar.write_bytes(mar.name.encode())
    made.canary(mars, looks=3)
    clients: list[TestClient] = []

    def opened(**settings: Any) -> TestClient:
        clients.append(TestClient(make_app(ConsoleSettings(hosts=HOSTS, metrics=(), **settings))))
        return clients[-1]

    yield opened
    for client in clients:
        client.close()


def form(client: TestClient, **values: str) -> dict[str, str]:
    """What the page's form would send, with `values` in place of its own."""
    html = client.get("/canary/shop").text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))
    return {**hidden, "what": "pause", "why": "a sale begins", "who": "ada", **values}


def row() -> Any:
    with RolloutTable(workspace.rollout_url()) as table:
        return table.read("shop"), table.history("shop")[-1]


def test_a_name_that_is_not_the_consoles_own_is_turned_away(open_console: Open):
    client = open_console()
    for host in ("evil.example", "evil.example:8500", "testserver.evil.example", "", "[::1].evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 403, host
    for host in ("testserver", "testserver:8500", "TESTSERVER"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    loopback = TestClient(make_app(ConsoleSettings(metrics=())))
    for host in ("127.0.0.1:8500", "localhost", "[::1]:8500", "[::1]"):
        assert loopback.get("/health", headers={"Host": host}).status_code == 200, host


def test_every_answer_forbids_whatever_a_page_does_not_need(open_console: Open):
    client = open_console()
    for address in ("/", "/nothing", "/static/console.js", "/health", "/runs/x"):
        headers = client.get(address).headers
        assert "script-src 'self'" in headers["content-security-policy"], address
        assert "unsafe" not in headers["content-security-policy"], address
        assert headers["x-content-type-options"] == "nosniff", address
    assert client.get("/", headers={"Host": "evil.example"}).headers["x-content-type-options"] == "nosniff"


def test_a_console_changes_nothing_unless_it_was_told_to(open_console: Open):
    """Not even by a form with the right token, which no page of it has."""
    client = open_console()
    assert "<button name=" not in client.get("/canary/shop").text
    visitor = "v" * 43
    client.cookies.set(COOKIE, visitor)
    token = client.app.state.console.door.token(visitor, "change shop")  # type: ignore[attr-defined]
    answer = client.post("/canary/shop/change", data=form(client, version="2", token=token), headers=HERE)
    assert answer.status_code == 403 and "This console changes nothing" in answer.text
    assert not row()[0].paused


def test_a_change_is_signed_and_has_a_reason(open_console: Open):
    client = open_console(changes=True)
    answer = client.post("/canary/shop/change", data=form(client), headers=HERE)
    assert answer.status_code == 200 and "Done: pause" in answer.text
    changed, entry = row()
    assert changed.paused and (entry.who, entry.why) == ("ada", "pause: a sale begins")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"why": " "}, 400),
        ({"why": "x" * 501}, 400),
        ({"who": ""}, 403),
        ({"what": "delete"}, 400),
        ({"what": "resume"}, 409),  # it is not paused
        ({"version": "1"}, 409),  # somebody was faster
        ({"version": "-1"}, 400),
        ({"token": ""}, 403),
        ({"token": "0" * 64}, 403),
        ({"token": "é"}, 403),
    ],
)
def test_a_form_that_is_not_whole_changes_nothing(open_console: Open, values: dict[str, str], status: int):
    client = open_console(changes=True)
    before = row()
    answer = client.post("/canary/shop/change", data=form(client, **values), headers=HERE)
    assert answer.status_code == status and "<header>" in answer.text
    assert row() == before


def test_a_form_of_another_site_changes_nothing(open_console: Open):
    client = open_console(changes=True)
    before = row()
    for headers in (
        {}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://testserver:81"}, {**HERE, "Sec-Fetch-Site": "cross-site"},
    ):  # fmt: skip
        assert client.post("/canary/shop/change", data=form(client), headers=headers).status_code == 403, headers
    stranger = open_console(changes=True)  # another visitor's form, and another console's secret
    assert stranger.post("/canary/shop/change", data=form(client), headers=HERE).status_code == 403
    taken = form(client)
    client.cookies.clear()
    assert client.post("/canary/shop/change", data=taken, headers=HERE).status_code == 403
    assert row() == before


def test_behind_a_login_proxy_the_name_is_the_proxys_and_nobody_elses(open_console: Open):
    client = open_console(changes=True, user_header="kubeflow-userid")
    answer = client.post("/canary/shop/change", data=form(client), headers=HERE)
    assert answer.status_code == 403 and "Nobody signs" in answer.text
    signed = {**HERE, "kubeflow-userid": "grace@shop"}
    assert client.post("/canary/shop/change", data=form(client, who="ada"), headers=signed).status_code == 200
    assert row()[1].who == "grace@shop"
