"""One way to open DuckDB and to spell what others named."""

import re
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sql import (
    literal,
    literals,
    quoted,
    session,
)
from runtime.workspace import ROOT

ROOMS = ("runtime", "feature_repo", "heterrec", "marketplace", "events", "experiments", "serving", "components",
         "pipelines", "console")  # fmt: skip
REACHED = {"components/features/join.py", "components/features/splits.py", "feature_repo/asof_store.py"}
"""Their syntax is part of what a recipe is (`recipe_digest`): put otherwise, each champion would meet a candidate that
computes the same. To be emptied with the next change of what they compute."""
BY_HAND = re.compile(r"""duckdb\.connect|\.replace\(("'"|'"'), ("''"|'""')\)""")
"""A session of one's own, and a quote doubled in place."""


def test_nothing_else_opens_duckdb_or_doubles_a_quote() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if BY_HAND.search(path.read_text())}
    assert found - {"runtime/sql.py"} == REACHED


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_whatever_somebody_named_comes_back_as_it_was(text: str) -> None:
    with duckdb.connect() as db:
        answer = db.execute(f"SELECT {literal(text)} AS {quoted(text)}, [{literals([text, text])}]")
        assert answer.description is not None and answer.description[0][0] == text
        assert answer.fetchall() == [(text, [text, text])]


def test_a_session_is_bounded_in_utc_and_fetches_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with session("100MB") as db:
        names = ("memory_limit", "TimeZone", "autoinstall_known_extensions", "temp_directory")
        asked = ", ".join(f"current_setting({literal(name)})" for name in names)
        ((memory, zone, fetches, spill),) = db.execute(f"SELECT {asked}").fetchall()
        assert (memory, zone, fetches) == ("95.3 MiB", "UTC", False)
        assert Path(spill).is_dir()
    assert not Path(spill).exists()
