"""The model gate: full ranking of every contender on the same held-out shoppers, and a decision with its numbers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluate.blessing import Blessing
from components.evaluate.held import HeldAgainst
from components.shared import model_names
from components.shared.choice import (
    Judged,
    K,
    ReleaseChoice,
    choose,
    not_below,
    of_model,
    of_tables,
)
from components.shared.model_names import CHAMPION, NEIGHBOURS, POPULARITY
from feature_repo.card import DatasetCard
from heterrec.beyond import ShownScores, beyond
from heterrec.data.sequences import Queries, Sequences, read_sequences
from heterrec.evaluation.baselines import popularity
from heterrec.evaluation.comparison import MeanDifference, compare, slices
from heterrec.evaluation.metrics import Ranking, Scores, rank
from heterrec.inference.answers import judged
from heterrec.training.export import load_model
from runtime.decision import Decision, Reason

NIGHTS = ("night.parquet", "tables_night.parquet")
"""Of the model, and of the tables in its place."""
SLICES = {
    "short_history": "short histories (under 20 events)",
    "long_history": "long histories",
    "popular_items": "popular items",
    "rare_items": "rare items",
    "new_items": "new items (never seen in training)",
}


def run(
    *, card: DatasetCard, sequences: Path, model: Path, baseline: Path, tables: Path, champion: Path, evaluation: Path
) -> dict[str, Any]:
    """Write `decision.json`, `report.json`, `queries.parquet`, `page.html` and, where there is a reference,
    `night.parquet` and `tables_night.parquet`; return what the run's record keeps.

    Released is the model, or in its place the neighbour tables alone (`tables`, a model of the recipe `neighbours` on
    the same training events), or nothing; see `components.shared.choice`. Both are asked to lie above popularity with
    a 95 % paired interval that excludes zero; as a refresh of the champion's recipe to be no worse than the reference
    (`components.evaluate.blessing`); and as a candidate of another recipe, which has an A/B test before it, not to be
    surely below the champion. A network must be surely above the tables, or, where a network serves, not surely below
    them; the tables must then be surely above the champion. To be above the baseline is not required, but said.
    """
    from components.shared.comparison_page import page

    data = read_sequences(sequences)
    queries = data.queries("test")
    held = HeldAgainst.read(champion, model, sequences, data, card)
    new = model_names.model_name(model)
    models = {new: model, **held.models, model_names.baseline_name(baseline, new): baseline}
    if new != NEIGHBOURS:
        models[NEIGHBOURS] = tables
    contenders: dict[str, Scores] = {name: judged(load_model(path), data, queries) for name, path in models.items()}
    contenders[POPULARITY] = popularity(data)

    shown = {name: ShownScores(scores, data, queries) for name, scores in contenders.items()}
    rankings = {name: rank(scores, data, queries) for name, scores in shown.items()}
    differences = _differences(new, rankings)
    lines = {new: held} if new == NEIGHBOURS else {new: held, NEIGHBOURS: held.of(tables, data)}
    nights = dict(zip(lines, NIGHTS, strict=False)) if rankings[new].queries else {}
    blessings = {
        name: lines[name].judge(name, data, queries, rankings, evaluation / file) for name, file in nights.items()
    }
    choice = _choice(new, rankings, lines, blessings)
    report = {
        **_report(data, queries, rankings, differences),
        "beyond": _beyond(card, data, queries, shown),
        "new": new,
        "recipe": held.recipe,
        **held.to_json(),
        "blessings": {name: blessing.to_json() for name, blessing in blessings.items() if blessing},
        "nights": [night for name, file in nights.items() if (night := lines[name].night(file))],
        "rises": _rises(choice.released, blessings),
        "release": choice.to_json(),
    }
    decision = Decision(gate="evaluate", reasons=choice.reasons)
    (evaluation / "report.json").write_text(json.dumps(report, indent=1))
    pq.write_table(_table(data, queries, rankings), evaluation / "queries.parquet")
    decision.write(evaluation)
    (evaluation / "page.html").write_text(page(evaluation))
    kept = {"metrics": _flat(report), "nights": report["nights"], "release": report["release"]}
    return {**decision.summary(), **kept}


def _differences(new: str, rankings: dict[str, Ranking]) -> dict[str, MeanDifference]:
    return {name: compare(rankings[new], rankings[name], K) for name in rankings if name != new}


def _choice(
    new: str, rankings: dict[str, Ranking], lines: dict[str, HeldAgainst], blessings: dict[str, Blessing | None]
) -> ReleaseChoice:
    if not blessings:
        message = "No held-out shopper has a history: there is nothing to judge the model by. Take more days or users."
        remedy = "hold out more in the card (split.test_days, or split.by: order), or take more days or users"
        nobody = Reason(check="queries", held=False, found=0, allowed="at least 1", message=message, remedy=remedy)
        return choose(Judged(name=new, reasons=[nobody]), None)
    found = []
    for name, line in lines.items():
        differences = _differences(name, rankings)
        asked, serves = of_model if name == new else of_tables, {"network_serves": line.network_serves}
        reasons = asked(differences, _against_champion(line, differences, blessings[name]), **serves)
        found.append(Judged(name=name, reasons=[*reasons, *(line.incomparable if name == new else ())]))
    return choose(found[0], found[1] if found[1:] else None)


def _against_champion(
    line: HeldAgainst, differences: dict[str, MeanDifference], blessing: Blessing | None
) -> list[Reason]:
    if blessing is not None:
        return [line.reason(blessing)]
    found = differences.get(CHAMPION)
    return [] if found is None else [not_below(f"champion (version {line.version})", found)]


def _rises(released: Judged | None, blessings: dict[str, Blessing | None]) -> bool:
    """Whether what is released is a refresh that is surely better than the reference, and so becomes it."""
    blessing = blessings.get(released.name) if released else None
    return blessing is not None and blessing.rises


def _report(
    data: Sequences, queries: Queries, rankings: dict[str, Ranking], differences: dict[str, MeanDifference]
) -> dict[str, Any]:
    return {
        "queries": len(queries),
        "catalogue": len(data.catalogue),
        "repeats": data.repeats,
        "models": {name: _plain(_metrics(ranking)) for name, ranking in rankings.items()},
        "differences": {name: _plain(asdict(difference)) for name, difference in differences.items()},
        "slices": _slices(data, queries, rankings),
    }


def _beyond(card: DatasetCard, data: Sequences, queries: Queries, shown: dict[str, ShownScores]) -> dict[str, Any]:
    """Of each model, what its lists are like; null without a shopper."""
    found = {
        name: beyond(each.row_QK, data, queries, category=card.segment_feature) if len(queries) else None
        for name, each in shown.items()
    }
    return {name: asdict(each) if each else None for name, each in found.items()}


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
