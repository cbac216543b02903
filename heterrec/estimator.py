"""The front door: two tables in, a fitted model out, by the code that the pipeline runs.

from heterrec.estimator import HeterRec

model = HeterRec().fit(interactions, items)
print(model.evaluate())
model.recommend(["u1", "u2"], k=10, filters={"brand": ["acme"]})
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from heterrec.changes import changed, recipe
from heterrec.contest import (
    Contest,
    K,
    ranked,
    someone,
)
from heterrec.data.prepare import prepare
from heterrec.data.sequence_files import write_sequences
from heterrec.data.sequences import (
    Ints,
    Queries,
    Sequences,
    read_sequences,
)
from heterrec.evaluation.baselines import BASELINES, Fit
from heterrec.inference.answers import Answers, judged
from heterrec.inference.best import (
    ItemLikeness,
    Lists,
    best,
    highest,
    rows_of,
)
from heterrec.inference.filtering import allowed
from heterrec.progress_bar import Bar
from heterrec.recipes import TrainConfig, neighbours
from heterrec.training.export import load_model, save_model, tables_of
from heterrec.training.loop import train
from heterrec.training.refit import refit
from heterrec.training.trained import Trained

SCHEMA = 1
_AT_ONCE = 2**24
"""Scores in memory at once."""


class HeterRec:
    """A sequential recommender that is fitted on two tables.

    Args:
        recipe: Name of a recipe (heterrec, neighbours, sasrec, …: `heterrec.recipes.RECIPES`), the fields that differ
            from one (`{"base": "heterrec", "model": {"width": 128}}`), or a whole `TrainConfig`.
        changes: Fields that differ, dotted: `{"model.width": 128}`.
        budget: "fast" (minutes on two cores) or "full".
        seed: Of all chance in training.
        progress: Whether a bar is shown.

    Raises `ValueError` for a recipe or field that there is not. Methods that need a fitted model raise `RuntimeError`
    without one.

    >>> model = HeterRec("heterrec", changes={"model.width": 32}, seed=1)
    """

    def __init__(
        self,
        recipe: "str | Mapping[str, Any] | TrainConfig" = "heterrec",
        *,
        changes: Mapping[str, Any] | None = None,
        budget: str = "fast",
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.config = _configured(recipe, changes or {}, budget, seed)
        self.progress = progress
        self._sequences: Sequences | None = None
        self._judged: Trained | None = None
        self._serving: Trained | None = None

    @property
    def sequences(self) -> Sequences:
        """What it was fitted on: events in order, split, over the catalogue."""
        self._fitted()
        assert self._sequences is not None
        return self._sequences

    @property
    def trained(self) -> Trained:
        """The model that `evaluate` judges."""
        return self._fitted()

    def fit(self, interactions: Any, items: Any = None, **layout: Any) -> "HeterRec":
        """Learn from a table of events and one of items; returns itself.

        `layout` says how to read them (columns, kinds, split, repeats, ties): the arguments of
        `heterrec.data.prepare.prepare`, which says what a table must have and what it raises. Or give `Sequences`, as
        `prepare` or `heterrec.data.sequences.read_sequences` make them. Held out are each user's last events; after
        `evaluate` has judged, `refit` learns from them too. Raises `ValueError` where there is nothing to learn from.

        >>> model.fit(interactions, items, user="customer", split="time", test_days=7)
        """
        if isinstance(interactions, Sequences):
            if items is not None or layout:
                raise ValueError("fit: sequences hold items, columns and split already; give them alone")
            sequences = interactions
        else:
            sequences = prepare(interactions, items, **layout)
        self._judged = train(sequences, self.config, progress=self._bar("fit"), device=_device())
        self._sequences, self._serving = sequences, self._judged
        return self

    def refit(self) -> "HeterRec":
        """Learn from the held-out events too, before it recommends: what `evaluate` judges stays as it was.

        A quarter of the training, as the pipeline does after its blessing. Tables alone have nothing to refit: their
        counts hold all events in any case.
        """
        fitted = self._fitted()
        if fitted.model is not None:
            self._serving = refit(
                fitted.loaded, fitted.recipe, self.sequences, progress=self._bar("refit"), device=_device()
            )
        return self

    def recommend(
        self,
        users: Iterable[Any] | None = None,
        k: int = 10,
        *,
        filters: Mapping[str, Any] | None = None,
        exclude_seen: bool | None = None,
    ) -> pa.Table:
        """The `k` best items of each user, given all events that it was fitted on, held out or not.

        Args:
            users: User IDs as in the table; None for all. `ValueError` for one that has no event.
            k: Items a user, at least 1; fewer come where no more are allowed.
            filters: `{"brand": ["acme"], "price": {"max": 20}}`; an item must match all.
            exclude_seen: Leave out what the user has; by default where the data was read with `repeats=False`.

        Returns a table with a row an item: user_id, rank (from 1), item_id, score. `.to_pandas()` makes a frame of it.
        """
        answers, sequences = self._answers(), self.sequences
        _at_least_one(k)
        asked = _users(sequences, users)
        queries = Queries(
            user=asked,
            start=sequences.offsets[asked],
            stop=sequences.offsets[asked + 1],
            last=sequences.offsets[asked + 1],
        )
        candidate = self._candidates(filters)
        seen = sequences.repeats if exclude_seen is None else not exclude_seen
        lists = best(answers.scores(sequences, queries), sequences, queries, k, candidate, seen=seen, at_once=_AT_ONCE)
        names = pa.array(sequences.user_ids, pa.string())
        return pa.concat_tables(
            [rows_of("user_id", names.take(pa.array(asked[each.number_Q])), each, sequences) for each in lists]
        )

    def similar_items(self, items: Iterable[Any], k: int = 10, *, filters: Mapping[str, Any] | None = None) -> pa.Table:
        """The `k` items most like each of `items`, which are not among their own.

        By the cosine of what the network knows of them, features and ID; where the neighbour tables answer alone, by
        what a history of that item brings to mind. Returns a table with a row a neighbour: similar_to, rank, item_id,
        score. Raises `ValueError` for an item that is not in the catalogue.
        """
        answers, catalogue = self._answers(), self.sequences.catalogue
        _at_least_one(k)
        asked = _numbers(catalogue.item_ids, items, "items", "item of the catalogue")
        candidate = self._candidates(filters)
        parts = []
        likeness = ItemLikeness(answers)
        for first in range(0, len(asked), part := max(1, _AT_ONCE // len(catalogue))):
            own = asked[first : first + part]
            score = np.where(candidate, likeness.of(own), np.float32(-np.inf))
            score[np.arange(len(own)), own] = -np.inf
            lists = Lists(own, *highest(score, min(k, len(catalogue))))
            names = pa.array(catalogue.item_ids, pa.string()).take(pa.array(own))
            parts.append(rows_of("similar_to", names, lists, self.sequences))
        return pa.concat_tables(parts)

    def evaluate(
        self, baselines: Mapping[str, Fit] | None = None, *, k: int = K, split: str = "test", name: str = "model"
    ) -> Contest:
        """HR, NDCG and MRR at `k` for the held-out shoppers, the whole catalogue ranked, beside baselines.

        `baselines` (name to `heterrec.evaluation.baselines.Fit`) stand beside popularity and the neighbour tables
        alone. The intervals are paired over shoppers: of each baseline's NDCG against the model's. Print the result,
        take its `.table()`, or its `.lists()`, which says what the lists are like: coverage, novelty, diversity,
        popularity, calibration. Raises `ValueError` where nobody is held out.
        """
        fitted, sequences = self._fitted(), self.sequences
        queries = someone(sequences, split)
        contenders = {name: judged(fitted.loaded, sequences, queries)}
        if fitted.model is not None:
            tables = tables_of(fitted.loaded) or train(sequences, neighbours())
            contenders["neighbour tables"] = judged(tables.loaded, sequences, queries)
        own = {**BASELINES, **(baselines or {})}
        if name in own:
            raise ValueError(f"name: {name!r} is a baseline; call the model otherwise")
        contenders |= {each: fit(sequences, queries) for each, fit in own.items()}
        return ranked(contenders.items(), sequences, queries, k)

    def save(self, path: "str | Path") -> None:
        """Write the model, and the events and the catalogue that it answers from, to the folder `path`.

        JSON, Parquet, .npz and a `weights.pt` of tensors alone; nothing in it is unpickled when it is read. It holds
        who bought what: keep it as you keep your data. Raises `ValueError` where `path` holds something else.
        """
        fitted, root = self._fitted(), Path(path)
        if root.exists() and any(root.iterdir()) and not (root / "heterrec.json").is_file():
            raise ValueError(f"{root}: is not empty and holds no saved model; name a new folder")
        root.mkdir(parents=True, exist_ok=True)
        refitted = self._serving is not fitted and self._serving is not None
        # Written last, and taken away first: a folder without it was not written to its end.
        (root / "heterrec.json").unlink(missing_ok=True)
        write_sequences(self.sequences, root / "sequences", name=root.name)
        save_model(fitted, root / "judged")
        if refitted and self._serving is not None:
            save_model(self._serving, root / "serving")
        (root / "heterrec.json").write_text(json.dumps({"schema": SCHEMA, "refitted": refitted}))

    def _fitted(self) -> Trained:
        if self._judged is None:
            raise RuntimeError("HeterRec: is not fitted yet; call fit(interactions, items) first, or load(path)")
        return self._judged

    def _answers(self) -> Answers:
        self._fitted()
        assert self._serving is not None
        return Answers.to_serve(self._serving.loaded, self.sequences)

    def _candidates(self, filters: Mapping[str, Any] | None) -> npt.NDArray[np.bool_]:
        """(V,) what may be shown: what can be had by the newest event, and matches the filters."""
        there: npt.NDArray[np.bool_] = self.sequences.catalogue.available_at <= self.sequences.time.max()
        return there & allowed(self.sequences.catalogue, filters or {})

    def _bar(self, name: str) -> Bar | None:
        return Bar(name) if self.progress else None


def load(path: "str | Path") -> HeterRec:
    """The model that `HeterRec.save` wrote to `path`: it recommends and evaluates as that one did.

    Raises `ValueError` naming a file that is missing, of another version or that does not fit the others.
    """
    root = Path(path)
    if not (root / "heterrec.json").is_file():
        raise ValueError(f"{root / 'heterrec.json'}: no such file; {root} is no folder that HeterRec.save has written")
    about = json.loads((root / "heterrec.json").read_text())
    if about.get("schema") != SCHEMA:
        raise ValueError(
            f"{root / 'heterrec.json'}: schema {about.get('schema')!r}, expected {SCHEMA}; fit and save anew"
        )
    found = _read(root / "judged")
    model = HeterRec(found.recipe, progress=False)
    model._sequences, model._judged = read_sequences(root / "sequences"), found
    model._serving = _read(root / "serving") if about["refitted"] else found
    return model


def _read(root: Path) -> Trained:
    loaded = load_model(root, _device())
    curve = json.loads((root / "curve.json").read_text())
    return Trained(
        model=loaded.model,
        encoder=loaded.encoder,
        memory=loaded.memory,
        item_ids=loaded.item_ids,
        recipe=TrainConfig.from_json((root / "recipe.json").read_text()),
        config=loaded.config,
        curve=curve,
        best_epoch=0,
        validation_ndcg=None,
    )


def _configured(
    asked: "str | Mapping[str, Any] | TrainConfig", changes: Mapping[str, Any], budget: str, seed: int
) -> TrainConfig:
    found = recipe(asked, budget=budget, seed=seed)
    if isinstance(asked, TrainConfig) and seed:
        found = replace(found, seed=seed)
    return changed(found, changes) if changes else found


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _at_least_one(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k: found {k!r}, expected a whole number of at least 1")


def _users(sequences: Sequences, users: Iterable[Any] | None) -> Ints:
    if users is None:
        return np.flatnonzero(np.diff(sequences.offsets))
    return _numbers(sequences.user_ids, users, "users", "user with an event in the table")


def _numbers(known: Sequence[str], asked: Iterable[Any], name: str, what: str) -> Ints:
    if isinstance(asked, str):
        raise ValueError(f"{name}: found the text {asked!r}, expected a list; say [{asked!r}]")
    place = {each: row for row, each in enumerate(known)}
    wanted = [str(each) for each in asked]
    if strangers := [each for each in wanted if each not in place]:
        few = ", ".join(map(repr, strangers[:3]))
        raise ValueError(f"{name}: {few} ({len(strangers)} of {len(wanted)}): no {what}; leave them out, or fit anew")
    return np.array([place[each] for each in wanted], dtype=np.int64)
