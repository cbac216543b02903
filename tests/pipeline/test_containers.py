"""A task in a container ends as its container did, and leaves none behind; over the API of a Docker engine."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import local
from kfp.local.docker_task_handler import DockerTaskHandler
from kfp.local.status import Status

from components.shared import image
from pipelines.containers import choose_images, runner
from runtime.errors import InputError
from tests.loopback_api import served

ID, IMAGE, SAID = "c0ffee", "shop/train:1", "said inside\n"


class Engine:
    """As much of Docker's API as one container takes; it ends with `status`, and is gone at once if asked to be."""

    def __init__(self, status: int) -> None:
        self.status, self.created, self.steps = status, {}, []

    def answer(self, method: str, path: str, _: Any, body: bytes) -> tuple[int, Any]:
        step = path.split("?")[0].rsplit("/", 1)[-1]
        if step in ("version", "info"):
            return 200, {"ApiVersion": "1.41"}
        if "/images/" in path:
            image = {"Id": "sha256:1", "RepoTags": [IMAGE], "RepoDigests": []}
            return 200, [image] if path.endswith("/images/json") or "?" in path else image
        self.steps.append("remove" if method == "DELETE" else step)
        if step == "create":
            self.created = json.loads(body)
            return 201, {"Id": ID, "Warnings": []}
        if self.created["HostConfig"].get("AutoRemove") and step in ("logs", "wait"):
            return 404, {"message": "no such container"}
        if step == "json":
            return 200, {"Id": ID, "Config": {"Tty": False}}
        if step == "logs":  # a frame: standard output, length, text
            return 200, f"\x01\0\0\0\0\0\0{chr(len(SAID))}{SAID}"
        return 200, {"StatusCode": self.status}


@pytest.mark.parametrize(("status", "outcome"), [(0, Status.SUCCESS), (1, Status.FAILURE), (137, Status.FAILURE)])
def test_a_container_that_was_killed_is_a_task_that_failed(
    status: int, outcome: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    engine = Engine(status)
    with served(engine.answer) as address:
        monkeypatch.setenv("DOCKER_HOST", address.replace("http", "tcp"))
        local.init(runner=runner(), pipeline_root=str(tmp_path))
        handler = DockerTaskHandler(IMAGE, ["true"], str(tmp_path), runner(), {})
        assert handler.run() == outcome
    assert SAID in capsys.readouterr().out
    assert engine.steps.index("wait") < engine.steps.index("remove") == len(engine.steps) - 1
    host = engine.created["HostConfig"]
    assert host["NetworkMode"] == "none" and host["ReadonlyRootfs"]


def test_tasks_run_in_the_images_just_built_unless_the_environment_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("TRAIN", "SERVE"):
        monkeypatch.setattr(image, kind, "ghcr.io/of/a-release")
        monkeypatch.delenv(f"HETERREC_{kind}_IMAGE", raising=False)
    built = tmp_path / "images.json"
    with pytest.raises(InputError, match=r"names no image train\. Run `make images`"):
        choose_images(built)
    built.write_text(json.dumps({"train": {"name": "localhost/train:abc", "digest": "sha256:1"}}))
    with pytest.raises(InputError, match="names no image serve"):
        choose_images(built)
    monkeypatch.setenv("HETERREC_SERVE_IMAGE", "registry.example/serve@sha256:2")
    choose_images(built)
    assert (image.TRAIN, image.SERVE) == ("localhost/train:abc", "registry.example/serve@sha256:2")


def test_without_an_engine_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(InputError, match=r"no Docker engine answers at unix://.*no\.sock"):
        runner()
