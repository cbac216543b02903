"""A small made-up workspace whose every text tries to be more than text: runs, rollout, archives, histories, a log."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    opened,
    release,
)
from experiments.table import InterimAnalysis, RolloutTable
from feature_repo.history import HistoryRecord, encode
from feature_repo.store import histories_path
from runtime import workspace
from runtime.decision import Decision, Reason
from runtime.task import TaskRecord
from serving.torchserve import archive
from tests.serving.tiny_archive import write_content

HOSTILE = "\"><script>alert(1)</script>'\u202e{{ 7 * 191 }}&amp;<img src=x onerror=alert(2)>"
"""Markup, quotes, a mark that turns the writing round, a template's expression, an entity."""
MODEL = "shop"
NOW = datetime(2026, 1, 5, tzinfo=UTC)
_PEERS = ("item ID only", "neighbour tables", "popularity")


def record(run: str, task: str, **values: Any) -> TaskRecord:
    """Write the record of a task."""
    facts = {"status": "done", "started": NOW.isoformat(), "seconds": 3.0, "digest": f"{task}-digest", **values}
    made = TaskRecord(task=task, **facts)
    made.write(run)
    return made


def run(number: int, *, whole: bool = False, quality: float = 0.15) -> str:
    """A run of the night `number`; `whole` with the artifacts that pages read."""
    name = f"{MODEL}-{NOW + timedelta(days=number):%Y%m%dT%H%M%S}"
    started = (NOW + timedelta(days=number)).isoformat()
    folders = {kind: workspace.artifacts() / kind / name for kind in ("events", "validation", "evaluation", "model")}
    reasons = {f"odd_{HOSTILE}": 3, "missing_user": 2}
    report = {
        "rows": 1005 + number, "accepted": 1000 + number, "rejected": 5, "reasons": reasons, "users": 50, "items": 12,
        "first_event": NOW.isoformat(), "last_event": NOW.isoformat(), "notes": [HOSTILE],
    }  # fmt: skip
    record(name, "ingest", started=started, artifact=str(folders["events"]), report=report)
    decision = _decision(number)
    checked = {**decision.summary(), "dataset": MODEL, "as_of": started}
    record(
        name, "validate", started=started, artifact=str(folders["validation"]), report=checked,
        parents={"events": "ingest-digest"},
    )  # fmt: skip
    comparison = _comparison(quality)
    found = {f"{model} ndcg@10": row["ndcg@10"] for model, row in comparison["models"].items()}
    for peer, row in comparison["differences"].items():
        found |= {f"ndcg@10 against {peer}, {end}": row[end] for end in ("low", "high")}
    release_ = {"judged": "HeterRec", "released": "HeterRec", "why": HOSTILE}
    evaluated = {"passed": True, "metrics": found, "release": release_, "blocked": []}
    record(
        name, "evaluate", started=started, artifact=str(folders["evaluation"]), report=evaluated,
        parents={"model": "train-digest"},
    )  # fmt: skip
    record(
        name, "train", started=started, artifact=str(folders["model"]), report={"loss": 1.0, "epochs": 3},
        parents={"sequences": "ingest-digest"},
    )  # fmt: skip
    if whole:
        for folder in folders.values():
            folder.mkdir(parents=True)
        _write_events(folders["events"])
        decision.write(folders["validation"])
        (folders["validation"] / "profile.json").write_text(json.dumps(_profile()))
        (folders["validation"] / "page.html").write_text("<h1>The gate's page</h1>")
        (folders["evaluation"] / "report.json").write_text(json.dumps(comparison))
        (folders["model"] / "config.json").write_text(json.dumps({"model": {"width": 64 + number}, "seed": 0}))
        (workspace.runs() / name / "page.html").write_text("<style>h1 { color: red }</style><h1>The run's page</h1>")
    os.utime(workspace.runs() / name, (NOW.timestamp() + number, NOW.timestamp() + number))
    return name


def _decision(number: int) -> Decision:
    bad = Reason(
        check=f"price {HOSTILE}", held=False, found=3.5 + number, allowed="0.5 to 2", message=HOSTILE, remedy=HOSTILE,
        level="warn",
    )  # fmt: skip
    good = Reason(check="events a day", held=True, found=1.0 + number / 10, allowed="0.5 to 2", message="m", remedy="r")
    drift = Reason(check="price drift", held=True, found=0.02 * number, allowed=0.25, message="m", remedy="r")
    return Decision(gate="validate", reasons=[bad, good, drift])


def _profile() -> dict[str, Any]:
    numbers = {"kind": "numeric", "edges": [1.0, 2.0, 50.0], "counts": [10, 10, 10, 10], "missing": 4}
    words = {"kind": "categorical", "values": [HOSTILE, "b"], "counts": [5, 3, 2], "missing": 1, "distinct": 4}
    features = {"price": {**numbers, "min": 0.5, "max": 900.0}, f"shelf {HOSTILE}": words}
    days = {f"{NOW - timedelta(days=n):%Y-%m-%d}": 20 + n for n in range(20, 0, -1)}
    return {"as_of": NOW.isoformat(), "days": days, "features": features}


def _comparison(quality: float) -> dict[str, Any]:
    models = {"HeterRec": quality, **{peer: 0.1 - n / 50 for n, peer in enumerate(_PEERS)}}
    rows = {name: {"hr@10": 2 * v, "ndcg@10": v, "mrr": v, "coverage@10": 0.5} for name, v in models.items()}
    differences = {
        peer: {
            "mean": quality - models[peer],
            "low": quality - models[peer] - 0.02,
            "high": quality - models[peer] + 0.02,
        }
        for peer in _PEERS
    }
    part = {"queries": 30, "models": models, "differences": differences}
    slices = {"short histories": part, f"slice {HOSTILE}": part}
    return {
        "queries": 60,
        "catalogue": 12,
        "new": "HeterRec",
        "models": rows,
        "differences": differences,
        "slices": slices,
    }


def _write_events(folder: Path) -> None:
    day = folder / "interactions" / "day=2026-01-04"
    day.mkdir(parents=True)
    moment = NOW - timedelta(hours=3)
    events = {"item_id": ["i7", "i7", "i2"], "event_time": pa.array([moment] * 3, pa.timestamp("us", tz="UTC"))}
    pq.write_table(pa.table(events), day / "part-0.parquet")
    varying = folder / "items" / "varying" / "day=2026-01-04"
    varying.mkdir(parents=True)
    times = pa.array([moment, NOW], pa.timestamp("us", tz="UTC"))
    prices = {"item_id": ["i7", "i7"], "event_time": times, "created_time": times, "price": [3.0, 4.0]}
    pq.write_table(pa.table(prices), varying / "part-0.parquet")
    aside = {"reasons": [[f"odd_{HOSTILE}", "missing_user"]], "record": [HOSTILE]}
    pq.write_table(pa.table(aside), folder / "rejected.parquet")


def arm(mar: Path, version: str) -> ModelVersion:
    return ModelVersion(
        version=version, archive=str(mar), archive_digest=archive.digest(mar), recipe_digest=version, registered=NOW
    )


def archives(folder: Path) -> list[Path]:
    """Two tiny archives whose titles and shelves are hostile; the second has other titles alone."""
    content, made = write_content(folder / "content"), []
    for version in ("1.0", "2.0"):
        items = json.loads((content / "items.json").read_text())
        items["title"] = [f"{HOSTILE} {item} of {version}" for item in items["item_id"]]
        items["features"]["shelf"] = [HOSTILE, "low"] * 6
        rewrite(content, items, version)
        made.append(folder / f"{version}.mar")
        archive.build(content, made[-1], name=MODEL, version=version)
    return made


def rewrite(content: Path, items: dict[str, Any], version: str) -> None:
    """Other items in an archive's content, and the digests that go with them."""
    (content / "items.json").write_text(json.dumps(items))
    contract = json.loads((content / "serving.json").read_text())
    contract["version"] = version
    contract["digests"] |= {
        name: hashlib.sha256((content / name).read_bytes()).hexdigest() for name in ("items.json", "item_matrix.npy")
    }
    (content / "serving.json").write_text(json.dumps(contract))


def canary(mars: Sequence[Path], looks: int = 8) -> str:
    """A row whose challenger has been looked at some times; its salt."""
    with RolloutTable(workspace.rollout_url(), clock=lambda: NOW) as table:
        row = table.read(MODEL)
        first = release(row, arm(mars[0], "1.0"), now=NOW, salt=lambda: "salt")
        row = table.propose(DocumentChange(first.rollout, "push", HOSTILE), row.version)
        begun = opened(row, arm(mars[1], "2.0"), now=NOW, salt=lambda: "salt")
        row = table.propose(DocumentChange(replace(begun, weight=0.25, stage=2), HOSTILE, "opened"), row.version)
        for number in range(looks):
            table.record(MODEL, look(number, row))
    return row.salt


def look(number: int, row: Rollout) -> InterimAnalysis:
    """The `number`th look at a challenger that is a little better."""
    seen = number + 1
    effective, half = 300.0 * seen, 0.2 / seen**0.5
    outcome = {"estimate": 0.02, "low": 0.02 - half, "high": 0.02 + half, "effective": effective}
    shares = {"champion": 0.01, "challenger": 0.012, "allowed": 0.02, "low": -0.01, "high": 0.02, "breached": False}
    evidence = {
        "outcome": outcome, "champion_rate": 0.2, "challenger_rate": 0.22, "users": 400, "full": False,
        "ratio": 0.1 * number,
        "traffic": {"exposures": 1600 * seen, "stage_exposures": 400 * seen, "misdrawn": 0, "latest": None},
        "guardrails": [{"name": "errors", "meaning": "errors", **shares}],
    }  # fmt: skip
    at = NOW + timedelta(hours=6 * (number + 1))
    return InterimAnalysis(at=at, salt=row.salt, action="hold", why=f"not decided yet: {HOSTILE}", evidence=evidence)


def histories(users: Sequence[str]) -> None:
    """What the last materialise left; there is no online store."""
    moment = int(NOW.timestamp() * 1e6)
    events = [HistoryRecord(f"e{n}", f"i{n}", moment + n * 10**9, {"price": 2.0, "shelf": "low"}) for n in (7, 3)]
    events.sort(key=lambda event: event.event_time)
    path = histories_path(workspace.feature_store(MODEL))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": list(users), "history": [encode(events)] * len(users)}), path)


def large(folder: Path, items: int) -> Path:
    """An archive of many items; its program knows the first dozen of them alone."""
    content = write_content(folder / "large", version="9.0", width=65)
    rng = np.random.default_rng(0)
    np.save(content / "item_matrix.npy", rng.standard_normal((items, 65)).astype(np.float32))
    ids = [f"i{number}" for number in range(items)]
    shelves, prices = [f"s{number % 30}" for number in range(items)], rng.random(items).tolist()
    told = {
        "item_id": ids, "title": [f"Kettle {item}" for item in ids], "segment": shelves, "events": list(range(items)),
        "trend": rng.random(items).tolist(), "since": [20_000.0] * items,
        "features": {"shelf": shelves, "price": prices, "tags": [["t"]] * items, "released": [None] * items},
    }  # fmt: skip
    rewrite(content, told, "9.0")
    mar = folder / "large.mar"
    archive.build(content, mar, name=MODEL, version="9.0")
    return mar
