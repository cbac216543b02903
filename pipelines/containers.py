"""Runs each task of a pipeline in its own image, with a Docker engine in place of a cluster."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.source import DATA_VARIABLE
from components.shared import image
from runtime import workspace
from runtime.errors import InputError

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp.local import DockerRunner


BUILT = workspace.ROOT / "build/images.json"
"""What `make images` built: {"train": {"name", "digest"}, "serve": ...}."""


def choose_images(built: Path = BUILT) -> None:
    """Let components, before they are imported, run in what `make images` built where the environment names no image.

    Raises `InputError` where there is neither.
    """
    for kind in ("train", "serve"):
        variable = f"HETERREC_{kind.upper()}_IMAGE"
        name = os.environ.get(variable)
        if name is None:
            known = json.loads(built.read_text()) if built.is_file() else {}
            if kind not in known:
                raise InputError(f"{built}: names no image {kind}. Run `make images`, or set {variable} to one.")
            name = known[kind]["name"]
        setattr(image, kind.upper(), name)


def folders() -> dict[str, bool]:
    """The folders of this disk that containers see, under the path that they have here, and whether they may write."""
    data = os.environ.get(DATA_VARIABLE)
    return {str(workspace.home()): True} | ({str(Path(data).expanduser()): False} if data else {})


def runner() -> "DockerRunner":
    """Containers as a hardened cluster runs them: no network, a read-only root, the caller's own user.

    They see the workspace under the path that it has here, so that records and manifests mean the same on both sides.
    The images are those of `components.shared.image`; the engine is `$DOCKER_HOST`'s. Raises `InputError` where none
    answers.
    """
    import docker
    from docker.errors import DockerException
    from docker.types import Mount
    from kfp.local import DockerRunner, docker_task_handler

    try:
        docker.from_env().close()
    except DockerException as error:
        where = os.environ.get("DOCKER_HOST", "its default address")
        raise InputError(f"no Docker engine answers at {where} ({error}). Start one, or set DOCKER_HOST.") from error

    # Kubeflow lets the engine remove a container at its end and takes one that is gone for a success: a task that was
    # killed would have succeeded (kfp 2.17).
    docker_task_handler.run_docker_container = run_to_end
    home = workspace.home()
    home.mkdir(parents=True, exist_ok=True)
    named = {name: value for name, value in os.environ.items() if name.startswith("HETERREC_")}
    return DockerRunner(
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "exec"},
        user=f"{os.getuid()}:{os.getgid()}",
        environment={**named, "HETERREC_HOME": str(home)},
        mounts=[Mount(each, each, type="bind", read_only=not writes) for each, writes in folders().items()],
    )


def run_to_end(client: "DockerClient", image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
    """Run a container, print what it says, and return its exit status; it is removed here, whatever happens.

    An image that the engine has not is pulled. Raises `docker.errors.DockerException`.
    """
    container = client.containers.run(image, command, detach=True, volumes=volumes, **options)
    try:
        for line in container.logs(stream=True, follow=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True, v=True)
