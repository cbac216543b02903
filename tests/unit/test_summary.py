"""Markdown for the UI: data stays data, and stays in its cell."""

from components.shared.summary import decision, numbers, table
from runtime.decision import Decision, Reason


def test_numbers_are_found_one_level_deep_and_truth_is_none():
    report = {"rows": 3, "passed": True, "name": "x", "split": {"train": 2, "kind": "y"}, "curve": [1, 2], "loss": 0.5}
    assert numbers(report) == {"rows": 3, "split_train": 2, "loss": 0.5}


def test_data_is_never_markup_and_never_leaves_its_cell():
    text = table("a | b", {"<script>": "one\ntwo | [x](javascript:y) `z`", "long": "w" * 1000})
    *_, script, long = text.strip().split("\n")
    assert script == r"| \<script\> | one two \| \[x\](javascript:y) \`z\` |"
    assert len(long) < 400
    assert "…" in long


def test_a_decision_tells_what_did_not_hold_first():
    held = Reason(check="fast", held=True, found=0.123456, allowed=1, message="", remedy="none")
    broken = Reason(
        check="golden", held=False, found="2 differ", allowed="none", message="2 of 9 answers differ", remedy="none"
    )
    lines = decision(Decision(gate="infra_validate", reasons=[held, broken])).split("\n")
    assert lines[0] == "# infra_validate: blocked"
    assert lines[2] == "- **block** 2 of 9 answers differ none"
    assert "| fast | yes | 0.1235 | 1 |" in lines
    assert "| golden | **no** | 2 differ | none |" in lines
