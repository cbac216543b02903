"""A step's outcome as Kubeflow's UI shows it beside the task: numbers, and a few lines of Markdown for people."""

from collections.abc import Mapping
from typing import Any

from runtime.decision import Decision

LONGEST = 300


def numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report, those one level deeper as `outer_inner`; no truth values."""
    found: dict[str, float] = {}
    for name, value in report.items():
        inner = {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        found |= {
            key: each for key, each in inner.items() if isinstance(each, int | float) and not isinstance(each, bool)
        }
    return found


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A heading and a table of two columns."""
    lines = [f"# {_plain(title)}", "", "| | |", "|---|---|"]
    return (
        "\n".join(
            [*lines, *(f"| {_plain(name.replace('_', ' '))} | {_plain(value)} |" for name, value in rows.items())]
        )
        + "\n"
    )


def decision(made: Decision) -> str:
    """A gate's answer: the outcome, what did not hold, and every check with what was found and allowed."""
    lines = [f"# {made.gate}: {'passed' if made.passed else 'blocked'}", ""]
    lines += [
        f"- **{reason.level}** {_plain(reason.message)} {_plain(reason.remedy)}"
        for reason in made.reasons
        if not reason.held
    ]
    lines += ["", "| check | held | found | allowed |", "|---|---|---|---|"]
    for reason in made.reasons:
        held = "yes" if reason.held else "**no**"
        lines.append(f"| {_plain(reason.check)} | {held} | {_plain(reason.found)} | {_plain(reason.allowed)} |")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """Text that stays in its cell and shows what it is: data is never markup."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    for mark in "\\`*_[]|<>":
        text = text.replace(mark, "\\" + mark)
    return text
