"""Rows of `bench-quality` by name, alone and crossed."""

import pytest

from benchmarks.model.quality_rows import (
    ABLATIONS,
    AXES,
    BASELINES,
    MAIN,
    crossed,
    named,
    of_plugins,
)
from heterrec.changes import changed
from heterrec.plugins import load_plugins
from heterrec.recipes import hstu


def test_every_row_is_a_recipe():
    for name in (*MAIN, *ABLATIONS):
        assert named(name).config("full", 3).seed == 3
    assert named("windows").config("fast", 0).loss.window == 3
    assert not set(BASELINES) & {*MAIN, *ABLATIONS}


def test_a_grid_names_its_rows():
    names = crossed(["heterrec"], ",".join(AXES))
    # Without the token level its loss weighs nothing: lambda's three values are one model.
    assert len(names) == len(set(names)) == 2 * (1 + 3) * 2 * 2 * 3 * 3
    found = named("heterrec+taste=0+tokens=1+lambda=.1+window=1+steps=1+width=32+depth=4").config("fast", 0)
    c, loss = found.model, found.loss
    assert (c.taste, c.token_layers, c.steps, c.width, c.item_layers) == (False, 1, 1, 32, 4)
    assert type(c.taste) is bool and type(c.width) is int and (loss.token_weight, loss.window) == (0.1, 1)
    assert crossed(["sasrec", "heterrec"], "window=1/2") == [
        "sasrec+window=1", "sasrec+window=2", "heterrec+window=1", "heterrec+window=2",
    ]  # fmt: skip
    assert crossed(["sasrec"], "tokens,lambda") == ["sasrec+tokens=0+lambda=0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hetterrec", "row 'hetterrec' is unknown"),
        ("heterrec+tast=0", "setting 'tast=0' is unknown"),
        ("heterrec+taste=2", "'taste=2' has no bool"),
        ("heterrec+width=32.5", "'width=32.5' has no int"),
        ("heterrec+width", "'width' has no int"),
        ("heterrec+width=33", "width=33 must be divisible"),
    ],
)
def test_a_name_that_is_no_row_is_told(name, message):
    with pytest.raises(ValueError, match=message):
        named(name)


def test_an_unknown_axis_is_told():
    with pytest.raises(ValueError, match="axis 'heads' is unknown, expected some of taste"):
        crossed(["heterrec"], "taste,heads=1/2")


def test_a_user_s_file_has_rows_by_name(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from heterrec.recipes import hstu\n"
        "RECIPES = {'wide': {'model.width': 96}, 'plain': {'base': 'sasrec', 'memory': []}, 'whole': hstu()}\n"
        "BASELINES = {'nothing': lambda sequences, queries: None}\n"
    )
    plugins = load_plugins(tmp_path / "mine.py")
    baselines, models = of_plugins(plugins)
    assert list(baselines) == ["nothing"] and baselines["nothing"].fit is plugins.baselines["nothing"]
    for budget in ("fast", "full"):
        assert named("wide", models).config(budget, 3) == changed(
            named("heterrec").config(budget, 3), {"model.width": 96}
        )
        assert named("plain", models).config(budget, 3) == changed(named("sasrec").config(budget, 3), {"memory": []})
        assert named("whole", models).config(budget, 3) == hstu(seed=3)
    assert named("wide+taste=0", models).config("fast", 0).model.taste is False
    (tmp_path / "mine.py").write_text("RECIPES = {'no_taste': {}}")
    with pytest.raises(ValueError, match="'no_taste' is a row of bench-quality"):
        of_plugins(load_plugins(tmp_path / "mine.py"))
