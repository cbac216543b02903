"""scripts/images.sh says of what it builds where it comes from and what it is made of, by each engine alike.

No engine runs where tests run: a program of that name notes what it was asked for, and is the image's Python.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime.workspace import ROOT

ENGINES = ("docker", "podman", "buildah")
ENGINE = """#!/bin/sh
echo "$*" >>"$ASKED"
case "$1 $*" in
  *python\\ -\\ *) while [ "$1" != python ]; do shift; done; shift; exec "$PYTHON" "$@" ;;
  "image "*|"inspect "*) echo sha256:made ;;
  "from "*) echo a-container ;;
esac
"""


class Built(NamedTuple):
    done: subprocess.CompletedProcess[str]
    asked: list[str]
    folder: Path

    def labels(self, image: str) -> dict[str, str]:
        (line,) = [each for each in self.asked if f"--target {image} " in each]
        return dict(re.findall(r"--label=org\.opencontainers\.image\.([\w.]+)=(\S+)", line))


def build(folder: Path, engine: str, *images: str, **environment: str) -> Built:
    """images.sh in a checkout of its own, so that nobody's build/ is written."""
    checkout = folder / "checkout"
    if not checkout.exists():
        (checkout / "scripts").mkdir(parents=True)
        (checkout / "pipelines").mkdir()
        for name in ("scripts/images.sh", "scripts/bill.py", "pipelines/version.py", "k8s", "pyproject.toml"):
            (checkout / name).symlink_to(ROOT / name)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(checkout)]
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "a"]):
            subprocess.run([*git, *command], check=True)
    program = folder / "bin" / engine
    program.parent.mkdir(exist_ok=True)
    program.write_text(ENGINE)
    program.chmod(0o755)
    asked = folder / "asked.txt"
    told = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "ASKED": str(asked),
        "PYTHON": str(ROOT / ".venv/bin/python"),
        "ENGINE": engine,
        **environment,
    }
    done = subprocess.run(
        [str(checkout / "scripts/images.sh"), *images], env=told, capture_output=True, text=True, cwd=checkout
    )
    return Built(done, asked.read_text().splitlines() if asked.exists() else [], checkout / "build")


@pytest.fixture(scope="module", params=ENGINES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp(request.param), request.param, "gateway", TAG="1")


def test_an_image_says_where_it_comes_from(built: Built) -> None:
    assert built.done.returncode == 0, built.done.stderr
    labels = built.labels("gateway")
    dockerfile = (ROOT / "k8s/images/Dockerfile").read_text()
    base = re.search(r"^ARG BASE=(\S+)@(sha256:[0-9a-f]{64})$", dockerfile, re.M)
    assert base is not None and (labels["base.name"], labels["base.digest"]) == base.groups()
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None and labels["version"] == version[1]
    assert re.fullmatch(r"[0-9a-f]{12}", labels["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", labels["created"])
    assert "org.opencontainers.image.source=" in dockerfile


def test_beside_it_lies_what_it_is_made_of(built: Built) -> None:
    told = json.loads((built.folder / "images.json").read_text())
    assert told == {
        "gateway": {
            "name": "localhost/heterrec-gateway:1",
            "digest": "sha256:made",
            "bill": "build/gateway.cdx.json",
        }
    }
    bill = json.loads((built.folder / "gateway.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == "localhost/heterrec-gateway:1"
    assert {"torch", "sqlalchemy"} <= {each["name"] for each in bill["components"]}
    left = [each for each in built.asked if each.split()[0] in ("from", "rm")]
    assert left in ([], ["from --pull-never localhost/heterrec-gateway:1", "rm a-container"]), "no container is left"


def test_a_base_without_a_digest_claims_none(tmp_path: Path) -> None:
    labels = build(tmp_path, "podman", "train", BASE="localhost/python:3.11").labels("train")
    assert labels["base.name"] == "localhost/python:3.11" and "base.digest" not in labels


def test_an_image_built_alone_keeps_what_was_built_before(tmp_path: Path) -> None:
    build(tmp_path, "docker", "train", "serve", TAG="1")
    build(tmp_path, "docker", "serve", TAG="2")
    told = json.loads((tmp_path / "checkout/build/images.json").read_text())
    assert {kind: each["name"][-2:] for kind, each in told.items()} == {"train": ":1", "serve": ":2"}


@pytest.mark.parametrize(
    ("images", "engine", "told"),
    [(["served"], "docker", "served is no image, expected train serve gateway"), ([], "nerdctl", "ENGINE=nerdctl")],
)
def test_what_is_no_image_and_no_engine_is_refused(tmp_path: Path, images: list[str], engine: str, told: str) -> None:
    refused = build(tmp_path, engine, *images)
    assert refused.done.returncode == 2 and told in refused.done.stderr
    assert not refused.asked
