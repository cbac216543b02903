"""Where one item stands among the rows that the data gate saw last."""

import json
from bisect import bisect_left
from collections.abc import Collection, Mapping
from typing import Any

from console import runs
from feature_repo.kinds import KINDS, Storage


def standing(model: str, features: Mapping[str, Any], dates: Collection[str] = ()) -> dict[str, str]:
    """By feature, a few words; nothing of those that the gate keeps no distribution of, or of text and vectors, of
    which it measures the length alone. Of `dates` no number of days is shown."""
    run = runs.latest_with("validate", model)
    path = run.artifact("validate") / "profile.json" if run else None  # type: ignore[operator]
    if path is None or not path.is_file():
        return {}
    known = json.loads(path.read_text())["features"]
    told = {
        name: among(known[name], value, bounds=name not in dates) for name, value in features.items() if name in known
    }
    return {name: words for name, words in told.items() if words}


def among(found: Mapping[str, Any], value: Any, *, bounds: bool = True) -> str:
    """The place of `value` in a distribution of the gate's profile."""
    rows = max(1, sum(found["counts"]) + found["missing"])
    if value is None:
        return f"missing, as in {found['missing'] / rows:.1%} of the rows"
    kind = KINDS[found["kind"]]
    if kind.category:
        share = dict(zip(found["values"], found["counts"], strict=False)).get(str(value))
        return f"{share / rows:.1%} of the rows" if share is not None else "one of the rarer values"
    if kind.storage is not Storage.NUMBER or not isinstance(value, int | float) or found["min"] is None:
        return ""
    if not found["min"] <= value <= found["max"]:
        return "beyond all rows" + (f", {found['min']:.6g} to {found['max']:.6g}" if bounds else "")
    # A bin holds what is above its lower edge, up to the upper one.
    place, total = bisect_left(found["edges"], value), max(1, sum(found["counts"]))
    below = sum(found["counts"][:place]) / total
    return f"above {below:.0%} of the rows, below {max(0.0, 1 - below - found['counts'][place] / total):.0%}"
