"""Recipes and baselines compared on one card: trained and ranked for the same shoppers, with a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.pictures import differences
from feature_repo.card import DatasetCard
from pipelines.frames import frame
from pipelines.local import logged
from pipelines.recipe_files import recipe_of, title_of
from runtime import workspace
from runtime.errors import InputError
from runtime.files import replace_text
from runtime.log import emit
from runtime.page import render
from runtime.task import commit

if TYPE_CHECKING:
    from heterrec.contest import Contest
    from heterrec.plugins import Plugins

TEMPLATE = """{% extends "base" %}{% block body %}<h1>{{ title }}</h1>
<p class="sub">{{ about.card }}, as of {{ about.as_of | moment }}; {{ about.queries | count }} shoppers, the whole
catalogue ranked; commit {{ about.commit | short }}</p>
<section>{{ picture }}
<table><tr><th>model</th><th class="n">seeds</th><th class="n">HR@{{ k }}</th><th class="n">NDCG@{{ k }}</th>
<th class="n">MRR@{{ k }}</th><th class="n">NDCG@{{ k }} less that of {{ first }}</th></tr>
{% for row in about.rows %}<tr><td>{{ row.model }}</td><td class="n">{{ row.seeds }}</td>
<td class="n">{{ row.hr | number }}</td><td class="n">{{ row.ndcg | number }}</td>
<td class="n">{{ row.mrr | number }}</td><td class="n">{{ row.told }}</td></tr>{% endfor %}</table>
<p class="quiet">95 % intervals: the same shoppers for all, resampled, and seeds too where there are several. Many
comparisons find something by chance: of twenty that differ in nothing one interval lies beside zero.</p></section>
<section><h2>What the lists are like</h2><table><tr>{% for name in about.lists[0] %}
<th{% if not loop.first %} class="n"{% endif %}>{{ name }}</th>{% endfor %}</tr>
{% for row in about.lists %}<tr>{% for value in row.values() %}{% if loop.first %}<td>{{ value }}</td>{% else %}
<td class="n">{{ value | number }}</td>{% endif %}{% endfor %}</tr>{% endfor %}</table></section>
<section><h2>Recipes</h2>{% for name, recipe in about.recipes.items() %}<h3>{{ name }}</h3>
<p><code>{{ recipe }}</code></p>{% endfor %}</section>{% endblock %}"""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The contest, and where its page and its numbers (JSON) are."""

    contest: "Contest"
    page: Path
    result: Path


def compare(
    card: DatasetCard,
    names: Sequence[str],
    *,
    budget: str,
    seeds: int,
    settings: Sequence[str] = (),
    plugins: "Plugins | None" = None,
    as_of: str = "",
    run_id: str,
) -> Compared:
    """Train the recipes and fit the baselines that `names` says (the project's, files, or of `plugins`), with
    popularity beside them, and rank all of them.

    The first is what the others are held against. `settings` change every recipe. The data is that of a run, by the
    same tasks; what was made before is reused. Raises `InputError` where the data gate blocks, a name is unknown or
    comes twice.
    """
    from components.train.progress import EventProgress
    from heterrec.contest import contest
    from heterrec.data.sequences import read_sequences
    from heterrec.evaluation.baselines import BASELINES

    baselines = {**BASELINES, **(plugins.baselines if plugins else {})}
    titles = [title_of(name) for name in names]
    if doubled := sorted({each for each in titles if titles.count(each) > 1}):
        raise InputError(f"{doubled[0]!r} comes twice; name each recipe once, and files differently")
    recipes = {
        title: recipe_of(name, budget=budget, seed=0, settings=settings, plugins=plugins)
        for name, title in zip(names, titles, strict=True)
        if name not in baselines
    }
    asked = {name: baselines[name] for name in [*names, "popularity"] if name in baselines}
    made = frame(card, as_of, run_id=run_id)
    if made.sequences is None:
        why = made.decision.blocking[0]
        raise InputError(f"{card.name}: the data gate blocks: {why.message} To change it: {why.remedy}.")
    with logged(run_id):
        emit("comparing", recipes=list(recipes), baselines=list(asked), seeds=seeds)
        try:
            found = contest(
                read_sequences(made.sequences),
                recipes,
                asked,
                seeds=seeds,
                progress=lambda name, seed: EventProgress(f"{name} {seed}"),
            )
        except ValueError as error:
            raise InputError(str(error)) from error
    found = found.first(titles[0])
    about = {
        "card": card.name,
        "as_of": made.as_of,
        "queries": found.queries,
        "budget": budget,
        "seeds": seeds,
        "commit": commit(),
        "plugins": plugins.digest if plugins else "",
        "rows": [_row(each) for each in found.table().to_pylist()],
        "lists": found.lists().to_pylist(),
        "recipes": {name: json.loads(config.to_json()) for name, config in recipes.items()},
    }
    return _written(found, about, workspace.home() / "compare" / card.name / run_id)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """With names that a template can say."""
    plain = {name.split("@")[0]: None if value != value else value for name, value in row.items()}
    if plain["low"] is None:
        return {**plain, "told": ""}
    return {**plain, "told": f"{plain['difference']:+.4f} [{plain['low']:+.4f}, {plain['high']:+.4f}]"}


def _written(found: "Contest", about: dict[str, Any], folder: Path) -> Compared:
    folder.mkdir(parents=True, exist_ok=True)
    result, page = folder / "comparison.json", folder / "page.html"
    first = about["rows"][0]["model"]
    html = render(
        TEMPLATE, title=f"Compared on {about['card']}", about=about, k=found.k, first=first, picture=_picture(about)
    )
    for path, text in ((page, html), (result, json.dumps(about, indent=1))):
        replace_text(path, text)
    return Compared(contest=found, page=page, result=result)


def _picture(about: Mapping[str, Any]) -> Any:
    """Each difference to the first with its interval; right of zero is better."""
    rows = {row["model"]: {"mean": row["difference"], "low": row["low"], "high": row["high"]} for row in about["rows"]}
    return differences(rows, f"NDCG less that of {about['rows'][0]['model']}") or ""
