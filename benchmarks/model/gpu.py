"""HeterRec on one GPU: seconds to Amazon Beauty's line, and what share of the device's matrix units training fills.

Needs torch, numpy and pyarrow. On a machine with the whole project, `python -m benchmarks.model.data amazon_beauty
FOLDER` writes the data; where the GPU is, `python -m benchmarks.model.gpu --sequences FOLDER`. Without a GPU it runs on
a small budget that shows that it runs, and no more. Results go to benchmarks/results/gpu.json.

By default training is measured as the product trains, and after that as captured CUDA graphs, whose preparation takes
a minute. What is counted: model FLOPs are the matrix products, forward and backward, that the packed step makes of the
very same lists (`torch.utils.flop_counter`, and the products added in place that it does not know). Padding, what only
fixed shapes compute, and all that is no matrix product (softmax, norms, look-ups, the optimiser) count as nothing,
though their time does. The ceiling is the best of several large matrix products in the same process, in the precision
that training uses.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from heterrec.data.sequences import Sequences, read_sequences
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import embeddings, product, vectors
from heterrec.loss.batches import TrainingBatch
from heterrec.loss.objective import Objective
from heterrec.loss.padded_batches import Rectangle
from heterrec.recipes import TrainConfig, by_name, sized
from heterrec.training import checkpoint
from heterrec.training.fixed_step import FixedObjective
from heterrec.training.loop import Training

RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
LINE = {"hr": 0.0928, "ndcg": 0.0531}
"""HR@10 and NDCG@10 on test that the checkpoint chosen on validation must reach."""
SEED = 0
PRODUCT = "product"
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
EVENTS = 8192 if ON_GPU else 512
"""Of a batch, where only speed is measured."""
STEPS, WARM = (40, 3) if ON_GPU else (3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=Path, required=True, help="folder that benchmarks.model.data wrote")
    parser.add_argument(
        "--graphs",
        default=f"{PRODUCT},captured" if ON_GPU else "none",
        help=f"some of {PRODUCT} (what training picks), none, captured, compiled, both; the line is for the first",
    )
    parser.add_argument("--widths", default="64,128,256,512,1024" if ON_GPU else "64")
    parser.add_argument("--epochs", type=int, default=None if ON_GPU else 1, help="at most, towards the line")
    parser.add_argument("--skip", default="", help="line or widths")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if ON_GPU else f"{platform.machine()}, {os.cpu_count()} cores"
    ways = [None if way == PRODUCT else way for way in options.graphs.split(",")]
    print(f"{device}, torch {torch.__version__}, graphs: {options.graphs}")
    if not ON_GPU:
        print("no GPU here: a small budget on the CPU, which says nothing of a GPU and reaches no line")
    data = read_sequences(options.sequences)
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "gpu": ON_GPU}
    found |= {"seed": SEED, "commit": os.environ.get("HETERREC_COMMIT", "unknown")}
    if options.skip != "line":
        found["line"] = to_the_line(data, ways[0], options.epochs)
    if options.skip != "widths":
        found["ceiling_tflops"] = ceiling()
        print(f"ceiling: {found['ceiling_tflops']:.1f} TFLOP/s")
        widths = [int(width) for width in options.widths.split(",")]
        found["widths"] = [speed(data, width, way, found["ceiling_tflops"]) for way in ways for width in widths]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {RESULTS}")


def to_the_line(data: Sequences, graphs: Any, epochs: int | None) -> dict[str, Any]:
    """Seconds of training, validation and preparation included, until the checkpoint that validation chose is above
    LINE on test. To rank the test users is not part of training, and the clock stands while it is done."""
    config = by_name("heterrec_full", seed=SEED)
    if epochs is not None:
        config = replace(config, epochs=epochs, least_steps=0, epoch_events=None if ON_GPU else 5_000)
    started, stood, queries = time.perf_counter(), 0.0, data.queries("test")
    training = Training(data, config, device=DEVICE, graphs=graphs)
    prepared = time.perf_counter() - started
    graphs = _graphs_of(training)
    out: dict[str, Any] = {
        "goal": LINE,
        "graphs": graphs,
        "reached_after_seconds": None,
        "prepared_seconds": prepared,
        "epochs": [],
    }
    done, best = checkpoint.Progressed(), 0
    for _ in training.epoch_by_epoch(done):
        now = time.perf_counter()
        clock, point = now - started - stood, done.curve[-1]
        if done.best_epoch > best:
            best = done.best_epoch
            tested = on_test(training, data, queries)
        out["epochs"].append({**point, **tested, "best_epoch": best, "clock": clock})
        print(
            f"epoch {done.epoch}: {clock:.1f} s  loss {point['loss']:.3f}  validation {point['validation_ndcg']:.4f}  "
            f"test of epoch {best}: HR@10 {tested['hr']:.4f}  NDCG@10 {tested['ndcg']:.4f}"
        )
        if out["reached_after_seconds"] is None and all(tested[name] >= goal for name, goal in LINE.items()):
            out["reached_after_seconds"] = clock
        stood += time.perf_counter() - now
    reached = out["reached_after_seconds"]
    print(f"line {'not reached' if reached is None else f'reached after {reached:.1f} s'}")
    return out


def on_test(training: Training, data: Sequences, queries: Any) -> dict[str, float]:
    """HR@10 and NDCG@10 of the weights that count, over the whole catalogue, items already bought masked."""
    model = training.average.weights
    users = vectors(model, training.columns, training.events, queries)
    ranking = rank(product(users, embeddings(model, training.columns)), data, queries)
    return {"hr": ranking.mean("hr", 10), "ndcg": ranking.mean("ndcg", 10)}


def ceiling() -> float:
    """TFLOP/s of the best of a few matrix products."""
    kind = torch.bfloat16 if ON_GPU else torch.float32
    best = 0.0
    for size in (4096, 8192, 16384) if ON_GPU else (1024,):
        a, b = (torch.randn(size, size, device=DEVICE, dtype=kind) for _ in range(2))
        best = max(best, 2 * size**3 / seconds_of(partial(torch.mm, a, b), 20 if ON_GPU else 3) / 1e12)
    return best


def seconds_of(work: Callable[[], Any], times: int) -> float:
    """Mean seconds of `work`, the device's own end of it waited for."""
    for _ in range(2):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - started) / times


def wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def speed(data: Sequences, width: int, graphs: Any, most_tflops: float) -> dict[str, Any]:
    """A step of training at `width`, over batches in the order of an epoch."""
    config = at_width(data, width)
    training = Training(data, config, device=DEVICE, graphs=graphs)
    objective = training.objective
    assert isinstance(objective, FixedObjective)
    batches = objective.rectangles.epoch(0)
    training.model.train()

    def step(number: int, batch: Rectangle) -> None:
        training.optimiser.step(objective(batch, number), 1.0)
        training.average.update(last=False)

    prepared = time.perf_counter()
    by_length = {batch.longest: batch for batch in batches}
    for batch in by_length.values():
        for number in range(WARM):
            step(number, batch)
    wait()
    prepared = time.perf_counter() - prepared
    measured = [batches[n % len(batches)] for n in range(STEPS)]
    started = time.perf_counter()
    for number, batch in enumerate(measured):
        step(number, batch)
    wait()
    seconds = (time.perf_counter() - started) / STEPS
    flops = float(np.mean([model_flops(training, batch) for batch in measured[: min(STEPS, 8)]]))
    events = float(np.mean([int(batch.length_B.sum()) for batch in measured]))
    padded = float(np.mean([len(batch.start_B) * batch.longest for batch in measured]))
    tokens = training.model.features
    found = {
        "width": width,
        "graphs": objective.graphs,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "shapes": objective.rectangles.lengths,
        "step_ms": 1e3 * seconds,
        "events_per_second": events / seconds,
        "tokens_per_second": tokens * events / seconds,
        "padding": 1 - events / padded,
        "model_gflop_per_step": flops / 1e9,
        "tflops": flops / seconds / 1e12,
        "share_of_ceiling": flops / seconds / 1e12 / most_tflops,
        "prepared_seconds": prepared,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else None,
    }
    print(
        f"width {width}, graphs {objective.graphs}: {found['step_ms']:.2f} ms a step  "
        f"{found['tokens_per_second']:,.0f} tokens/s  "
        f"{found['model_gflop_per_step']:.0f} GFLOP  {found['share_of_ceiling']:.1%} of the ceiling  "
        f"padding {found['padding']:.0%}  prepared in {prepared:.0f} s"
    )
    return found


def at_width(data: Sequences, width: int) -> TrainConfig:
    counts = data.training_counts
    config = sized(by_name("heterrec_full", seed=SEED), items=int((counts > 0).sum()), events=int(counts.sum()))
    model = replace(config.model, width=width, heads=max(2, width // 64))
    return replace(config, model=model, batch_events=EVENTS)


def model_flops(training: Training, batch: Rectangle) -> int:
    """Of the packed step of the same lists."""
    fixed = training.objective
    assert isinstance(fixed, FixedObjective)
    kept, packed = batch.length_B > 0, Objective(training.model, fixed.loss, training.columns)
    start, length = (part[kept].cpu().numpy() for part in (batch.start_B, batch.length_B))
    lists = TrainingBatch(training.batches, start, length, fixed.rectangles.draws_EK)
    flops = flops_of(lambda: packed(lists, 0).backward())
    training.model.zero_grad()
    return flops


def flops_of(work: Callable[[], Any]) -> int:
    """Of all matrix products in `work`, those too that torch's own counter does not know."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}) as counter:
        work()
    return int(counter.get_total_flops())


def _addmm_flops(added: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Of a product (m, k) @ (k, n) that is added in place."""
    return 2 * a[0] * a[1] * b[1]


def _graphs_of(training: Training) -> str | None:
    return training.objective.graphs if isinstance(training.objective, FixedObjective) else None


if __name__ == "__main__":
    main()
