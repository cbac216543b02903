"""The console as a person meets it: started by its command, looked at in a real browser that has no network."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from matplotlib.image import imread

from console.site import PLACES
from runtime.workspace import ROOT
from tests.console.browser import CHROMIUM, Browser
from tests.console.conftest import written
from tests.console.test_style import contrast
from tests.termination import A_HANG, terminated

SHOPPER = "/shopper?model=shop&user=u1"
EVERY_PAGE = (*(place for place, _ in PLACES), SHOPPER, "/item?id=i7", "/runs/shop-20260106T000000",
              "/compare?a=shop-20260105T000000&b=shop-20260106T000000")  # fmt: skip
READY = "document.readyState === 'complete'"
ANSWERED = "!!document.querySelector('#lists')"
PARTS_CAME = "![...document.querySelectorAll('[data-now]')].some((each) => /…$/.test(each.innerText.trim()))"
CUT_OFF = """[
  ...[...document.querySelectorAll(".scroll")].filter((each) => each.scrollWidth > each.clientWidth),
  ...[...document.querySelectorAll("svg text")].filter((each) => {
    const word = each.getBoundingClientRect(), picture = each.closest("svg").getBoundingClientRect();
    return word.left < picture.left - 1 || word.right > picture.right + 1;
  }),
].map((each) => each.textContent)"""
WORDS = """(() => {
  const two = (number) => (+number).toString(16).padStart(2, "0");
  const hex = (colour) => "#" + colour.match(/[0-9.]+/g).slice(0, 3).map(two).join("");
  const behind = (each) => {
    const ground = getComputedStyle(each).backgroundColor;
    return ground === "rgba(0, 0, 0, 0)" ? behind(each.parentElement) : ground;
  };
  const said = (each) => [...each.childNodes].some((part) => part.nodeType === 3 && part.data.trim());
  return [...document.body.querySelectorAll("*")].filter((each) => each.checkVisibility() && said(each)).map((each) => {
    const style = getComputedStyle(each), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    return [hex(each.closest("svg") ? style.fill : style.color), hex(behind(each)), large, each.textContent];
  });
})()"""
CONTROLS = "a[href], button, input:not([type=hidden], [type=radio]:not(:checked)), select, summary, [tabindex='0']"
FIRST_IS_LATE = """
  window.ask = fetch;
  window.fetch = async (...asked) => {
    const waits = window.go ? null : new Promise((on) => { window.go = on; });
    const answer = await ask(...asked);
    await waits;
    return answer;
  };
"""
FOCUSED = """(() => {
  const here = document.activeElement, box = here.getBoundingClientRect(), style = getComputedStyle(here);
  const inside = box.width > 0 && box.left >= 0 && box.top >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
  return { at: controls.indexOf(here), line: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth), inside,
           what: here.outerHTML };
})()"""


@contextmanager
def started(home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A console of `home`, and its address; it says nothing of faults until it has ended."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    command = [sys.executable, "-m", "console", "--port", "0", "--metrics", "http://127.0.0.1:9"]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**kept, "HETERREC_HOME": str(home)}, **told) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert str(home) in line, process.stderr.read()
            yield process, re.findall(r"http://\S+", line)[0]
            errors = process.stderr.read()
            assert "Traceback" not in errors, errors
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Of a console in a process of its own, which ends in order when it is told to."""
    with started(home) as (process, address):
        yield address
        with urllib.request.urlopen(f"{address}/parts/shopper?model=shop&user=u1") as answer:
            assert b"champion" in answer.read()  # by now all is imported and an archive is open
        assert terminated(process) == 0


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_command_says_where_it_is_and_answers_there(address: str):
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert answer.read() == b"alive"


def test_it_ends_while_a_page_is_being_made_that_never_will_be(tmp_path: Path):
    """A thread that reads cannot be stopped, and nobody looks at that page any more."""
    (record := tmp_path / "runs" / "shop-20260105T000000" / "ingest.json").parent.mkdir(parents=True)
    os.mkfifo(record)
    asked = f"GET /runs/{record.parent.name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with started(tmp_path) as (process, address), socket.create_connection(("127.0.0.1", urlsplit(address).port)) as s:
        s.sendall(asked.encode())
        with record.open("w"):  # which waits until the console reads it
            process.send_signal(signal.SIGTERM)
            assert process.wait(A_HANG) == 0


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("/canary", "alert(1)"),
        ("/shopper?model=shop&user=u1", "Who would recommend what"),
        ("/runs/shop-20260106T000000", "alert(1)"),
    ],
)
def test_a_browser_runs_the_pages_under_their_policy(address: str, browser: Browser, page: str, shown: str):
    """Its console says nothing of a policy that was broken or a file that was not there; parts that come later came."""
    browser.open(address + page, f"{READY} && document.body.innerText.includes({shown!r})")
    assert not browser.said
    assert not browser.ask("[...document.scripts].filter((each) => !each.src).length"), "data became a script"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_follow_light_and_dark(address: str, browser: Browser, scheme: str, tmp_path: Path):
    browser.shown_as(500, 900, scheme)
    browser.open(f"{address}/data", READY)
    browser.picture(tmp_path / "page.png")
    seen = imread(tmp_path / "page.png")[..., :3]
    assert (seen.mean() < 0.4) == (scheme == "dark")
    assert seen.std() > 0.02, "the page is blank"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_of_every_page_stands_out(address: str, browser: Browser, scheme: str):
    """WCAG AA: 4.5 : 1 against what lies behind it, 3 : 1 where it is large."""
    browser.shown_as(1280, 900, scheme)
    for page in EVERY_PAGE:
        browser.open(address + page, READY)
        browser.wait(PARTS_CAME)
        words = browser.ask(WORDS)
        assert words
        faint = [told for told in words if contrast(told[0], told[1]) < (3 if told[2] else 4.5)]
        assert not faint, (page, faint[:5])


def test_a_page_says_when_the_console_is_away_and_when_it_is_back(address: str, browser: Browser):
    browser.open(f"{address}/", READY)
    assert browser.ask("document.getElementById('stale').hidden")
    browser.ask("window.ask = fetch, window.fetch = () => Promise.reject(new Error('away')), 0")
    browser.wait("!document.getElementById('stale').hidden")
    browser.ask("window.fetch = window.ask, 0")
    browser.wait("document.getElementById('stale').hidden")


def test_nothing_is_cut_off_on_a_wide_screen(address: str, browser: Browser):
    """No table needs its frame moved, and no word of a picture runs out of it."""
    browser.shown_as(1280, 900, "light")
    for page in EVERY_PAGE:
        browser.open(address + page, READY)
        browser.wait(PARTS_CAME)
        assert browser.ask(CUT_OFF) == [], page


def test_no_page_is_wider_than_a_phone(address: str, browser: Browser):
    """A table that is wider moves in a frame of its own."""
    browser.shown_as(390, 844, "light")
    for page in EVERY_PAGE:
        browser.open(address + page, READY)
        browser.wait(PARTS_CAME)
        assert browser.ask("document.documentElement.scrollWidth") == 390, page


def tried(items: int) -> str:
    """That so many tried items are shown, and no answer is awaited."""
    return f"{READY} && {ANSWERED} && document.querySelectorAll('li.tried').length === {items}"


def lists(browser: Browser) -> str:
    """What stands in the lists."""
    return str(browser.ask("document.querySelector('#lists').innerText"))


@pytest.mark.parametrize("item", ["#event-1", "#event-2", "#place-1-2", "#place-2-1"])
def test_a_click_on_an_item_changes_the_lists_where_one_looks(address: str, browser: Browser, home: Path, item: str):
    """In the history or in a list; a second click takes it back, and so does the browser's "back"."""
    files = written(home)
    browser.shown_as(1280, 500, "light")
    browser.open(address + SHOPPER, ANSWERED)
    before, place = lists(browser), browser.ask(f"document.querySelector('{item}').id")
    browser.ask("window.same = true")
    browser.click(item)
    browser.wait(tried(1))
    after, reached = lists(browser), browser.ask("location.href")
    assert after != before
    assert "A tried item is a test event" in browser.ask("document.body.innerText")
    assert "1 item tried" in browser.ask("document.querySelector('#heard').textContent"), "for who does not see it"
    assert browser.ask("document.activeElement.id") == place
    browser.click("li.tried a")
    browser.wait(tried(0))
    assert lists(browser) == before
    browser.ask("history.back()")
    browser.wait(tried(1))
    assert (lists(browser), browser.ask("location.href")) == (after, reached)
    assert browser.ask("window.same"), "the page was loaded anew, and the reader's place was lost"
    browser.open(reached, tried(1))  # an address can be handed on
    assert lists(browser) == after
    assert not browser.said
    assert written(home) == files, "what is tried is written nowhere"


def test_the_answer_to_the_last_click_stands(address: str, browser: Browser):
    """Of two clicks, also where the first is answered after the second."""
    browser.open(address + SHOPPER, ANSWERED)
    browser.ask(FIRST_IS_LATE)
    browser.click("#place-1-1")
    browser.click("#place-1-2")
    browser.wait(tried(1))
    shown = lists(browser)
    browser.ask("go(), setTimeout(() => { window.gone = true; }, 50), 0")
    browser.wait("window.gone")
    assert lists(browser) == shown
    second = browser.ask("location.href")
    browser.open(second, tried(1))
    assert lists(browser) == shown


@pytest.mark.parametrize("page", [page for page in EVERY_PAGE if not page.startswith("/runs/")])
def test_every_control_of_a_page_is_reached_in_order_and_seen(address: str, browser: Browser, page: str):
    """By Tab, in the order of reading, each with a line round it and on the screen. (A run's page has a frame.)"""
    browser.shown_as(1280, 500, "light")
    browser.open(address + page, READY)
    browser.wait(PARTS_CAME)
    browser.ask(
        f"window.controls = [...document.querySelectorAll({CONTROLS!r})].filter((each) => each.checkVisibility())"
    )
    for number in range(browser.ask("controls.length")):
        browser.press("Tab")
        told = browser.ask(FOCUSED)
        assert told["at"] == number, (number, told)
        assert told["line"] >= 2 and told["inside"], told


def test_enter_does_what_a_click_does(address: str, browser: Browser):
    browser.open(address + SHOPPER, ANSWERED)
    browser.click("#place-1-3")
    browser.wait(tried(1))
    clicked = lists(browser)
    browser.open(address + SHOPPER, ANSWERED)
    browser.ask("window.same = true, document.querySelector('#place-1-3').focus()")
    browser.press("Enter")
    browser.wait(tried(1))
    assert lists(browser) == clicked and browser.ask("window.same")
    browser.press("Tab")
    browser.press("Enter")
    assert browser.ask("document.activeElement.parentElement.open"), "the next after it tells why"
