"""Fills the console's templates; data is always escaped."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2

from runtime.page import DASH, environment

FOLDER = Path(__file__).parent / "templates"


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits."""
    if moment is None:
        return DASH
    return f"{lasting((datetime.now(UTC) - moment).total_seconds())} ago"


def lasting(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return DASH
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0):.1f} s"


def day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def span(value: timedelta) -> str:
    return lasting(value.total_seconds())


_environment = environment().overlay(loader=jinja2.FileSystemLoader(FOLDER))
_environment.filters |= {
    "ago": ago, "lasting": lasting, "day": day, "span": span,
}  # fmt: skip


def render(name: str, **values: Any) -> str:
    """The template `name` with `values`."""
    return _environment.get_template(name).render(**values)
