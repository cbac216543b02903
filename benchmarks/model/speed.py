"""What a step of training costs: HeterRec against item ID only, packed against padded eager, and how both grow.

Each figure is taken in a process of its own, so that its peak of memory is its own, and the rounds go round all of
them, so that a slow minute of the machine is everyone's. `make bench-train`
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.model.data import synthetic, write
from heterrec.data.sequences import Sequences, read_sequences
from heterrec.loss.batches import TrainingBatch
from heterrec.loss.objective import Objective
from heterrec.model.network import PackedHistories
from heterrec.model.transformer import Layout
from heterrec.recipes import TrainConfig, by_name
from heterrec.training.loop import Training

RESULTS = Path(__file__).parents[1] / "results" / "speed.json"
SEED = 0
STEPS, EAGER_STEPS, WARM = 8, 2, 1
"""Steps that are timed in a round, and those before that are not; a padded eager one takes seconds."""
ROUNDS = 3
MAX_HISTORY = 50
BEAUTY_EVENTS = 2048
"""Of a batch of the comparison on Beauty."""
GROWTH_EVENTS = 4096
SAMPLED = 4096
GROWTH: dict[str, list[dict[str, int]]] = {
    "items": [{"items": n} for n in (10_000, 100_000, 1_000_000)],
    "history": [{"history": n} for n in (50, 200, 1000)],
    "tokens": [{"tokens": n} for n in (1, 2, 4, 8)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--sequences", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(json.loads(options.one), options.sequences)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write("amazon_beauty", Path(folder))
        _all(options.rounds, Path(folder))


def _all(rounds: int, sequences: Path) -> None:
    beauty = [
        {"model": model, "version": version} for version in ("packed", "eager") for model in ("heterrec", "sasrec")
    ]
    growth = [{"model": "heterrec", "version": "growth", **point} for points in GROWTH.values() for point in points]
    console = Console()
    found: list[dict[str, Any]] = [
        {**what, "step_ms": [], "memory_mib": [], "sequences_per_second": []} for what in beauty + growth
    ]
    for number in range(rounds):
        for entry in found:
            if entry["version"] == "growth" and number:
                continue
            what = {key: value for key, value in entry.items() if not isinstance(value, list)}
            one = _in_a_process(what, sequences)
            for name, value in one.items():
                entry.setdefault(name, []).append(value)
            console.print(
                f"round {number + 1}: {_name(what)}  {one['step_ms']:.0f} ms  {one['memory_mib']:,.0f} MiB",
                highlight=False,
            )
    _report(found, console)


def _in_a_process(what: dict[str, Any], sequences: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.model.speed", "--one", json.dumps(what), "--sequences", str(sequences)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what}: ended with {done.returncode}\n{done.stderr[-2000:]}")
    out: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return out


def _measure(what: dict[str, Any], sequences: Path) -> dict[str, float]:
    """Milliseconds of a step (median), its lists a second, and the peak of memory of this process beyond its start."""
    torch.manual_seed(SEED)
    config = by_name(f"{what['model']}_full", seed=SEED)
    if what["version"] == "growth":
        data = synthetic(
            items=what.get("items", 10_000), history=what.get("history", 50), features=what.get("tokens", 5) - 1
        )
        config = replace(
            config,
            sized=False,
            batch_events=GROWTH_EVENTS,
            model=replace(config.model, max_history=what.get("history", 50)),
            loss=replace(config.loss, candidates=SAMPLED),
        )
    else:
        data = read_sequences(sequences)
        config = replace(config, sized=False, batch_events=BEAUTY_EVENTS)
    base = _peak()
    training = Training(data, config)
    step, batches = _packed(training) if what["version"] != "eager" else _eager(training, data, config)
    times, lists = [], []
    steps = EAGER_STEPS if what["version"] == "eager" else STEPS
    for number, batch in zip(range(WARM + steps), batches, strict=False):
        started = time.perf_counter()
        loss = step(batch, number)
        training.optimiser.step(loss, 1.0)
        if number >= WARM:
            times.append(time.perf_counter() - started)
            lists.append(len(batch.length))
    return {
        "step_ms": 1e3 * statistics.median(times),
        "sequences_per_second": sum(lists) / sum(times),
        "memory_mib": _peak() - base,
    }


Step = Callable[[TrainingBatch, int], Tensor]


def _packed(training: Training) -> tuple[Step, list[TrainingBatch]]:
    training.model.train()
    return training.objective, training.batches.epoch(0)


def _eager(training: Training, data: Sequences, config: TrainConfig) -> tuple[Step, list[TrainingBatch]]:
    """What most implementations do: histories in any order, padded to the longest there may be, and a logit for each
    position and item, the padded ones included. The same model, weights, loss of K steps and number of lists."""
    training.model.train()
    (packed, *_), objective = training.batches.epoch(0), training.objective
    source = packed.source
    lists = np.arange(len(source.first))
    np.random.default_rng(SEED).shuffle(lists)
    length = np.minimum(source.length, MAX_HISTORY)
    size = int(BEAUTY_EVENTS / length.mean())
    parts = [lists[start : start + size] for start in range(0, size * (STEPS + WARM), size)]
    batches = [TrainingBatch(source, source.first[part], length[part], packed.draws_EK) for part in parts]
    assert isinstance(objective, Objective)

    def step(batch: TrainingBatch, seed: int) -> Tensor:
        torch.manual_seed(seed)
        model, loss = objective.model, objective.loss
        histories = batch.histories()
        layout = histories.layout
        size, device = layout.batch, histories.item_S.device
        whole = Layout.rectangle(torch.full((size,), MAX_HISTORY, device=device), MAX_HISTORY)
        place = (
            torch.repeat_interleave(torch.arange(size, device=device) * MAX_HISTORY, layout.length_B)
            + layout.position_S
        )
        spread = [
            torch.zeros((size * MAX_HISTORY, *part.shape[1:]), dtype=part.dtype).index_copy(0, place, part)
            for part in histories[:4]
        ]
        padded = PackedHistories(spread[0], spread[1], spread[2], spread[3], whole)
        steps = [step._replace(state_N=place[step.state_N]) for step in batch.targets(layout)]
        drawn, _, steps = loss.draw(padded.item_S, steps)
        items = model.items(objective.columns)
        states = model.states(items.tokens, items.channel_RD, padded)
        parts, decay = [], [config.loss.step_decay**k for k in range(len(steps))]
        for k, one in enumerate(steps):
            share = config.loss.later_share if k else 1.0
            positions = torch.arange(0, len(states.items_SD), round(1 / share), device=device)
            target = torch.full((len(states.items_SD),), -100, device=device)
            target[one.state_N] = one.target_N
            logits = model.towards(states.items_SD[positions], k) @ items.items_RD.T + items.bias_R
            parts.append(F.cross_entropy(logits, target[positions]))
        total = torch.stack([factor * part for factor, part in zip(decay, parts, strict=True)]).sum() / sum(decay)
        if states.tokens_SFD is None or not config.loss.token_weight:
            return total
        return total + config.loss.token_weight * loss.token_level(model, items, drawn, states.tokens_SFD, 0, steps[0])

    return step, batches


def _peak() -> float:
    """MiB of memory this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _name(what: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value:,}" if isinstance(value, int) else str(value) for key, value in what.items())


def _report(found: list[dict[str, Any]], console: Console) -> None:
    rows = []
    shown = Table("what", "ms a step", "sequences/s", "memory, MiB")
    for entry in found:
        what = {key: value for key, value in entry.items() if not isinstance(value, list)}
        row = what | {
            name: statistics.median(entry[name]) for name in ("step_ms", "sequences_per_second", "memory_mib")
        }
        rows.append(row)
        shown.add_row(
            _name(what), f"{row['step_ms']:.0f}", f"{row['sequences_per_second']:,.0f}", f"{row['memory_mib']:,.0f}"
        )
    console.print(shown)
    of = {(row["model"], row["version"]): row for row in rows if row["version"] != "growth"}
    ratios = {
        "HeterRec's step against item ID only, packed": of["heterrec", "packed"]["step_ms"]
        / of["sasrec", "packed"]["step_ms"],
        **{
            f"{model}: packed against padded eager, sequences a second": of[model, "packed"]["sequences_per_second"]
            / of[model, "eager"]["sequences_per_second"]
            for model in ("heterrec", "sasrec")
        },
    }
    for name, value in ratios.items():
        console.print(f"{name}: {value:.2f}", highlight=False)
    from runtime.task import commit

    RESULTS.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    RESULTS.write_text(
        json.dumps({"commit": commit(), "seed": SEED, "machine": machine, "rows": rows, "ratios": ratios}, indent=1)
        + "\n"
    )
    console.print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
