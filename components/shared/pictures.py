"""The pictures of a comparison: differences with their intervals, and the training curves."""

from typing import Any

from markupsafe import Markup

from runtime.page import (
    BAD,
    GOOD,
    INK,
    QUIET,
    SERIES,
    axes,
    svg,
)


def differences(report: dict[str, Any]) -> Markup:
    """Each peer's NDCG@10 difference to the new model with its 95 % interval; right of zero is better."""
    rows = [(name, row) for name, row in report["differences"].items() if row["mean"] is not None]
    figure, ax = axes(8.2, 0.55 + 0.42 * max(1, len(rows)))
    for y, (_, row) in enumerate(reversed(rows)):
        colour = GOOD if row["low"] > 0 else BAD if row["high"] < 0 else QUIET
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot(row["mean"], y, "o", color=colour, markersize=6)
        ax.annotate(
            f"{row['mean']:+.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]",
            (row["high"], y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"against {name}" for name, _ in reversed(rows)], fontsize=10)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.margins(x=0.35)
    ax.set_xlabel("difference in NDCG@10 (right: the new model is better)", fontsize=9, color=QUIET)
    return svg(figure)


def training_curves(curves: dict[str, list[dict[str, Any]]]) -> Markup:
    """Validation NDCG@10 by epoch, one line a model, the kept checkpoint marked."""
    figure, ax = axes(8.2, 2.6)
    ends: list[tuple[float, float, str, str]] = []
    for (name, curve), colour in zip(curves.items(), SERIES, strict=False):
        epochs = [point["epoch"] for point in curve]
        values = [point["validation_ndcg"] for point in curve]
        if None in values:
            continue  # nothing was held out to validate on
        best = max(range(len(values)), key=values.__getitem__)
        ax.plot(epochs, values, color=colour, linewidth=1.8)
        ax.plot(epochs[best], values[best], "o", color=colour, markersize=6)
        ends.append((values[-1], epochs[-1], name, colour))
    ax.margins(x=0.12)
    _names_at_the_ends(ax, sorted(ends))
    ax.set_xlabel("epoch (the dot is the checkpoint that was kept)", fontsize=9, color=QUIET)
    ax.set_ylabel("validation NDCG@10", fontsize=9, color=QUIET)
    return svg(figure)


def _names_at_the_ends(ax: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Each line's name behind its last point, moved up where it would lie on the one below."""
    bottom, top = ax.get_ylim()
    lowest = bottom
    for value, epoch, name, colour in ends:
        height = max(value, lowest)
        lowest = height + 0.1 * (top - bottom)
        ax.annotate(
            name, (epoch, height), xytext=(7, 0), textcoords="offset points", color=colour, fontsize=10, va="center"
        )
