import json
import subprocess
import sys
from dataclasses import replace

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import pipelines.__main__
import serving.__main__
from pipelines import program
from pipelines.check import CheckReport
from pipelines.version import version
from runtime.decision import Decision, Reason


def completions(*words: str, incomplete: str = "") -> set[str]:
    return {
        item.value
        for item in ShellComplete(program.program(), {}, "heterrec", "_X").get_completions(list(words), incomplete)
    }


def test_every_command_of_the_programs_is_a_command_once():
    own = [program._with_help(module._parser()) for module in (pipelines.__main__, serving.__main__)]
    assert len(program.program().commands) == sum(len(commands) for commands in own) + 1
    assert {"--port", "--allow-changes"} <= {*completions("console", incomplete="--")}


def test_commands_and_their_options_are_completed():
    assert {"run", "serve", "gateway", "experiment"} <= completions()
    assert {"--dataset", "--recipe", "--blocked-fails"} <= completions("run", incomplete="--")
    assert completions("experiment", incomplete="roll") == {"rollback"}
    assert "--why" in completions("experiment", "rollback", incomplete="--")


def test_the_version_is_the_projects():
    assert CliRunner().invoke(program.program(), ["--version"]).output.startswith(f"heterrec {version()} (")


@pytest.mark.parametrize(
    ("arguments", "status"), [(["run", "--nosuch"], 2), (["status", "--last", "0"], 0), (["check", "no.yaml"], 2)]
)
def test_a_command_ends_with_the_status_of_its_own_program(arguments, status, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.program", *arguments],
        capture_output=True, text=True, env={"HETERREC_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == status
    if status:
        assert "error" in done.stderr and not done.stdout, "what went wrong is not told on standard error alone"


def test_a_script_reads_what_became_of_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "shop-1"
    folder.mkdir(parents=True)
    record = {
        "task": "ingest",
        "status": "failed",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 2.0,
        "error": "no file",
    }
    (folder / "ingest.json").write_text(json.dumps(record))
    assert pipelines.__main__.main(["status", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["outcome"], run["seconds"], run["reasons"][0]["message"]) == ("failed in ingest", 2.0, "no file")


def test_a_script_reads_which_checks_did_not_hold_and_what_would_change_that(tmp_path):
    bad = Reason(
        check="events a day", held=False, found=3, allowed="5 to 9", message="few", remedy="wait", level="block"
    )
    good = replace(bad, check="prices", held=True)
    decision = Decision(gate="validate", reasons=[good, bad])
    checked = CheckReport(report={"rows": 7}, decision=decision, judges=2, plans=(), page=tmp_path / "page.html")
    found = json.loads(json.dumps(checked.as_json()))
    assert (found["passed"], found["report"], found["judges"]) == (False, {"rows": 7}, 2)
    (told,) = found["not_held"]
    assert (told["check"], told["found"], told["allowed"], told["remedy"]) == ("events a day", 3, "5 to 9", "wait")
    assert found["page"] == str(tmp_path / "page.html")


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    ("module", "command"),
    [
        (pipelines.__main__, ["rollout"]),
        (pipelines.__main__, ["recommend", "--k", "5", "--out", "lists"]),
        (pipelines.__main__, ["forget", "u1"]),
        (serving.__main__, ["rollout", "status"]),
    ],
)
def test_a_table_that_is_away_is_told_in_a_line_and_with_debug_by_its_traceback(
    module, command, debug, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.setenv("HETERREC_ROLLOUT_URL", "postgresql+psycopg://shop:s3cret@127.0.0.1:1/rollout")
    assert module.main([*command, "--dataset", "marketplace", *debug]) == 1
    told = capsys.readouterr().err
    assert "error rollout table " in told and "s3cret" not in told
    assert ("Traceback" in told) == bool(debug)
