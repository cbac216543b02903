"""What the style sheet and the document promise: contrast in light and dark, and options that there are."""

import re

import pytest

from console import __main__ as console
from runtime.charts import STYLE
from runtime.workspace import ROOT

CSS = STYLE.read_text() + (ROOT / "console/static/console.css").read_text()
DOCUMENT = (ROOT / "docs/console.md").read_text()


def luminance(colour: str) -> float:
    """By WCAG 2, of #rgb or #rrggbb."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_stand_out(scheme: int):
    """WCAG AA: 4.5 for text, 3 for what a picture means by a colour."""
    blocks = [block for block in re.findall(r":root \{(.*?)\}", CSS, re.S) if "--ink" in block]
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[scheme]))
    for ground in ("paper", "ground", "faint"):
        for text in ("ink", "quiet", "link", "good", "bad", "warn", "none"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for badge in ("good", "bad", "warn", "none", "s0"):
        assert contrast(colours["badge"], colours[badge]) >= 4.5, badge
    for number in range(8):
        assert contrast(colours[f"s{number}"], colours["paper"]) >= 3, number


def test_colours_are_told_in_one_place_for_both_schemes():
    """A colour outside of the two blocks would not follow light and dark."""
    rest = re.sub(r":root \{.*?\}", "", CSS, flags=re.S)
    assert re.findall(r"#[0-9a-f]{3,6}\b", rest) == ["#fff"], "the frame of pages that runs wrote, which are light"


def test_options_of_the_document_are_those_of_the_command():
    known = console._parser().format_help()
    named = set(re.findall(r"--[a-z][a-z-]+", DOCUMENT))
    assert len(named) > 4
    assert not [option for option in named if option not in known]
    assert f":{console.PORT}" in DOCUMENT


@pytest.mark.parametrize("picture", re.findall(r"\((images/\S+)\)", DOCUMENT))
def test_pictures_are_there_and_small(picture: str):
    assert (ROOT / "docs" / picture).stat().st_size < 300_000


def test_changes_beyond_this_machine_need_a_name_that_a_proxy_says(capsys: pytest.CaptureFixture[str]):
    assert console.main(["--host", "0.0.0.0", "--allow-changes"]) == 2
    assert "--user-header" in capsys.readouterr().err


def test_a_port_that_is_taken_and_a_policy_that_is_none_are_told(tmp_path, capsys: pytest.CaptureFixture[str]):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert console.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "Choose another --port" in capsys.readouterr().err
    (tmp_path / "policy.json").write_text('{"alpha": 7}')
    assert console.main(["--policy", str(tmp_path / "policy.json")]) == 2
    assert "alpha=7" in capsys.readouterr().err
