"""The items' vectors on a map: the two directions in which they differ most (PCA), coloured by a feature."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from console.archives import Opened
from console.item import as_date
from runtime.charts import Plot, Scale, figure

MOST = 2_500
"""Items that are drawn; of more a fixed draw, so that the map stays the same."""
_CLASSES = 7
_QUANTILES = 5
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Map:
    picture: Markup
    key: Sequence[tuple[str, str]]
    """Style and meaning of each colour."""
    drawn: int
    explained: float
    """Share of the vectors' variance that the map shows."""


def draw(opened: Opened, feature: str) -> Map | None:
    """The map coloured by `feature`; None of a model without vectors, or with too few items for a map."""
    vectors = opened.vectors
    if vectors is None or len(vectors) < 3:
        return None
    rows = np.arange(len(vectors))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    place, explained = principal(vectors[rows])
    zone = opened.contract.get("dates", {}).get(feature)
    in_words: Callable[[Any], str] = _short if zone is None else partial(as_date, zone=zone)
    values: list[Any] = [opened.items["features"][feature][row] for row in rows] if feature else [None] * len(rows)
    styles, key = colours(values, in_words)
    low, high = place.min(axis=0), place.max(axis=0)
    room = 0.04 * (high - low)
    plot = Plot(
        f"items by their vectors, coloured by {feature or 'nothing'}",
        Scale(low[0] - room[0], high[0] + room[0]), Scale(low[1] - room[1], high[1] + room[1]), width=940, height=620,
    )  # fmt: skip
    for number, row in enumerate(rows.tolist()):
        title = opened.title(opened.ids[row])
        value = values[number] if zone is None or values[number] is None else in_words(values[number])
        plot.dots(
            [(place[number, 0], place[number, 1])], styles[number], [f"{title}: {value}" if feature else title], 4
        )
    return Map(picture=plot.svg(), key=key, drawn=len(rows), explained=explained)


def principal(vectors: Floats) -> tuple[Floats, float]:
    """Coordinates (V, 2) along the two directions of the most variance, and what share of it these have."""
    centred = np.asarray(vectors, np.float64) - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    # A direction and its opposite are one; the larger part points up, so that the map stays the same.
    best = directions[:, ::-1][:, :2]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), range(best.shape[1])])
    return centred @ best, float(values[-2:].sum() / max(values.sum(), 1e-12))


def _short(value: float) -> str:
    return figure(float(f"{value:.3g}"))


def colours(
    values: Sequence[Any], in_words: Callable[[float], str] = _short
) -> tuple[list[str], list[tuple[str, str]]]:
    """A style for each value, and what each style means: numbers by fifths, as `in_words` says them, others the most
    frequent and the rest."""
    plain = [
        value[0] if isinstance(value, list) and value else None if isinstance(value, list) else value
        for value in values
    ]
    known = [value for value in plain if value is not None]
    if not known:
        return ["f7"] * len(plain), []
    if all(isinstance(value, int | float) for value in known):
        ends = np.unique(np.quantile(known, [n / _QUANTILES for n in range(1, _QUANTILES)]))
        of = [f"q{int(np.searchsorted(ends, value))}" if value is not None else "f7" for value in plain]
        shown = [in_words(float(end)) for end in ends]
        names = [f"up to {shown[0]}", *(f"up to {each}" for each in shown[1:]), f"above {shown[-1]}"]
        return of, [(f"q{n}", name) for n, name in enumerate(names)] + _rest(plain, of, "nothing known")
    frequent = [value for value, _ in Counter(known).most_common(_CLASSES)]
    number = {value: f"f{n}" for n, value in enumerate(frequent)}
    of = [number.get(value, "f7") for value in plain]
    return of, [(style, str(value)) for value, style in number.items()] + _rest(plain, of, "all others")


def _rest(plain: Sequence[Any], of: Sequence[str], name: str) -> list[tuple[str, str]]:
    return [("f7", name)] if "f7" in of else []
