"""Runs each task of a pipeline in its own image, with a Docker engine in place of a cluster."""

import os
from typing import TYPE_CHECKING

from components import workspace

if TYPE_CHECKING:
    from kfp.local import DockerRunner


def runner() -> "DockerRunner":
    """Containers as a hardened cluster runs them: no network, a read-only root, the caller's own user.

    They see the workspace under the path that it has here, so that records and manifests mean the same on both sides.
    The images are those of `components.image`; the engine is `$DOCKER_HOST`'s.
    """
    from docker.types import Mount
    from kfp.local import DockerRunner

    home = workspace.home()
    home.mkdir(parents=True, exist_ok=True)
    named = {name: value for name, value in os.environ.items() if name.startswith("HETERREC_")}
    data = os.environ.get("HETERREC_DATA")
    return DockerRunner(
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "exec"},
        user=f"{os.getuid()}:{os.getgid()}",
        environment={**named, "HETERREC_HOME": str(home)},
        mounts=[
            Mount(str(home), str(home), type="bind"),
            *([Mount(data, data, type="bind", read_only=True)] if data else []),
        ],
    )
