"""What tonight's model is held against: the champion and the reference that resolve fetched, and the nights before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluate.blessing import (
    Blessing,
    NightlyValues,
    Rule,
    bless,
)
from components.shared.choice import K
from components.shared.model_names import (
    CHAMPION,
    NEIGHBOURS,
    REFERENCE,
    model_name,
)
from components.shared.recipe_digest import recipe_digest
from feature_repo.card import DatasetCard
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.metrics import Ranking
from runtime.decision import Reason


@dataclass(frozen=True, kw_only=True)
class HeldAgainst:
    """The champion artifact, read for tonight's model."""

    version: str | None
    models: dict[str, Path]
    """`champion` and, where it has other weights, `reference`: those that this data can rank."""
    incomparable: list[Reason]
    recipe: str
    """Identity of tonight's recipe."""
    refresh: bool
    """Whether it is the champion's."""
    facts: dict[str, Any]
    champion: Path
    as_of: datetime
    dataset: str
    rule: Rule

    @classmethod
    def read(cls, champion: Path, model: Path, sequences: Path, data: Sequences, card: DatasetCard) -> "HeldAgainst":
        """For the model in the folder `model`."""
        facts = json.loads((champion / "champion.json").read_text())
        found = {name: champion / folder for name, folder in ((CHAMPION, "model"), (REFERENCE, "reference"))}
        found = {name: path for name, path in found.items() if path.is_dir()}
        missing = {name: _missing(path, data) for name, path in found.items()}
        recipe = _recipe(model, data)
        return cls(
            version=facts["version"],
            models={name: path for name, path in found.items() if not missing[name]},
            incomparable=[_incomparable(name, features) for name, features in missing.items() if features],
            recipe=recipe,
            refresh=facts.get("recipe_digest") == recipe,
            facts=facts,
            champion=champion,
            as_of=datetime.fromisoformat(json.loads((sequences / "features.json").read_text())["as_of"]),
            dataset=card.name,
            rule=Rule(**card.release.model_dump(include={"margin", "pool_days", "fresh_days"})),
        )

    def of(self, model: Path, data: Sequences) -> "HeldAgainst":
        """The same for another model of tonight."""
        recipe = _recipe(model, data)
        return replace(self, recipe=recipe, refresh=self.facts.get("recipe_digest") == recipe)

    @property
    def network_serves(self) -> bool:
        """Whether the champion is more than the neighbour tables."""
        return (self.champion / "model").is_dir() and model_name(self.champion / "model") != NEIGHBOURS

    @property
    def reference(self) -> str | None:
        """Under which name the reference was ranked; None where none was."""
        names = [REFERENCE] if (self.champion / "reference").is_dir() else [CHAMPION]
        return next((name for name in names if name in self.models), None)

    def judge(
        self, name: str, data: Sequences, queries: Queries, rankings: Mapping[str, Ranking], night: Path
    ) -> Blessing | None:
        """The blessing of a refresh called `name`; writes into the file `night` what tonight says of any model that
        has a reference."""
        if self.reference is None:
            return None
        ours, theirs = (rankings[each].per_query("ndcg", K) for each in (name, self.reference))
        tonight = NightlyValues([data.user_ids[user] for user in queries.user], ours, theirs)
        columns = {"user_id": tonight.users, "ours": tonight.ours, "theirs": tonight.theirs}
        pq.write_table(pa.table(columns), night)
        if not self.refresh:
            return None
        return bless(tonight, self._earlier(), age_days=self.age_days, rule=self.rule)

    def _earlier(self) -> list[NightlyValues]:
        nights = []
        for night in self.facts["nights"]:
            days_ago = (self.as_of - datetime.fromisoformat(night["as_of"])) / timedelta(days=1)
            if night["recipe"] == self.recipe and days_ago < self.rule.month_days:
                table = pq.read_table(self.champion / night["file"])
                ours, theirs = (np.asarray(table[name], dtype=np.float64) for name in ("ours", "theirs"))
                nights.append(NightlyValues(table["user_id"].to_pylist(), ours, theirs, days_ago))
        return nights

    @property
    def age_days(self) -> float:
        """How much older the champion's data is than tonight's; of one that does not say so, very old."""
        until = self.facts.get("data_until")
        return (self.as_of - datetime.fromisoformat(until)) / timedelta(days=1) if until else float("inf")

    def to_json(self) -> dict[str, Any]:
        return {"champion": self.version, "reference": self.facts.get("reference")}

    def night(self, file: str) -> dict[str, Any] | None:
        """By what later nights find what `judge` wrote into `file`."""
        about = {"dataset": self.dataset, "as_of": self.as_of.isoformat(), "recipe": self.recipe, "file": file}
        return {**about, "reference": self.facts["reference"]} if self.reference else None

    def reason(self, blessing: Blessing) -> Reason:
        """The verdict as the decision says it."""
        rule, age = self.rule, self.age_days
        days = f"the champion's data is {age:.0f} days older" if np.isfinite(age) else "the champion's data has no date"
        tonight, week, month = blessing.looks
        looks = f"tonight {tonight}, over the week {week}, over {blessing.nights} nights {month}"
        because = {
            "no worse": f"is shown to lose less than {rule.asked:.1%} against",
            "fresher": f"is not shown to lose less than {rule.asked:.1%} against; as {days} and the month speaks for "
            "it, it is released: it is fresher than",
            "surely below": f"surely loses more than {rule.asked:.1%} against",
            "below": f"by one of the looks loses more than {rule.likely * rule.asked:.1%}, which is too near to "
            f"{rule.asked:.1%}, against",
            "undecided": f"is not yet shown to lose less than {rule.asked:.1%} against; nights are pooled, and where "
            f"they do not show it, a refresh that the month speaks for serves once the champion's data is "
            f"{rule.fresh_days:g} days older ({days}):",
        }[blessing.verdict]
        return Reason(
            check="no worse than the reference",
            held=blessing.passed,
            found=looks,
            allowed=f"above -{rule.asked:.1%}",
            message=f"NDCG@{K} {because} the reference (version {self.facts['reference']}): {looks}.",
            remedy="what serves goes on serving, and the next night is one more to judge by; a refresh may lose "
            "release.margin in the card, after how many days the likelier side decides release.fresh_days",
        )


def _recipe(model: Path, data: Sequences) -> str:
    settings = next(path for path in (model / "recipe.json", model / "config.json") if path.is_file())
    return recipe_digest(json.loads(settings.read_text()), data.catalogue.described)


def _missing(model: Path, data: Sequences) -> list[str]:
    """The features without which a network cannot answer; tables look at whatever words and values there are today."""
    if not (model / "weights.pt").is_file():
        return []
    encoder = FeatureEncoder.from_json((model / "encoder.json").read_text())
    known = {each["name"] for each in (*data.catalogue.features, *data.catalogue.asking)}
    return sorted({field.name for field in (*encoder.fields, *encoder.asking)} - known)


def _incomparable(name: str, missing: list[str]) -> Reason:
    needs = ", ".join(missing)
    return Reason(
        check=name,
        held=False,
        found=f"needs {needs}",
        allowed="features of this data",
        level="warn",
        message=f"The {name} cannot be ranked on this data: it needs {needs}, which the card has no more.",
        remedy="nothing, where the features were taken out of the card on purpose; otherwise put them back",
    )
