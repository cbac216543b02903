"""A user's file: what it names comes by name, and what is wrong with it is told with the file and the entry."""

from pathlib import Path

import pytest

from heterrec.plugins import Plugins, load_plugins
from heterrec.recipes import RECIPES

FIT = "def fit(sequences, queries):\n    return None\n"


def test_what_it_names_comes_by_name(tmp_path: Path) -> None:
    path = tmp_path / "json.py"  # called like a module of Python's own, which stays what it is
    path.write_text(
        f"import dataclasses\n{FIT}BASELINES = {{'mine': fit}}\nRECIPES = {{'wide': {{'model.width': 96}}}}"
    )
    found = load_plugins(path)
    assert found.baselines["mine"].__name__ == "fit" and found.recipes == {"wide": {"model.width": 96}}
    import json

    assert json.loads("1") == 1
    path.write_text(f"{FIT}BASELINES = {{'other': fit}}")
    again = load_plugins(path)
    assert list(again.baselines) == ["other"] and again.digest != found.digest
    assert load_plugins(None) == Plugins()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has neither BASELINES nor RECIPES"),
        ("import nothing_like_it", "ends with ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def broken(:", "ends with SyntaxError"),
        ("BASELINES = [1]", "BASELINES is list, expected a dictionary by name"),
        ("BASELINES = {1: print}", "BASELINES is dict, expected a dictionary by name"),
        ("BASELINES = {'mine': 3}", r"BASELINES\['mine'\] is int, expected a function"),
        ("RECIPES = {'mine': 3}", r"RECIPES\['mine'\] is int, expected fields"),
        ("RECIPES = {'mine': {'widht': 3}}", r"RECIPES\['mine'\]: config\.widht: no such field"),
        ("RECIPES = {'a': {}}\nBASELINES = {'a': print}", "'a' names a recipe and a baseline"),
        *((f"RECIPES = {{{name!r}: {{}}}}", "is called like one of the project's own") for name in RECIPES),
        ("BASELINES = {'popularity': print}", "is called like one of the project's own"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.py: .*{message}"):
        load_plugins(path)


def test_no_file_is_no_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("BASELINES = {}")
    for path in (tmp_path / "none.py", tmp_path / "mine.txt", tmp_path):
        with pytest.raises(ValueError, match="no such Python file"):
            load_plugins(path)
