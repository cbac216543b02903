"""The model gate: full ranking of every contender on the same held-out shoppers, and a decision with its numbers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.decision import Decision, Reason
from components.evaluate import names
from components.evaluate.blessing import Blessing
from components.evaluate.held import HeldAgainst
from components.evaluate.names import CHAMPION, NEIGHBOURS, POPULARITY, REFERENCE
from feature_repo.card import DatasetCard
from heterrec.baselines import popularity
from heterrec.comparison import Difference, compare, slices
from heterrec.export import load_model
from heterrec.gates import remember
from heterrec.inference import Loaded, judged
from heterrec.metrics import Ranking, Scores, rank
from heterrec.sequences import Queries, Sequences, read_sequences

K = 10
LONGER = "hold out more shoppers (split.test_days in the card): the difference may be there, and is not sure yet"
TRAIN = (
    "train longer (--budget full), or see in the page's slices for whom it is worse; what serves goes on serving, and "
    "--recipe neighbours releases the tables alone"
)
TABLES = "nothing was trained that could be trained longer: give the card features, or the source more days or users"
OLD = "what serves goes on serving; train longer (--budget full) or begin from it (--warm-start)"
SLICES = {
    "short_history": "short histories (under 20 events)",
    "long_history": "long histories",
    "popular_items": "popular items",
    "rare_items": "rare items",
    "new_items": "new items (never seen in training)",
}


def run(
    *, card: DatasetCard, sequences: Path, model: Path, baseline: Path, champion: Path, evaluation: Path
) -> dict[str, Any]:
    """Write `decision.json`, `report.json`, `queries.parquet`, `page.html` and, where there is a reference,
    `night.parquet`; return what the run's record keeps.

    The model is blessed when its NDCG@10 lies above popularity's with a 95 % paired interval that excludes zero, is not
    surely below that of the neighbour tables, and, as a refresh of the champion's recipe, no worse than the reference
    (`components.evaluate.blessing`). A candidate of another recipe, which has an A/B test before it, must not be surely
    below the champion. To be surely above the tables and the baseline is not required, but said.
    """
    from components.evaluate.page import page

    data = read_sequences(sequences)
    queries = data.queries("test")
    held = HeldAgainst.read(champion, model, sequences, data, card)
    new = names.model_name(model)
    models = {new: model, **held.models, names.baseline_name(baseline, new): baseline}
    loaded = {name: load_model(path) for name, path in models.items()}
    contenders: dict[str, Scores] = {name: judged(each, data, queries) for name, each in loaded.items()}
    if new != NEIGHBOURS:
        contenders.setdefault(NEIGHBOURS, judged(_tables_of(loaded[new], data), data, queries))
    contenders[POPULARITY] = popularity(data)

    rankings = {name: rank(scores, data, queries) for name, scores in contenders.items()}
    differences = {name: compare(rankings[new], rankings[name], K) for name in rankings if name != new}
    blessing = held.judge(data, queries, rankings, evaluation) if rankings[new].queries else None
    report = _report(data, queries, rankings, differences) | {"new": new, **held.to_json(blessing)}
    decision = Decision(gate="evaluate", reasons=_reasons(report, differences, held, blessing))
    (evaluation / "report.json").write_text(json.dumps(report, indent=1))
    pq.write_table(_table(data, queries, rankings), evaluation / "queries.parquet")
    decision.write(evaluation)
    (evaluation / "page.html").write_text(page(evaluation))
    return {**decision.summary(), "metrics": _flat(report), "night": report["night"]}


def _tables_of(loaded: Loaded, data: Sequences) -> Loaded:
    """The neighbour tables alone: those that the model was given, else fitted on the same training events."""
    memory, items = loaded.memory, loaded.item_ids
    if memory is None:
        memory, items = remember(data), data.catalogue.item_ids
    return Loaded(None, loaded.encoder, loaded.config, memory, items)


def _reasons(
    report: dict[str, Any], differences: dict[str, Difference], held: HeldAgainst, blessing: Blessing | None
) -> list[Reason]:
    if report["queries"] == 0:
        message = "No held-out shopper has a history: there is nothing to judge the model by. Take more days or users."
        remedy = "hold out more in the card (split.test_days, or split.by: order), or take more days or users"
        return [Reason(check="queries", held=False, found=0, allowed="at least 1", message=message, remedy=remedy)]
    train = TABLES if report["new"] == NEIGHBOURS else TRAIN
    reasons = [_above(POPULARITY, differences[POPULARITY], level="block", train=train)]
    if NEIGHBOURS in differences:
        reasons.append(_not_below(NEIGHBOURS, differences[NEIGHBOURS], check="no worse than the neighbour tables"))
    if blessing is not None:
        reasons.append(held.reason(blessing))
    elif CHAMPION in differences:
        reasons.append(_not_below(f"champion (version {held.version})", differences[CHAMPION]))
    apart = (CHAMPION, REFERENCE, POPULARITY)
    reasons += [
        _above(name, difference, level="warn", train=train)
        for name, difference in differences.items()
        if name not in apart
    ]
    return [*reasons, *held.incomparable]


def _above(name: str, difference: Difference, *, level: Any, train: str) -> Reason:
    verdict = "above" if difference.low > 0 else "not above"
    return Reason(
        check=f"better than {name}",
        held=difference.low > 0,
        found=_interval(difference),
        allowed="interval above 0",
        level=level,
        message=f"NDCG@{K} is {verdict} that of {name}: difference {_interval(difference)}.",
        remedy=LONGER if difference.mean > 0 else train,
    )


def _not_below(name: str, difference: Difference, *, check: str = "no worse than the champion") -> Reason:
    verdict = "not below" if difference.high >= 0 else "below"
    return Reason(
        check=check,
        held=difference.high >= 0,
        found=_interval(difference),
        allowed="interval not below 0",
        message=f"NDCG@{K} is {verdict} that of the {name}: difference {_interval(difference)}.",
        remedy=TRAIN if name == NEIGHBOURS else OLD,
    )


def _interval(difference: Difference) -> str:
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def _report(
    data: Sequences, queries: Queries, rankings: dict[str, Ranking], differences: dict[str, Difference]
) -> dict[str, Any]:
    return {
        "queries": len(queries),
        "catalogue": len(data.catalogue),
        "repeats": data.repeats,
        "models": {name: _plain(_metrics(ranking)) for name, ranking in rankings.items()},
        "differences": {name: _plain(asdict(difference)) for name, difference in differences.items()},
        "slices": _slices(data, queries, rankings),
    }


def _metrics(ranking: Ranking) -> dict[str, float]:
    return {**ranking.summary(), "mrr": ranking.mean("mrr", k=np.iinfo(np.int64).max)}


def _slices(data: Sequences, queries: Queries, rankings: dict[str, Ranking]) -> dict[str, Any]:
    new = next(iter(rankings.values()))
    rows = {}
    for name, where in slices(data, queries, new).items():
        rows[SLICES[name]] = {
            "queries": len(np.unique(new.query[where])),
            "models": _plain({model: ranking.mean("ndcg", K, where) for model, ranking in rankings.items()}),
            "differences": {
                peer: _plain(asdict(compare(new, ranking, K, where)))
                for peer, ranking in rankings.items()
                if ranking is not new
            },
        }
    return rows


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """Numbers that JSON can hold: NaN, of a slice or window without queries, is null."""
    return {name: None if value != value else value for name, value in values.items()}


def _table(data: Sequences, queries: Queries, rankings: dict[str, Ranking]) -> pa.Table:
    """A row a query and model."""
    users = [data.user_ids[user] for user in queries.user]
    parts = [
        pa.table(
            {
                "model": [name] * len(users),
                "user_id": users,
                "hr": ranking.per_query("hr", K),
                "ndcg": ranking.per_query("ndcg", K),
                "mrr": ranking.per_query("mrr", K),
            }
        )
        for name, ranking in rankings.items()
    ]
    return pa.concat_tables(parts)


def _flat(report: dict[str, Any]) -> dict[str, float]:
    """The numbers that the Kubeflow UI shows."""
    flat = {
        f"{name} {metric}": row[metric]
        for name, row in report["models"].items()
        for metric in ("hr@10", "ndcg@10")
        if row[metric] is not None
    }
    for name, row in report["differences"].items():
        if row["low"] is not None:
            flat |= {f"ndcg@10 against {name}, low": row["low"], f"ndcg@10 against {name}, high": row["high"]}
    return flat
