"""Answers recommendation requests from the content of an archive: torch, numpy and the standard library only.

It knows no server: a server's handler is a shim that passes requests in and answers out (docs/contracts.md).
Letters: B requests, T events of a history, D width, V items of the catalogue, K items asked for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from serving.scoring import reasons
from serving.scoring.alike import (
    EMBEDDING,
    ItemSimilarity,
    fused,
    parts_of,
)
from serving.scoring.asker import known_askers
from serving.scoring.brought import brought
from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filters
from serving.scoring.item_tower import ItemProgram, ItemTower, load_item_program, vectors
from serving.scoring.item_values import PROGRAM as ITEM_PROGRAM
from serving.scoring.placed import (
    FOR_YOU,
    KINDS,
    POPULAR,
    RANKING,
    SIMILAR,
    TOGETHER,
)
from serving.scoring.program import Program
from serving.scoring.program import load as load_program
from serving.scoring.reasons import ReasonTerm, Shares
from serving.scoring.remembering import Bonus, Remembering, added
from serving.scoring.requests import RequestReader, ScoringRequest
from serving.scoring.retrieval import (
    Approximate,
    Best,
    Exact,
    Retrieval,
    RetrievalRequest,
)
from serving.scoring.shelves import (
    BASKETS,
    Baskets,
    Shelves,
    offered,
)
from serving.scoring.upserts import changed_aside, in_baskets, merged
from serving.scoring.users import UserTower, encoded_askers, per_event

SCHEMA, WITHOUT_MEMORY = 3, 2
"""Of archives; those of before there was a memory are read too."""
_POOL, _LEAST_POOL = 5, 50
"""So many times as many alike items as are asked for, and so many at least, are put in a shopper's own order."""

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
        matrix: torch.Tensor,
        baskets: Baskets | None = None,
        item_program: ItemProgram | None = None,
    ) -> None:
        self._users = None if program is None else UserTower(program, encoder)
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
        self._shelves = Shelves(items, self._filters, memory=memory, baskets=baskets)
        tower = None
        if item_program is not None:
            tower = ItemTower(item_program, encoder=encoder, contract=contract, rows=rows, items=items, memory=memory)
        self._reader = RequestReader(
            contract=contract,
            rows=rows,
            varying=varying,
            filters=self._filters,
            present=present,
            placements=offered(contract["digests"], network=program is not None),
            kinds=self._shelves.kinds,
            upserts_of=None if tower is None else tower.of,
        )
        self._contract = contract
        self.asking = known_askers(contract)
        self._matrix, self._parts = matrix, {"popularity": slice(0, 1)}
        self._alike: ItemSimilarity | None = None
        if program is not None:
            self._parts = parts_of(contract, memory=memory is not None)
            self._alike = ItemSimilarity(matrix, self._parts)

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
            program=load_program(root, varying=per_event(encoder), asked=encoded_askers(encoder, [{}])[0].shape[1])
            if _network(contract)
            else None,
            encoder=encoder,
            memory=_memory(root, contract),
            retrieval=_retrieval(root, item_matrix, contract["retrieval"]),
            items=items,
            contract=contract,
            matrix=item_matrix,
            baskets=Baskets(root) if BASKETS in contract["digests"] else None,
            item_program=load_item_program(root) if ITEM_PROGRAM in contract["digests"] else None,
        )

    def score(self, requests: Sequence[Any]) -> list[Answer]:
        """Answer each request, in one pass over the model; a bad request's answer is `{"error": ...}`.

        A history that is empty, or holds no item of the catalogue, is answered with the most popular items,
        their events as scores, and `"fallback": "popular"`. Filters and exclusions come before the choice
        of the best, so that fewer than `k` items are answered only where no more are allowed.
        """
        answers: list[Answer] = [{} for _ in requests]
        scored: list[tuple[int, ScoringRequest]] = []
        for number, raw in enumerate(requests):
            try:
                request = self._reader.read(raw)
            except BadRequest as error:
                answers[number] = error.answer()
                continue
            if request.history.rows and request.placed.placement in (FOR_YOU, RANKING, SIMILAR):
                scored.append((number, changed_aside(request)))
            else:
                answers[number] = self._impersonal(request)
        if scored:
            ranked = self._rank([request for _, request in scored])
            for (number, request), (best, why) in zip(scored, ranked, strict=True):
                answers[number] = self._answer(best, request, why)
        return answers

    def _impersonal(self, request: ScoringRequest) -> Answer:
        """What is answered to everybody alike; popular items where nothing else can be."""
        placement, given = request.placed.placement, request.placed.rows
        shelves = self._shelves
        if placement == SIMILAR and self._given(request):
            request = changed_aside(request)
            best = self._similar(request)
            return self._answer(best, request, self._why_similar(request, best))
        if placement == TOGETHER and given:
            request = in_baskets(request)
            best = shelves.bought_together(request)
            terms = shelves.terms(given) if request.placed.explain else ()
            return self._answer(best, request, reasons.of_terms(terms, [row for row, _ in best]))
        request = changed_aside(request)
        if placement == POPULAR:
            best = self._counted_too(shelves.popular(request), request, request.placed.kind)
            return self._answer(best, request, _counted(request.placed.kind, best))
        best = shelves.ranked(request) if placement == RANKING else self._popular(request)
        best = self._counted_too(best, request, KINDS[0])
        return {**self._answer(best, request, _counted("popular", best)), "fallback": "popular"}

    def _counted_too(self, best: Best, request: ScoringRequest, kind: str) -> Best:
        """With the items that the request brings along, by the counts of the catalogue's: of a new one there are none
        but when it came."""
        if request.upserts is None:
            return best
        values = [(row, self._shelves.value(kind, place)) for row, place in request.upserts.places]
        others = [(row, request.upserts.since(row) if value is None and kind == "new" else value or 0.0)
                  for row, value in values]  # fmt: skip
        return merged(best, [each for each in others if each[1] > 0 or kind != "trending"], request)

    def _given(self, request: ScoringRequest) -> list[int]:
        """Rows of the items that a request names, as they are scored."""
        rows = list(request.placed.rows)
        return rows if request.upserts is None else request.upserts.of_given(rows)

    def _similar(self, request: ScoringRequest) -> Best:
        """By the network's embeddings where there is one, else by the tables."""
        if self._alike is None:
            return self._shelves.similar(request)
        forbidden = self._filters.forbidden(request.filters) if request.filters else None
        with torch.inference_mode():
            given = self._vectors(self._given(request), request)
            best = self._alike.best(given, request.k, request.hidden, forbidden)
            if request.upserts is None:
                return best
            rows = request.upserts.open
            scores: list[float] = self._alike.scores_of(given, self._vectors(rows, request)).tolist()
        return merged(best, zip(rows, scores, strict=True), request)

    def _why_similar(self, request: ScoringRequest, best: Best) -> Shares | None:
        rows, given = [row for row, _ in best], self._given(request)
        if not request.placed.explain or not rows:
            return None
        if self._alike is None:
            assert self._memory is not None
            return reasons.of_memory(self._memory, given, [0] * len(given), rows)
        with torch.inference_mode():
            share_GC = self._alike.shares(self._vectors(given, request), self._vectors(rows, request)).tolist()
        return {
            row: [ReasonTerm("alike", each, share_GC[g][c], True) for g, each in enumerate(given)]
            for c, row in enumerate(rows)
        }

    def _vectors(self, rows: Sequence[int] | npt.NDArray[np.int64], request: ScoringRequest) -> torch.Tensor:
        return vectors(rows, self._matrix, request.upserts)

    def _rank(self, requests: Sequence[ScoringRequest]) -> list[tuple[Best, Shares | None]]:
        with torch.inference_mode():
            # Without a network a user is the 1 that the item matrix's bias is multiplied with.
            user_BD = torch.ones(len(requests), 1) if self._users is None else self._users.of(requests)
            if not user_BD.isfinite().all():
                raise ArithmeticError("the model gives NaN scores: the archive is broken, package the model again")
            bonuses = [None] * len(requests) if self._memory is None else self._memory.bonuses(requests)
            out: list[tuple[Best, Shares | None]] = [([], None)] * len(requests)
            whole = [b for b, request in enumerate(requests) if request.placed.placement == FOR_YOU]
            if whole:
                asked = [self._asked(requests[b], bonuses[b]) for b in whole]
                users = user_BD if len(whole) == len(requests) else user_BD[whole]
                for b, best in zip(whole, self._retrieval.best(users, asked), strict=True):
                    best = self._with_upserts(best, requests[b], user_BD[b], bonuses[b])
                    out[b] = best, self._why(requests[b], best, user_BD[b])
            for b, request in enumerate(requests):
                if request.placed.placement != FOR_YOU:
                    out[b] = self._part(request, user_BD[b], bonuses[b])
            return out

    def _part(self, request: ScoringRequest, user_D: torch.Tensor, bonus: Bonus | None) -> tuple[Best, Shares | None]:
        """Of a part of the catalogue: the given items, or those that are like them."""
        if request.placed.placement == RANKING:
            rows = np.array(request.placed.rows, np.int64)
            best = self._shelves.chosen(rows, self._taste(rows, user_D, bonus, request), request)
            best = self._with_upserts(best, request, user_D, bonus)
            return best, self._why(request, best, user_D)
        alike = self._similar(request._replace(k=max(_POOL * request.k, _LEAST_POOL)))
        taste_C = self._taste(np.array([row for row, _ in alike], np.int64), user_D, bonus, request)
        best, halves = fused(alike, taste_C, request.k)
        if not request.placed.explain:
            return best, None
        why = {row: [ReasonTerm("alike", None, halves[row][0], True), ReasonTerm("taste", None, halves[row][1], True)]
               for row, _ in best}  # fmt: skip
        return best, why

    def _with_upserts(self, best: Best, request: ScoringRequest, user_D: torch.Tensor, bonus: Bonus | None) -> Best:
        """With the items that the request brings along, each in its place by its score."""
        if request.upserts is None:
            return best
        rows = request.upserts.open
        scores: list[float] = self._taste(np.array(rows, np.int64), user_D, bonus, request).tolist()
        return merged(best, zip(rows, scores, strict=True), request)

    def _taste(
        self, rows: npt.NDArray[np.int64], user_D: torch.Tensor, bonus: Bonus | None, request: ScoringRequest
    ) -> npt.NDArray[np.float32]:
        """The scores of these rows for one shopper."""
        scores: npt.NDArray[np.float32] = (self._vectors(rows, request) @ user_D).numpy()
        if bonus is None or not len(rows):
            return scores
        return scores + added(bonus, rows if request.upserts is None else request.upserts.in_catalogue(rows))

    def _why(self, request: ScoringRequest, best: Best, user_D: torch.Tensor) -> Shares | None:
        """Shares of the scores of a shopper's own ranking."""
        rows = [row for row, _ in best]
        if not request.placed.explain or not rows:
            return None
        latest = request.history
        vector_CD = self._vectors(rows, request)
        product_CD = vector_CD * user_D
        sums = {name: product_CD[:, place].sum(1) for name, place in self._parts.items()}
        found: Shares = {
            row: [ReasonTerm(name, None, float(sums[name][c]), True) for name in sums if name not in EMBEDDING]
            for c, row in enumerate(rows)
        }
        inner = [name for name in self._parts if name in EMBEDDING]
        if inner:
            without_TD = user_D[:0].reshape(0, len(user_D))
            if self._users is not None and len(latest.rows) > 1:
                without_TD = self._users.without_each(request)
            product_TCD = vector_CD * without_TD[:, None]
            parts_TCP = torch.stack([product_TCD[..., self._parts[name]].sum(-1) for name in inner], -1)
            whole_CP = torch.stack([sums[name] for name in inner], -1)
            found = reasons.joined(
                found, reasons.of_network(whole_CP.numpy(), parts_TCP.numpy(), latest.rows, rows, inner)
            )
        if self._memory is not None:
            known, catalogue = request.known, rows
            if request.upserts is not None:  # what the tables say of a changed item they say of its row
                catalogue = request.upserts.in_catalogue(rows).tolist()
            by_tables = reasons.of_memory(
                self._memory, known.rows, self._memory.ages(known), [row for row in catalogue if row >= 0]
            )
            place = dict(zip(catalogue, rows, strict=True))
            found = reasons.joined(found, {place[row]: shares for row, shares in by_tables.items()})
        return found

    def _asked(self, request: ScoringRequest, bonus: Bonus | None) -> RetrievalRequest:
        forbidden = self._filters.forbidden(request.filters) if request.filters else None
        return RetrievalRequest(request.k, request.hidden, forbidden, bonus)

    def _popular(self, request: ScoringRequest) -> Best:
        """The allowed items with the most events, down through the whole catalogue."""
        best = self._by_events
        if request.filters or request.hidden:
            forbidden = self._filters.forbidden(request.filters).copy()
            forbidden[request.hidden] = True
            best = best[~forbidden[best]]
        best = best[: request.k]
        return list(zip(best.tolist(), self._events[best].astype(float).tolist(), strict=True))

    def _answer(self, best: Best, request: ScoringRequest, why: Shares | None = None) -> Answer:
        named = self._names(request)
        items: list[dict[str, Any]] = []
        for row, score in best:
            item_id, title = named(row)
            items.append({"item_id": item_id, "score": score, **({} if self._titles is None else {"title": title})})
        if request.placed.explain:
            for item, (row, _) in zip(items, best, strict=True):
                item["why"] = reasons.reason_entries((why or {}).get(row, ()), lambda row: named(row)[0])
        served_by = {"model": self._contract["model"], "version": self._contract["version"]}
        return {"items": items, **served_by, "unknown_items": request.unknown_items}

    def _names(self, request: ScoringRequest) -> Callable[[int], tuple[str, str | None]]:
        """Id and title of a row."""
        ids, titles, upserts = self._ids, self._titles, request.upserts

        def named(row: int) -> tuple[str, str | None]:
            if upserts is not None and row >= len(ids):
                return upserts.named(row)
            return ids[row], None if titles is None else titles[row]

        return named


def _counted(kind: str, best: Best) -> Shares:
    return {row: [ReasonTerm(kind, None, score, True)] for row, score in best}


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
