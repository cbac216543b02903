"""Answers recommendation requests from the content of an archive: torch, numpy and the standard library only.

It knows no server: a server's handler is a shim that passes requests in and answers out (docs/contracts.md).
Letters: B requests, T events of a history, N varying features, D width, V items of the catalogue, K items asked for.
"""

import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

SCHEMA = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = ("user_id", "history", "k", "exclude_seen")

Answer = dict[str, Any]
Program = Callable[..., torch.Tensor]


class BadRequest(ValueError):
    """A request that cannot be answered: which field, what was found, what was expected."""

    def __init__(self, field: str, found: object, expected: str) -> None:
        shown = repr(found)
        self.field, self.expected = field, expected
        self.found = shown if len(shown) <= 80 else shown[:77] + "..."
        super().__init__(f"{field}: found {self.found}, expected {expected}")

    def answer(self) -> Answer:
        """The answer that stands in for a recommendation."""
        return {"error": {"field": self.field, "found": self.found, "expected": self.expected}}


@dataclass(frozen=True, slots=True)
class _Event:
    row: int
    """Of the catalogue; -1 for an item that it does not hold."""
    time: int
    """Microseconds since 1970."""
    features: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Request:
    k: int
    exclude_seen: bool
    history: list[_Event] = field(default_factory=list)
    """Known items in time order, the latest `max_history`."""
    seen: list[int] = field(default_factory=list)
    """Rows of all known items, also of those beyond `max_history`."""
    unknown_items: int = 0


class Scorer:
    """One loaded model version. Make it with `load`."""

    def __init__(
        self,
        *,
        program: Program,
        encoder: Any,
        item_matrix: torch.Tensor,
        items: Mapping[str, list[Any]],
        popular: Sequence[Mapping[str, Any]],
        contract: Mapping[str, Any],
    ) -> None:
        self._program = program
        self._encoder = encoder
        self._item_matrix = item_matrix
        self._ids: list[str] = items["item_id"]
        self._titles: list[str | None] | None = items.get("title")
        self._row = {item: row for row, item in enumerate(self._ids)}
        self._popular = [(self._row[entry["item_id"]], float(entry["events"])) for entry in popular]
        self._contract = contract

    @classmethod
    def load(cls, root: Path) -> "Scorer":
        """Read the content of an archive, unpacked in `root`.

        Raises `ValueError` when a file is missing, was altered, or is of another schema.
        """
        contract = json.loads((root / "serving.json").read_text())
        if contract["schema"] != SCHEMA:
            raise ValueError(f"serving.json: schema {contract['schema']}, expected {SCHEMA}; package the model again")
        for name, expected in contract["digests"].items():
            path = root / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
            if found != expected:
                raise ValueError(f"{path}: found {found[:12]}, expected {expected[:12]}; package the model again")
        item_matrix = torch.from_numpy(np.load(root / "item_matrix.npy", allow_pickle=False))
        items = json.loads((root / "items.json").read_text())
        if item_matrix.shape != (len(items["item_id"]), contract["width"]):
            raise ValueError(f"item_matrix.npy: shape {tuple(item_matrix.shape)} does not fit items.json")
        return cls(
            program=torch.export.load(root / "program.pt2").module(),
            encoder=_module(root / "encoder.py").FeatureEncoder.from_json((root / "encoder.json").read_text()),
            item_matrix=item_matrix,
            items=items,
            popular=json.loads((root / "popular.json").read_text()),
            contract=contract,
        )

    def score(self, requests: Sequence[Any]) -> list[Answer]:
        """Answer each request, in one pass over the model; a bad request's answer is `{"error": ...}`.

        A history that is empty, or holds no item of the catalogue, is answered with the most popular items,
        their training events as scores, and `"fallback": "popular"`.
        """
        answers: list[Answer] = [{} for _ in requests]
        scored: list[tuple[int, _Request]] = []
        for number, raw in enumerate(requests):
            try:
                request = self._read(raw)
            except BadRequest as error:
                answers[number] = error.answer()
                continue
            if request.history:
                scored.append((number, request))
            else:
                best = self._popular[: request.k]
                answers[number] = {**self._answer(best, request), "fallback": "popular"}
        if scored:
            ranked = self._rank([request for _, request in scored])
            for (number, request), best in zip(scored, ranked, strict=True):
                answers[number] = self._answer(best, request)
        return answers

    def _rank(self, requests: Sequence[_Request]) -> list[list[tuple[int, float]]]:
        """The best catalogue rows of each request with their scores, best first."""
        with torch.inference_mode():
            user_BD = self._program(*self._tensors(requests))
            score_BV = user_BD @ self._item_matrix.T
            for b, request in enumerate(requests):
                if request.exclude_seen:
                    score_BV[b, request.seen] = -torch.inf
            if torch.isnan(score_BV).any():
                raise ArithmeticError("the model gives NaN scores: the archive is broken, package the model again")
            score_BK, row_BK = score_BV.topk(max(request.k for request in requests))
        return [
            [(row, score) for row, score in zip(rows, scores, strict=True) if score > -math.inf][: request.k]
            for request, rows, scores in zip(requests, row_BK.tolist(), score_BK.tolist(), strict=True)
        ]

    def _tensors(self, requests: Sequence[_Request]) -> tuple[torch.Tensor, ...]:
        """What the program takes, right-padded: item, time, varying_value, varying_missing, length."""
        lengths = [len(request.history) for request in requests]
        b, t, n = len(requests), max(lengths), len(self._encoder.varying)
        item_BT, time_BT = np.zeros((b, t), np.int64), np.zeros((b, t), np.int64)
        value_BTN, missing_BTN = np.zeros((b, t, n), np.float32), np.ones((b, t, n), bool)
        for row, request in enumerate(requests):
            end = lengths[row]
            item_BT[row, :end] = [event.row + 1 for event in request.history]
            time_BT[row, :end] = [event.time for event in request.history]
            time_BT[row, end:] = request.history[-1].time  # padding repeats the latest time, as in training
            columns = {f.name: [event.features.get(f.name) for event in request.history] for f in self._encoder.varying}
            value_BTN[row, :end], missing_BTN[row, :end] = self._encoder.encode_varying(columns, end)
        arrays = (item_BT, time_BT, value_BTN, missing_BTN, np.array(lengths, np.int64))
        return tuple(torch.from_numpy(array) for array in arrays)

    def _answer(self, best: Sequence[tuple[int, float]], request: _Request) -> Answer:
        items: list[dict[str, Any]] = [{"item_id": self._ids[row], "score": score} for row, score in best]
        if self._titles is not None:
            for item, (row, _) in zip(items, best, strict=True):
                item["title"] = self._titles[row]
        served_by = {"model": self._contract["model"], "version": self._contract["version"]}
        return {"items": items, **served_by, "unknown_items": request.unknown_items}

    def _read(self, raw: object) -> _Request:
        """Check one request and order its history; raises `BadRequest`."""
        if not isinstance(raw, dict):
            raise BadRequest("request", raw, f"a JSON object with the fields {', '.join(_FIELDS)}")
        if extra := sorted(map(str, raw.keys() - set(_FIELDS))):
            raise BadRequest("request", extra[0], f"no fields but {', '.join(_FIELDS)}")
        if not isinstance(raw.get("user_id"), str | None):
            raise BadRequest("user_id", raw["user_id"], "a string, or none at all")
        if not isinstance(raw.get("history"), list):
            raise BadRequest("history", raw.get("history"), "a list of events, which may be empty")
        k = raw.get("k", self._contract["default_k"])
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise BadRequest("k", k, "a whole number of at least 1")
        exclude_seen = raw.get("exclude_seen", self._contract["exclude_seen"])
        if not isinstance(exclude_seen, bool):
            raise BadRequest("exclude_seen", exclude_seen, "true or false")
        events = [self._event(event, f"history[{number}]") for number, event in enumerate(raw["history"])]
        known = sorted((event for event in events if event.row >= 0), key=lambda event: event.time)
        return _Request(
            k=min(k, self._contract["max_k"], len(self._ids)),
            exclude_seen=exclude_seen,
            history=known[-self._contract["max_history"] :],
            seen=[event.row for event in known],
            unknown_items=len(events) - len(known),
        )

    def _event(self, raw: object, name: str) -> _Event:
        if not isinstance(raw, dict):
            raise BadRequest(name, raw, "an object with item_id, event_time and, where there are any, features")
        item = raw.get("item_id")
        if not isinstance(item, str):
            raise BadRequest(f"{name}.item_id", item, "a string")
        features = raw.get("features") or {}
        if not isinstance(features, dict):
            raise BadRequest(f"{name}.features", features, "an object of feature names and values")
        for varying in self._encoder.varying:
            _check_feature(f"{name}.features.{varying.name}", varying.kind, features.get(varying.name))
        return _Event(self._row.get(item, -1), _microseconds(f"{name}.event_time", raw.get("event_time")), features)


def _microseconds(name: str, value: object) -> int:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise BadRequest(name, value, "an ISO 8601 time with its zone, such as 2026-01-05T10:00:00Z")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _check_feature(name: str, kind: str, value: object) -> None:
    """A feature that changes over time is a number or a category; null is a missing value."""
    if kind == "numeric":
        fits = isinstance(value, int | float | None) and not isinstance(value, bool) and _is_double(value)
        expected = "a number or null"
    else:
        fits, expected = isinstance(value, str | None), "a string or null"
    if not fits:
        raise BadRequest(name, value, expected)


def _is_double(value: float | None) -> bool:
    return value is None or isinstance(value, float) or abs(value) <= sys.float_info.max


def _module(path: Path) -> ModuleType:
    """Import the encoder that the archive brings, under a name of its own: versions may differ in one process."""
    name = f"archive_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
