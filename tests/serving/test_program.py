"""A program compiled for this machine answers alike, and a machine that cannot compile serves all the same."""

import logging
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from serving.scoring.program import COMPILE
from serving.scoring.scorer import Scorer
from tests.serving.test_scorer import event

REQUESTS: list[dict[str, Any]] = [
    {"history": [event("i3", price=2.0)], "k": 5},
    {"history": [event(f"i{n}", n, shelf="top") for n in range(6)], "k": 10},
]


def no_compiler(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("no C++ compiler")


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler (g++)")
def test_a_compiled_program_answers_alike_and_is_compiled_once(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(content, tmp_path / "content")
    expected = Scorer.load(copy).score(REQUESTS)
    monkeypatch.setenv(COMPILE, "1")
    first = Scorer.load(copy).score(REQUESTS)
    assert [path.name for path in copy.glob("compil*")] == [f"compiled-{torch.__version__}.pt2"]
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", no_compiler)
    for answers in (first, Scorer.load(copy).score(REQUESTS)):
        for mine, theirs in zip(answers, expected, strict=True):
            scores = [[item["score"] for item in answer["items"]] for answer in (mine, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
            assert [item["item_id"] for item in mine["items"]] == [item["item_id"] for item in theirs["items"]]


def test_where_it_cannot_be_compiled_it_runs_as_it_is_and_says_why(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(content, tmp_path / "content")
    expected = Scorer.load(copy).score(REQUESTS)
    monkeypatch.setenv(COMPILE, "1")
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", no_compiler)
    with caplog.at_level(logging.WARNING, logger="serving.scoring.program"):
        assert Scorer.load(copy).score(REQUESTS) == expected
    assert "it runs as it is: RuntimeError('no C++ compiler')" in caplog.text
