"""Answers recommendation requests from the content of an archive: torch, numpy and the standard library only.

It knows no server: a server's handler is a shim that passes requests in and answers out (docs/contracts.md).
Letters: B requests, T events of a history, N varying features, D width, V items of the catalogue, K items asked for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serving.scoring.brought import brought
from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filters
from serving.scoring.program import Program
from serving.scoring.program import load as load_program
from serving.scoring.remembering import Bonus, Remembering
from serving.scoring.requests import Reader, Request
from serving.scoring.retrieval import Approximate, Asked, Best, Exact, Retrieval

SCHEMA, WITHOUT_MEMORY = 3, 2
"""Of archives; those of before there was a memory are read too."""
_PADDING = 100
"""Events of padding that cost about as much as another call of the program."""

Answer = dict[str, Any]


class Scorer:
    """One loaded model version. Make it with `load`."""

    def __init__(
        self,
        *,
        program: Program | None,
        encoder: Any,
        memory: Remembering | None = None,
        retrieval: Retrieval,
        items: Mapping[str, Any],
        contract: Mapping[str, Any],
    ) -> None:
        self._program = program
        self._encoder = encoder
        self._memory = memory
        self._retrieval = retrieval
        self._ids: list[str] = items["item_id"]
        self._titles: list[str | None] | None = items.get("title")
        self._events = np.array(items["events"], np.int64)
        self._by_events = np.argsort(-self._events, kind="stable")
        self._filters = Filters(contract["filterable"], items["features"], len(self._ids))
        rows = {item: row for row, item in enumerate(self._ids)}
        varying = encoder.varying
        present = {field.name: items["features"][field.name] for field in varying if field.name in items["features"]}
        self._reader = Reader(contract=contract, rows=rows, varying=varying, filters=self._filters, present=present)
        self._contract = contract

    @classmethod
    def load(cls, root: Path) -> "Scorer":
        """Read the content of an archive, unpacked in `root`.

        Raises `ValueError` when a file is missing, was altered, or is of another schema.
        """
        contract = json.loads((root / "serving.json").read_text())
        if contract["schema"] not in (SCHEMA, WITHOUT_MEMORY):
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
        if not item_matrix.isfinite().all():
            raise ValueError("item_matrix.npy: holds numbers that are not finite; train and package the model again")
        encoder = brought(root / "encoder.py").FeatureEncoder.from_json((root / "encoder.json").read_text())
        return cls(
            program=load_program(root, varying=_per_event(encoder)) if _network(contract) else None,
            encoder=encoder,
            memory=_memory(root, contract),
            retrieval=_retrieval(root, item_matrix, contract["retrieval"]),
            items=items,
            contract=contract,
        )

    def score(self, requests: Sequence[Any]) -> list[Answer]:
        """Answer each request, in one pass over the model; a bad request's answer is `{"error": ...}`.

        A history that is empty, or holds no item of the catalogue, is answered with the most popular items,
        their events as scores, and `"fallback": "popular"`. Filters and exclusions come before the choice
        of the best, so that fewer than `k` items are answered only where no more are allowed.
        """
        answers: list[Answer] = [{} for _ in requests]
        scored: list[tuple[int, Request]] = []
        for number, raw in enumerate(requests):
            try:
                request = self._reader.read(raw)
            except BadRequest as error:
                answers[number] = error.answer()
                continue
            if request.history.rows:
                scored.append((number, request))
            else:
                answers[number] = {**self._answer(self._popular(request), request), "fallback": "popular"}
        if scored:
            ranked = self._rank([request for _, request in scored])
            for (number, request), best in zip(scored, ranked, strict=True):
                answers[number] = self._answer(best, request)
        return answers

    def _rank(self, requests: Sequence[Request]) -> list[Best]:
        with torch.inference_mode():
            # Without a network a user is the 1 that the item matrix's bias is multiplied with.
            user_BD = torch.ones(len(requests), 1) if self._program is None else self._users(requests)
            if not user_BD.isfinite().all():
                raise ArithmeticError("the model gives NaN scores: the archive is broken, package the model again")
            bonuses = [None] * len(requests) if self._memory is None else self._memory.bonuses(requests)
            asked = [self._asked(request, bonus) for request, bonus in zip(requests, bonuses, strict=True)]
            return self._retrieval.best(user_BD, asked)

    def _users(self, requests: Sequence[Request]) -> torch.Tensor:
        """(B, D), histories of like lengths going through the model together: what is padded is computed too."""
        lengths = [len(request.history.rows) for request in requests]
        groups: list[list[int]] = []
        padded = _PADDING
        for b in sorted(range(len(requests)), key=lambda b: -lengths[b]):
            padded += lengths[groups[-1][0]] - lengths[b] if groups else 0
            if padded >= _PADDING:
                groups.append([])
                padded = 0
            groups[-1].append(b)
        assert self._program is not None
        users = [self._program(*self._tensors([requests[b] for b in group])) for group in groups]
        place = torch.tensor([b for group in groups for b in group]).argsort()
        return torch.cat(users)[place]

    def _asked(self, request: Request, bonus: Bonus | None) -> Asked:
        forbidden = self._filters.forbidden(request.filters) if request.filters else None
        return Asked(request.k, request.hidden, forbidden, bonus)

    def _popular(self, request: Request) -> Best:
        """The allowed items with the most events, down through the whole catalogue."""
        best = self._by_events
        if request.filters or request.hidden:
            forbidden = self._filters.forbidden(request.filters).copy()
            forbidden[request.hidden] = True
            best = best[~forbidden[best]]
        best = best[: request.k]
        return list(zip(best.tolist(), self._events[best].astype(float).tolist(), strict=True))

    def _tensors(self, requests: Sequence[Request]) -> tuple[torch.Tensor, ...]:
        """What the program takes, right-padded: item, time, varying_value, varying_missing, length."""
        histories = [request.history for request in requests]
        length_B = np.array([len(history.rows) for history in histories], np.int64)
        b, t, n = len(requests), int(length_B.max()), _per_event(self._encoder)
        inside_BT = np.arange(t) < length_B[:, None]
        item_BT = np.zeros((b, t), np.int64)
        item_BT[inside_BT] = np.fromiter(chain.from_iterable(h.rows for h in histories), np.int64) + 1
        # Padding repeats the latest time, as in training.
        time_BT = np.repeat(np.array([history.times[-1] for history in histories], np.int64)[:, None], t, axis=1)
        time_BT[inside_BT] = np.fromiter(chain.from_iterable(h.times for h in histories), np.int64)
        value_BTN, missing_BTN = np.zeros((b, t, n), np.float32), np.ones((b, t, n), bool)
        if n:
            seen = [values for history in histories for values in history.features]
            columns = {f.name: [values.get(f.name) for values in seen] for f in self._encoder.varying}
            if types := _event_types(self._encoder):
                kinds = [kind for history in histories for kind in history.kinds]
                columns["event_type"] = [types[kind - 1].name if kind else None for kind in kinds]
            value_BTN[inside_BT], missing_BTN[inside_BT] = self._encoder.encode_varying(columns, len(seen))
        arrays = (item_BT, time_BT, value_BTN, missing_BTN, length_B)
        return tuple(torch.from_numpy(array) for array in arrays)

    def _answer(self, best: Best, request: Request) -> Answer:
        items: list[dict[str, Any]] = [{"item_id": self._ids[row], "score": score} for row, score in best]
        if self._titles is not None:
            for item, (row, _) in zip(items, best, strict=True):
                item["title"] = self._titles[row]
        served_by = {"model": self._contract["model"], "version": self._contract["version"]}
        return {"items": items, **served_by, "unknown_items": request.unknown_items}


def _event_types(encoder: Any) -> tuple[Any, ...]:
    """The kinds of events that the archive's encoder tells apart; those of before there were kinds have none."""
    return getattr(encoder, "event_types", ())


def _per_event(encoder: Any) -> int:
    return len(encoder.varying) + bool(_event_types(encoder))


def _network(contract: Mapping[str, Any]) -> bool:
    """Whether the archive has a network, or tables alone."""
    return bool(contract.get("network", True))


def _memory(root: Path, contract: Mapping[str, Any]) -> Remembering | None:
    if "memory.npz" not in contract["digests"]:
        return None
    return Remembering(root, brought(root / "neighbours.py"), alone=not _network(contract))


def _retrieval(root: Path, item_matrix: torch.Tensor, chosen: Mapping[str, Any]) -> Retrieval:
    if chosen["by"] == "approximate":
        return Approximate.read(root, item_matrix, probes=chosen["probes"])
    return Exact(item_matrix, scan=getattr(torch, chosen["scan"]))
