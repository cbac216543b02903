"""What is rendered for people needs no network: no page asks for one, and a browser without one shows it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.component.make_events import at
from tests.component.test_validate import PRICES, validate, with_row
from tests.pages import assert_offline, pages

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gate's artifact of data that blocks: a price below what the card allows."""
    folder = tmp_path_factory.mktemp("gate")
    decision = validate(folder, prices=with_row(PRICES, 0, price=-1.0, event_time=at(0)))
    assert not decision.passed
    return folder / "validation"


def test_the_gates_page_and_data_docs_ask_the_network_for_nothing(validation: Path):
    found = pages(validation)
    # The gate's page, a list, and of each of four tables what was expected and what was found.
    assert [path.parent.name for path in found].count("data_docs") == 1 and len(found) == 10
    for page in found:
        assert_offline(page)
        assert "<script" not in page.read_text()


def test_data_docs_still_tell_what_was_asked_and_found(validation: Path):
    found = {path.stem: path.read_text() for path in (validation / "data_docs" / "validations").rglob("*.html")}
    html = found["tiny-varying"]
    assert "values must be greater than or equal to" in html and "1 unexpected values found" in html and "-1.0" in html
    assert "fa-times" in html and "".join(found.values()).count("fa-check-circle") > 15, "what held, and what did not"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_without_a_network_shows_them(validation: Path, tmp_path: Path):
    assert CHROMIUM is not None
    for number, page in enumerate(pages(validation)):
        picture = tmp_path / f"{number}.png"
        offline = ["--proxy-server=127.0.0.1:1", "--no-first-run", "--disable-background-networking"]
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", *offline,
             "--window-size=1000,800", f"--screenshot={picture}", page.as_uri()],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert imread(picture)[..., :3].std() > 0.02, f"{page} is blank"
