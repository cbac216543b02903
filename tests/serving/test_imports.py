"""What each process of serving loads: a gateway and a consumer read and write, and do no arithmetic of models."""

import json
import subprocess
import sys

import pytest

from components.workspace import ROOT

PROCESSES = {
    "gateway and consumer": (
        *("serving.run_gateway", "serving.gateway", "serving.run_consumer", "serving.consumer", "serving.eventlog"),
        *("feature_repo.store", "feature_repo.online"),
    ),
    "reconciler": ("serving.run_torchserve", "serving.releases"),
}
"""Modules of each, and packages with all that is in them: what a process imports late, it imports too."""
CODE = """
import importlib, json, pkgutil, resource, sys
for name in sys.argv[1:]:
    found = importlib.import_module(name)
    for each in pkgutil.iter_modules(getattr(found, "__path__", [])):
        importlib.import_module(f"{name}.{each.name}")
print(json.dumps({"modules": sorted(sys.modules), "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_that_serves_no_model_loads_no_torch(process):
    command = [sys.executable, "-c", CODE, *PROCESSES[process]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])["modules"]}
    assert not loaded & {"torch", "heterrec", "mlflow", "great_expectations", "kfp", "matplotlib"}


def test_torch_can_be_had_after_feast():
    """It is kept out while Feast is imported, and only then."""
    command = [sys.executable, "-c", "import feature_repo.store, torch; torch.zeros(1)"]
    subprocess.run(command, cwd=ROOT, check=True)
