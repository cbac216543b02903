"""What each process of serving loads: a gateway and a consumer read and write, and do no arithmetic of models."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from runtime.workspace import ROOT

PROCESSES = {
    "gateway and consumer": (
        *("serving.run_gateway", "serving.gateway", "events.consumer.command", "events.consumer", "events"),
        *("feature_repo.store", "feature_repo.online"),
    ),
    "reconciler": ("serving.run_torchserve", "serving.releases"),
    "model": (
        *("serving.scoring", "serving.torchserve", "serving.plain", "components.infra_validate.step"),
        *("kfp.dsl.executor_main", "torch.export", "faiss", "ts.model_server", "s3fs"),
    ),
}
"""Modules of each, and packages with all that is in them: what a process imports late, it imports too."""
CODE = """
import importlib, json, pathlib, pkgutil, sys
for name in sys.argv[1:]:
    found = importlib.import_module(name)
    ours = "site-packages" not in str(found.__file__)
    for each in pkgutil.iter_modules(getattr(found, "__path__", [])) if ours else []:
        if each.name != "__main__":
            importlib.import_module(f"{name}.{each.name}")
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
files |= {line.split()[-1] for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if line.count("/")}
print(json.dumps({"modules": sorted(sys.modules), "files": sorted(filter(None, files))}))
"""


@cache
def loaded(process: str) -> dict[str, list[str]]:
    """Modules, and files of modules and shared libraries, of a process that imported all that is named."""
    command = [sys.executable, "-c", CODE, *PROCESSES[process]]
    # As in a container of Kubeflow's, where its SDK leaves out what asks a server.
    told = {**os.environ, "_KFP_RUNTIME": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=told)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("process", ["gateway and consumer", "reconciler"])
def test_a_process_that_serves_no_model_loads_no_torch(process):
    modules = {name.partition(".")[0] for name in loaded(process)["modules"]}
    assert not modules & {"torch", "heterrec", "mlflow", "great_expectations", "kfp", "matplotlib"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shared libraries are found by Linux's /proc")
@pytest.mark.parametrize("process", PROCESSES)
def test_what_images_leave_out_no_process_loads(process, tmp_path):
    """scripts/slim.sh, run where each file that was loaded lies as an empty one."""
    packages = Path(sysconfig.get_paths()["purelib"]).resolve()
    paths = {Path(each).resolve() for each in loaded(process)["files"]}
    files = [path.relative_to(packages) for path in paths if path.is_relative_to(packages)]
    assert len(files) > 100
    scripts, shadow = tmp_path / "scripts", tmp_path / ".venv/lib/python3.11/site-packages"
    scripts.mkdir()
    (scripts / "slim.sh").symlink_to(ROOT / "scripts/slim.sh")
    for path in (*files, Path("feast/ui/page.html"), Path("torch/test/test_x")):
        (shadow / path).parent.mkdir(parents=True, exist_ok=True)
        (shadow / path).touch()
    uv = tmp_path / ".venv/bin/uv"
    uv.parent.mkdir()
    uv.symlink_to("/bin/true")
    subprocess.run([str(scripts / "slim.sh")], check=True)
    assert not [str(path) for path in files if not (shadow / path).exists()]
    assert not (shadow / "feast/ui").exists() and not (shadow / "torch/test").exists(), "it does take something out"


@pytest.mark.parametrize(("image", "process"), [("serve", "model"), ("serve", "reconciler")])
def test_packages_that_an_image_does_without_are_imported_by_nobody(image, process):
    """They are named where the Dockerfile calls scripts/slim.sh."""
    stage = (ROOT / "k8s/images/Dockerfile").read_text().partition(f"AS {image}-packages\n")[2].partition("\nFROM")[0]
    without = set(re.search(r"^RUN scripts/slim\.sh (.+)$", stage, re.M)[1].split())
    of = metadata.packages_distributions()
    modules = {name.partition(".")[0] for name in loaded(process)["modules"]}
    assert not {name for name in modules if without & {each.lower() for each in of.get(name, [])}}
    assert without <= {each.lower() for names in of.values() for each in names}, "a package that there is"


def test_torch_can_be_had_after_feast():
    """It is kept out while Feast is imported, and only then."""
    command = [sys.executable, "-c", "import feature_repo.store, torch; torch.zeros(1)"]
    subprocess.run(command, cwd=ROOT, check=True)
