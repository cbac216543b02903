"""Serving a catalogue of 12,000 items, k = 100, histories of 50: the scorer against the eager model, TorchServe
against an echo handler and against the scorer called in-process, all in one run. `make bench-serving`

Everything has one thread. In-process figures are of processor time, medians over rounds that go round all of them: so
that other work on the machine does not count. What TorchServe is held against is measured by the clock, as it is.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.serving.load import Load, closed, opened
from benchmarks.serving.serving_shop import HISTORY, packaged, requests
from heterrec.data.sequences import NOW, read_catalogue
from heterrec.model.htfl import encode_catalogue
from heterrec.model.network import PackedHistories
from heterrec.model.transformer import Layout
from heterrec.training.export import load_model
from serving.scoring import program
from serving.scoring.retrieval import Exact
from serving.scoring.scorer import Scorer
from serving.torchserve import archive as archives
from serving.torchserve.server import TorchServe

RESULTS = Path(__file__).parents[1] / "results" / "serving.json"
SEED = 0
ITEMS, K, BATCH = 12_000, 100, 32
ROUNDS, CONNECTIONS = 9, 64
BARS = {
    "TorchServe against the smaller of echo and in-process": 0.6,
    "scorer against eager model, one request": 1.5,
    "scorer against eager model, batch of 32": 1.5,
}
P99_BAR_MS = 50.0
ECHO = """
class Echo:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [row.get("body", row.get("data")) for row in data]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (default: %(default)s)")
    options = parser.parse_args()
    if not shutil.which("g++"):
        parser.error("g++ was not found on PATH: what is measured as compiled would run as it is; install it")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = packaged(root / "shop", items=ITEMS, seed=SEED)
        content = root / "content"
        zipfile.ZipFile(archive / "bench.mar").extractall(content)
        asked = requests(json.loads((content / "items.json").read_text()), 4 * BATCH, k=K)
        inside = _in_process(root / "shop", content, asked)
        _print(console, "in-process, requests a second", inside)
        through = _through_torchserve(archive / "bench.mar", root, asked, options.seconds)
        _print(console, "through TorchServe", through)
    _report(console, inside, through)


def _in_process(shop: Path, content: Path, asked: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Requests a second of the eager model and of the scorer, one at a time and in batches."""
    as_it_is = Scorer.load(content)
    os.environ[program.COMPILE] = "1"
    compiled = Scorer.load(shutil.copytree(content, content.with_name("compiled")))
    del os.environ[program.COMPILE]
    eager, matrix = _eager(shop), _matrix(as_it_is)
    like_for_like = Scorer.load(content)
    like_for_like._users._program = eager
    out: dict[str, dict[str, float]] = {}
    mixed = [{**request, "history": request["history"][: 1 + n * HISTORY // BATCH]} for n, request in enumerate(asked)]
    for name, batch in (
        ("one request", asked[:1]),
        (f"batch of {BATCH}", asked[:BATCH]),
        (f"batch of {BATCH}, histories of 1 to {HISTORY}", mixed[:BATCH]),
    ):
        size, inputs = len(batch), as_it_is._users.inputs([as_it_is._reader.read(request) for request in batch])
        works: dict[str, Callable[[], object]] = {
            "eager model": lambda inputs=inputs: _best(eager(*inputs), matrix),
            "eager model, from request to answer": lambda batch=batch: like_for_like.score(batch),
            "exported program": lambda inputs=inputs: _best(as_it_is._users._program(*inputs), matrix),
            "scorer": lambda batch=batch: as_it_is.score(batch),
            "scorer, compiled": lambda batch=batch: compiled.score(batch),
        }
        out[name] = {work: round(size / seconds, 1) for work, seconds in _medians(works).items()}
    return out


def _matrix(scorer: Scorer) -> Tensor:
    assert isinstance(scorer._retrieval, Exact)
    return scorer._retrieval._matrix


def _eager(shop: Path) -> Callable[..., Tensor]:
    """The trained model's own code, as evaluation runs it: only the items in the histories are looked up."""
    model, encoder = load_model(shop / "model")[:2]
    columns = encode_catalogue(encoder, read_catalogue(shop / "sequences"), NOW)

    @torch.inference_mode()
    def answer(item: Tensor, when: Tensor, value: Tensor, missing: Tensor, length: Tensor) -> Tensor:
        inside = torch.arange(item.shape[1]) < length[:, None]
        item, when, value, missing = item[inside], when[inside], value[inside], missing[inside]
        rows, number = torch.unique(item, return_inverse=True)
        items = model.items(columns.take(rows))
        layout = Layout(length, inside.shape[1], whole=False)
        histories = PackedHistories(number, when, value, missing, layout)
        return model.users(items.tokens, items.channel_RD, histories)

    return answer


@torch.inference_mode()
def _best(users: Tensor, matrix: Tensor) -> object:
    return (users @ matrix.T).topk(K)


def _medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of processor time of each, the rounds going round all of them."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 2):
        for name, work in works.items():
            started = time.thread_time()
            work()
            if number >= 2:
                taken[name].append(time.thread_time() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def _through_torchserve(
    mar: Path, root: Path, asked: list[dict[str, Any]], seconds: float
) -> dict[str, dict[str, float]]:
    """Closed loops of the echo handler and the scorer, then an open one at half of what the scorer did."""
    bodies = [orjson.dumps(request) for request in asked]
    out = {"scorer called in-process": {"requests_per_second": _by_the_clock(root / "compiled", bodies, seconds)}}
    settings = {"batch_size": BATCH, "max_batch_delay_ms": 2}
    echo = _echo(root)
    os.environ[program.COMPILE] = "1"
    with TorchServe(root / "logs", **settings) as server:
        server.register(echo)
        server.register(mar)
        scored, echoed = f"{server.address}/predictions/bench/1.0", f"{server.address}/predictions/echo/1.0"

        def load(url: str) -> Load:
            closed(url, bodies, connections=CONNECTIONS, seconds=min(2.0, seconds))  # warm up
            return closed(url, bodies, connections=CONNECTIONS, seconds=seconds)

        out["echo"] = load(echoed).to_json()
        out["scorer, compiled"] = load(scored).to_json()
        half = out["scorer, compiled"]["requests_per_second"] / 2
        out["scorer, compiled, at half that load"] = opened(scored, bodies, rate=half, seconds=seconds).to_json()
    del os.environ[program.COMPILE]
    with TorchServe(root / "logs", **settings) as server:
        server.register(mar)
        out["scorer"] = load(f"{server.address}/predictions/bench/1.0").to_json()
    return out


def _by_the_clock(content: Path, bodies: list[bytes], seconds: float) -> float:
    """Requests a second of the compiled scorer, from JSON to JSON in batches, and nothing else."""
    os.environ[program.COMPILE] = "1"
    scorer = Scorer.load(content)
    del os.environ[program.COMPILE]
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        batch = [bodies[(done + number) % len(bodies)] for number in range(BATCH)]
        for answer in scorer.score([orjson.loads(body) for body in batch]):
            orjson.dumps(answer)
        done += BATCH
    return round(done / (time.perf_counter() - started), 1)


def _echo(root: Path) -> Path:
    """An archive whose handler gives back what it was sent."""
    path = root / "echo.mar"
    manifest = {"runtime": "python", "archiverVersion": "0.12.0",
                "model": {"modelName": "echo", "modelVersion": "1.0", "handler": "echo.py"}}  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("echo.py", ECHO)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    assert archives.identity(path) == ("echo", "1.0")
    return path


def _print(console: Console, title: str, found: dict[str, dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    table = Table("", *columns, title=title)
    for name, row in found.items():
        table.add_row(name, *(f"{row.get(column, float('nan')):,.1f}" for column in columns))
    console.print(table)


def _report(console: Console, inside: dict[str, dict[str, float]], through: dict[str, dict[str, float]]) -> None:
    one, batch = inside["one request"], inside[f"batch of {BATCH}"]
    served = through["scorer, compiled"]["requests_per_second"]
    ceiling = min(through[name]["requests_per_second"] for name in ("echo", "scorer called in-process"))
    ratios = {
        "TorchServe against the smaller of echo and in-process": served / ceiling,
        "scorer against eager model, one request": one["scorer, compiled"] / one["eager model"],
        f"scorer against eager model, batch of {BATCH}": batch["scorer, compiled"] / batch["eager model"],
    }
    for name, value in ratios.items():
        console.print(f"{name}: {value:.2f} (bar: {BARS[name]})", highlight=False)
    # The eager model above is given tensors and gives rows: the scorer reads JSON objects and gives such.
    same = batch["scorer, compiled"] / batch["eager model, from request to answer"]
    console.print(f"the same, the eager model from request to answer too: {same:.2f}", highlight=False)
    ratios["scorer against eager model from request to answer, batch of 32"] = same
    p99 = through["scorer, compiled, at half that load"]["p99_ms"]
    console.print(f"p99 at half that load: {p99:.1f} ms (bar: {P99_BAR_MS:.0f})", highlight=False)
    from runtime.task import commit

    RESULTS.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    found = {"commit": commit(), "seed": SEED, "machine": machine, "load_average": os.getloadavg()[0]}
    found |= {"items": ITEMS, "k": K, "in_process": inside, "torchserve": through, "ratios": ratios}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
