"""What a task gives to Kubeflow of an artifact: where it is and which, never the artifact itself.

Kubeflow's launcher uploads every file of an output into its own store, which nobody empties and `forget` does not
reach, and downloads it again for every task that takes it. The artifact stays in the workspace, and in our store where
there is one.
"""

import json
import shutil
from pathlib import Path

from runtime import object_store, workspace
from runtime.errors import InputError
from runtime.files import replace_text
from runtime.manifest import Manifest

NAME = "reference.json"


def write(output: Path, artifact: Path, manifest: Manifest) -> None:
    """Let the folder `output` be a reference to the sealed `artifact` of the workspace, whatever was there."""
    if output.is_dir():
        shutil.rmtree(output)
    elif output.exists():
        output.unlink()
    output.mkdir(parents=True)
    shared = object_store.shared()
    told = {
        "kind": manifest.kind,
        "artifact": artifact.relative_to(workspace.home()).as_posix(),
        "digest": manifest.digest,
        "address": shared.address_of(artifact) if shared else "",
    }
    replace_text(output / NAME, json.dumps(told, indent=1))


def follow(path: Path) -> Path:
    """The artifact that `path` refers to, fetched from the store where this machine lacks it; `path` if it is one.

    Raises `InputError` where a reference cannot be read, and where what it names is nowhere or is another one by now.
    """
    if not (path / NAME).is_file():
        return path
    kind, name, digest = _read(path / NAME)
    here = workspace.home() / name
    if _digest(here, kind) == digest:
        return here
    shared = object_store.shared()
    if shared is not None and shared.fetch(here) and _digest(here, kind) == digest:
        return here
    raise InputError(
        f"{path / NAME}: refers to {name} ({kind} {digest[:12]}), which is not in {workspace.home()}"
        f"{f' nor in {shared.address}' if shared else ''}, or is another one by now. Run the step that makes it again."
    )


def _read(path: Path) -> tuple[str, str, str]:
    try:
        found = json.loads(path.read_text())
        kind, name, digest = str(found["kind"]), str(found["artifact"]), str(found["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is no reference to an artifact ({error!r}). Run the step that makes it again."
        ) from error
    if Path(name).parts[:1] != (workspace.artifacts().name,) or ".." in Path(name).parts:
        raise InputError(f"{path}: refers to {name!r}, expected a place below {workspace.artifacts().name}/")
    return kind, name, digest


def _digest(artifact: Path, kind: str) -> str | None:
    try:
        return Manifest.read(artifact, kind=kind).digest
    except InputError:
        return None
