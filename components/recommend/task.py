"""Lists for all shoppers as a task of a run; never reused, as histories are of the moment."""

from typing import Any

from components.recommend import step
from runtime import object_store, workspace
from runtime.manifest import Manifest
from runtime.task import Task

KIND = "lists"
KEPT = 2
"""Lists of a model: the latest, and those before it, which somebody may be reading."""


def recommend(*, run_id: str, model: str, k: int, processes: int, lists: str) -> dict[str, Any]:
    """Make the lists, let `lists` refer to them, and let go of those of before."""
    task = Task("recommend", run_id=run_id, module="components.recommend.step")
    report = task.make_always(
        lists,
        kind=KIND,
        make=lambda out, scratch: step.run(model=model, k=k, processes=processes, lists=out, scratch=scratch),
    )
    _let_go(model)
    return report


def _let_go(model: str) -> None:
    """Of lists that are no longer among the latest: they name shoppers and are of no use to anybody."""
    import shutil

    folder, found = workspace.artifacts() / KIND, []
    for path in folder.glob("*/manifest.json"):
        if Manifest.read(path.parent).facts["report"]["model"] == model:
            found.append((path.stat().st_mtime_ns, path.parent))
    for _, path in sorted(found)[:-KEPT]:
        shutil.rmtree(path)
        if shared := object_store.shared():
            shared.drop(path)
