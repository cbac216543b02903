"""scripts/bill.py names all that is installed where it runs; seen on this very machine."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from runtime.workspace import ROOT
from scripts.bill import component


@cache
def bill() -> dict[str, Any]:
    """As an image gets it: by standard input."""
    command = [sys.executable, "-", "shop/train:1", "1.2.3"]
    done = subprocess.run(command, stdin=(ROOT / "scripts/bill.py").open(), capture_output=True, check=True)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def of(kind: str) -> dict[str, str]:
    return {each["name"]: each["version"] for each in bill()["components"] if each["purl"].startswith(f"pkg:{kind}/")}


def test_every_python_package_is_in_it_with_its_version():
    # Of another process: some libraries put their own copies of packages on the path of this one.
    ask = (
        "from importlib.metadata import distributions; import json; "
        "print(json.dumps({each.name: each.version for each in distributions()}))"
    )
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout
    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(told).items()}
    assert len(installed) > 200 and of("pypi") == installed
    assert of("generic") == {"python": ".".join(map(str, sys.version_info[:3]))}


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no Debian")
def test_every_debian_package_is_in_it():
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    installed = dict(line.split()[1:] for line in lines if line.startswith("installed "))
    assert len(installed) > 50 and of("deb") == installed


def test_it_is_cyclonedx_and_the_same_each_time():
    made = bill()
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"] == {
        **{"type": "container", "bom-ref": "this", "name": "shop/train:1", "version": "1.2.3"}
    }
    references = [each["bom-ref"] for each in made["components"]]
    assert references == sorted(set(references)), "each is there once, in an order that nothing else decides"
    assert not re.search(r"timestamp|serialNumber", json.dumps(made))


def test_a_local_version_is_spelt_as_package_urls_want_it():
    assert component("library", "torch", "2.13.0+cpu", "pypi")["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
