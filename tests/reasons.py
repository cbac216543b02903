"""What every check that stops or warns owes the person who reads it."""

import re

from runtime.decision import Decision


def assert_told(decision: Decision) -> None:
    """Each names itself, its numbers (or, where there are none, its words), and what would change it."""
    for reason in decision.checks:
        assert reason.check and reason.remedy, reason
        assert not re.search(r"[.;:,]$|\{|None", reason.remedy), reason.remedy
        if not reason.held and re.search(r"\d", str(reason.found)):
            assert re.search(r"\d|expected", reason.message), reason.message
