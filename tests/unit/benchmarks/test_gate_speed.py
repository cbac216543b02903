from benchmarks.gate.speed import made_up


def test_the_made_up_events_are_an_artifact_that_the_gate_takes(tmp_path):
    """The contract of events moves; what a benchmark writes by itself has to move with it."""
    rows = made_up(tmp_path / "made_up", 60_000)
    assert [row["step"] for row in rows] == ["validate", "validate again"]
