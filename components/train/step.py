"""Train a recipe on the `sequences` artifact and write the `model` artifact."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.train import nodes, processes
from runtime.errors import InputError

if TYPE_CHECKING:
    from heterrec.data.encoder import FeatureEncoder
    from heterrec.recipes import TrainConfig
    from heterrec.training.trained import Progress


def run(
    *,
    config: "TrainConfig",
    sequences: Path,
    model: Path,
    scratch: Path,
    champion: Path | None = None,
    blessed: Path | None = None,
    progress: "Progress | None" = None,
) -> dict[str, Any]:
    """Train `config` and write config.json, weights.pt, encoder.json, curve.json and report.json to `model`.

    In one process, in as many as `processes.wanted` says, or on the nodes that `nodes.wanted` names. Goes on from the
    checkpoint in `scratch` where a run before was killed. With `warm_start` the weights begin with those of the
    champion artifact, where it holds a model. With `blessed`, the folder of a model of this recipe, this model goes on,
    over all events (`heterrec.training.refit`); where it diverges the report says no more than `diverged`. Returns the
    report. Raises `InputError` where the data cannot be learned from.
    """
    job = nodes.wanted()
    count = 1 if job else processes.wanted()
    work: dict[str, Any] = {
        "config": config,
        "sequences": sequences,
        "model": model,
        "scratch": scratch,
        "champion": champion,
        "blessed": blessed,
        "progress": progress,
        "sharded": processes.sharded(),
    }
    if job is not None:
        nodes.train_on_nodes(job, work)
    elif count == 1:
        fit(**work)
    else:
        processes.run_processes(count, fit, work)
    report: dict[str, Any] = json.loads((model / "report.json").read_text())
    return report


def fit(
    *,
    config: "TrainConfig",
    sequences: Path,
    model: Path,
    scratch: Path,
    champion: Path | None,
    progress: "Progress | None",
    sharded: bool,
    blessed: Path | None = None,
) -> None:
    """`run` in this process, which may be one of several; the first of them writes `model`."""
    import torch

    from heterrec import distributed
    from heterrec.data.sequences import read_sequences
    from heterrec.training.export import load_model, save_model
    from heterrec.training.loop import train
    from heterrec.training.refit import refit
    from heterrec.training.trained import StartingModel

    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    how: dict[str, Any] = {"scratch": scratch, "progress": progress, "device": device, "sharded": sharded}
    try:
        data = read_sequences(sequences)
        start = None
        if config.warm_start and champion is not None and (champion / "model").is_dir():
            before = load_model(champion / "model", device)
            start = None if before.model is None else StartingModel(before.model, before.encoder)
        if blessed is not None:
            trained = refit(load_model(blessed, device), config, data, **how)
        else:
            trained = train(data, config, champion=start, **how)
    except ValueError as error:
        raise InputError(str(error)) from error
    except FloatingPointError as error:
        if blessed is None:
            raise
        if distributed.writes():  # no fault of the run: there is a blessed model, and who asked for more decides
            (model / "report.json").write_text(json.dumps({"diverged": str(error)}))
        return
    if not distributed.writes():
        return
    save_model(trained, model)
    # Of the epoch whose weights these are; of the first where they are still the champion's; tables alone have none.
    best = (
        trained.curve[max(trained.best_epoch, 1) - 1] if trained.curve else {"loss": None, "sequences_per_second": None}
    )
    parameters = () if trained.model is None else trained.model.parameters()
    report = {
        "epochs": len(trained.curve),
        "best_epoch": trained.best_epoch,
        "loss": best["loss"],
        "validation_ndcg": trained.validation_ndcg,
        "sequences_per_second": best["sequences_per_second"],
        "seconds": round(time.monotonic() - started, 3),
        "training_seconds": round(sum(point["seconds"] for point in trained.curve), 3),
        "training_events": int(data.training_counts.sum()) if blessed is None else len(data.row),
        "items": len(data.catalogue),
        "items_with_own_id": len(trained.encoder.ids),
        "features": [field.name for field in trained.encoder.fields] if config.model.features else [],
        "values_left_out": _left_out(trained.encoder),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trust_in_the_network": None if trained.memory is None else round(trained.memory.beside.trust, 3),
        "decay_of_memory": [] if trained.memory is None else list(trained.memory.decay_C),
        "seed": config.seed,
        "warm_start": start is not None,
        "device": device,
        "processes": distributed.started(),
        "torch": torch.__version__,
    }
    (model / "report.json").write_text(json.dumps(report, indent=1))


def _left_out(encoder: "FeatureEncoder") -> list[str]:
    """In words, of the features whose items have more values than a bag holds."""
    from heterrec.data.encoder import MAX_WORDS

    return [f"{field.name}: {field.cut:,} beyond the first {MAX_WORDS}" for field in encoder.fields if field.cut]
