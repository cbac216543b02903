"""The pictures of a comparison: differences with their intervals, and the training curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from runtime.charts import (
    WIDE,
    Plot,
    Scale,
    figure,
    intervals,
    key,
)


def differences(rows: Mapping[str, Mapping[str, Any]], name: str, *, width: int = WIDE) -> Markup | None:
    """Each of `rows` ({"mean", "low", "high"}), the judged model less a peer, with its interval; right of zero is
    better. None where nothing was compared."""
    known = [(peer, row["mean"], row["low"], row["high"]) for peer, row in rows.items() if row["low"] is not None]
    return intervals(name, known, width=width) if known else None


def training_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], *, width: int = WIDE) -> Markup | None:
    """Validation NDCG@10 by epoch, one line a model, the kept checkpoint marked. None where nothing was validated."""
    lines = {name: [(point["epoch"], point["validation_ndcg"]) for point in curve] for name, curve in curves.items()}
    known = {name: line for name, line in lines.items() if all(value is not None for _, value in line)}
    points = [point for line in known.values() for point in line]
    if not points:
        return None
    (first, last), (low, high) = ((min(each), max(each)) for each in zip(*points, strict=True))
    room = 0.1 * (high - low)
    plot = Plot("validation NDCG@10 by epoch", Scale(first, last), Scale(low - room, high + room), width=width)
    plot.axes(below=lambda epoch: figure(epoch) if epoch == int(epoch) else "")
    for number, (name, line) in enumerate(known.items()):
        epoch, best = max(line, key=lambda point: point[1])
        plot.line(line, f"l{number}", name)
        plot.dots(
            [(epoch, best)], f"f{number}", [f"{name}: {best:.4f} in epoch {epoch}, the checkpoint that was kept"], 5
        )
    return plot.svg() + key([(f"l{number}", name) for number, name in enumerate(known)])
