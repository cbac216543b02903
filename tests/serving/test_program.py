"""A program compiled for this machine answers alike, and a machine that cannot compile serves all the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from runtime.code_digest import ROOT
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


def test_without_a_compiler_it_runs_as_it_is_and_says_what_is_missing(content: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(content, tmp_path / "content")
    score = (
        "import json, pathlib, sys; from serving.scoring.scorer import Scorer;"
        "print(json.dumps(Scorer.load(pathlib.Path(sys.argv[1])).score(json.loads(sys.argv[2]))))"
    )
    # A process of its own, as TorchServe's workers are: inductor looks for compilers once in each.
    environment = {**os.environ, COMPILE: "1", "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("CXX", None)
    command = [sys.executable, "-c", score, str(copy), json.dumps(REQUESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (warning,) = (line for line in done.stderr.splitlines() if "cannot be compiled" in line)
    assert "it runs as it is: " in warning and "No working C++ compiler found" in warning
    assert "That takes a C++ compiler (g++); HETERREC_COMPILE=0 needs none." in warning
    assert json.loads(done.stdout) == Scorer.load(content).score(REQUESTS)
    assert not list(copy.glob("compil*"))
