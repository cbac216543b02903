"""What every process of a TrainJob runs: `torchrun -m components.train.node --work FOLDER`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from components.train import nodes, step
from components.train.progress import EventProgress
from runtime import service_log
from runtime.errors import InputError
from runtime.files import replace_text

LOG_SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train this process's part; 2 where the data is at fault, which is left in the folder for the step that waits."""
    service_log.configure()
    parser = argparse.ArgumentParser(prog="components.train.node", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="as laid by components/train/nodes.py")
    folder: Path = parser.parse_args(arguments).work
    import torch

    from heterrec import distributed
    from heterrec.recipes import TrainConfig

    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // beside))
    try:
        asked = json.loads((folder / nodes.TASK).read_text())
        step.fit(
            config=TrainConfig.from_json(asked["config"]),
            sequences=folder / "sequences",
            model=folder / "model",
            scratch=folder.parent,
            **{name: folder / name if asked[name] else None for name in nodes.BEGUN_FROM},
            progress=EventProgress("refit" if asked["blessed"] else "train", interval=LOG_SECONDS)
            if distributed.writes()
            else None,
            sharded=asked["sharded"],
        )
    except InputError as error:
        replace_text(folder / nodes.FAULT, json.dumps(str(error)))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
