"""The pictures of a rollout: weight and difference over time above one another, and each guardrail over time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.document import Rollout
from experiments.table import Decision, Entry
from runtime.page import (
    BAD,
    GOOD,
    INK,
    QUIET,
    SERIES,
    svg,
)

NAMES = {
    "errors": "errors and fallbacks",
    "empties": "empty answers",
    "slow_p50": "slow (p50)",
    "slow_p99": "very slow (p99)",
    "overlap": "sameness (coverage)",
}


def course(changes: Sequence[Entry], looks: Sequence[Decision], at: datetime) -> Markup:
    """Share of shoppers with the new model, and its gain with the interval that was seen at each look."""
    figure = Figure(figsize=(12.4, 4.8))
    weight, gain = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.7))
    _weight(weight, changes, at)
    _gain(gain, looks)
    begin = changes[0].at
    gain.set_xlim(begin, max(at, begin + timedelta(hours=1)))
    _time_axis(gain)
    figure.subplots_adjust(hspace=0.18)
    return svg(figure)


def share(rollout: Rollout, opened: Rollout) -> float:
    """Share of shoppers that meet the new model: all once it is champion. `opened` is the experiment's first state."""
    assert rollout.champion is not None and opened.challenger is not None
    promoted = rollout.champion.recipe_digest == opened.challenger.recipe_digest
    return 1.0 if promoted else rollout.weight if rollout.salt == opened.salt else 0.0


def _weight(ax: Any, changes: Sequence[Entry], at: datetime) -> None:
    times = [entry.at for entry in changes] + [at]
    shares = [share(entry.rollout, changes[0].rollout) for entry in changes]
    shares.append(shares[-1])
    ax.step(times, shares, where="post", color=SERIES[0], linewidth=2)
    ax.fill_between(times, shares, step="post", color=SERIES[0], alpha=0.12, linewidth=0)
    for time, here, before in zip(times[:-1], shares[:-1], [None, *shares[:-2]], strict=True):
        if here != before:
            ax.annotate(f"{here:.0%}", (time, here), xytext=(3, 3), textcoords="offset points", fontsize=9, color=INK)
    ax.set_ylim(0, 1.25)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_yticks([0, 0.5, 1])
    _quiet(ax, "shoppers with the new model")


def _gain(ax: Any, looks: Sequence[Decision]) -> None:
    known = [look for look in looks if look.evidence["outcome"]["low"] is not None]
    times = [look.at for look in known]
    middle, low, high = ([100 * look.evidence["outcome"][end] for look in known] for end in ("estimate", "low", "high"))
    ax.axhline(0, color=INK, linewidth=0.8)
    _quiet(ax, "gain in success rate, points")
    if not known:
        ax.set_yticks([0])
        ax.text(0.5, 0.6, "not compared yet: too few shoppers", transform=ax.transAxes, ha="center", color=QUIET)
        return
    colour = GOOD if low[-1] > 0 else BAD if high[-1] < 0 else QUIET
    ax.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0, step="post")
    ax.plot(times, middle, color=colour, linewidth=2, drawstyle="steps-post")
    ax.plot([times[-1]] * 2, [low[-1], high[-1]], color=colour, linewidth=2.5)
    ax.plot(times[-1], middle[-1], "o", color=colour, markersize=6)
    # The first intervals are so wide that they would hide the later ones.
    span = 3 * max(abs(low[-1]), abs(high[-1]))
    ax.set_ylim(-span, span)


def guardrails(looks: Sequence[Decision]) -> Markup:
    """Each guardrail at each look: the champion's share of bad exposures, the challenger's, and what is allowed."""
    figure = Figure(figsize=(12.4, 4.0))
    panels = figure.subplots(2, 3, sharex=True).ravel()
    panels[-1].axis("off")
    for ax, (name, title) in zip(panels, NAMES.items(), strict=False):
        found = [(look.at, row) for look in looks for row in look.evidence["guardrails"] if row["name"] == name]
        times = [time for time, _ in found]
        breached = bool(found) and found[-1][1]["breached"]
        # Dashed and thin below the challenger's line: the limit, the peer, and then what it is about.
        ax.plot(times, [row["allowed"] for _, row in found], "--", color=BAD, linewidth=1.2, label="allowed")
        ax.plot(times, [row["champion"] for _, row in found], color=QUIET, linewidth=1.4, label="champion")
        ax.plot(times, [row["challenger"] for _, row in found], color=SERIES[0], linewidth=2, label="challenger")
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02, y=0.25)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        _quiet(ax, f"{title}: BREACHED" if breached else title, BAD if breached else QUIET)
        _time_axis(ax)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].legend(handles[::-1], labels[::-1], loc="center", frameon=False, fontsize=10)
    figure.subplots_adjust(hspace=0.35, wspace=0.3)
    return svg(figure)


def _quiet(ax: Any, title: str, colour: str = QUIET) -> None:
    ax.set_title(title, fontsize=10, color=colour, loc="left", fontweight="bold" if colour == BAD else "normal")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c3cad4")
    ax.tick_params(colors=QUIET, labelsize=9)


def _time_axis(ax: Any) -> None:
    locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
