"""The bill of materials of where it runs, as CycloneDX 1.6 in JSON: `python bill.py NAME VERSION >bill.cdx.json`.

Python packages, Python itself and Debian's packages. It needs the standard library alone, so an image gets it by
standard input (scripts/images.sh). Nothing in it says when it was made: the same packages give the same file.
"""

import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
RELEASE = Path("/etc/os-release")
Component = dict[str, Any]


def component(kind: str, name: str, version: str, place: str, query: str = "") -> Component:
    """A component, known by its package URL: `place` is the type and namespace of that."""
    purl = f"pkg:{place}/{quote(name, safe='')}@{quote(version, safe='')}{query}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_packages() -> Iterator[Component]:
    """What is installed for the interpreter that runs this, and the interpreter."""
    yield component("application", "python", platform.python_version(), "generic")
    for found in metadata.distributions():
        # As package URLs have it: lower case, with dashes.
        made = component("library", re.sub(r"[-_.]+", "-", found.name).lower(), found.version, "pypi")
        yield {**made, "licenses": licenses} if (licenses := licenses_of(found.metadata)) else made


def licenses_of(told: Any) -> list[dict[str, Any]]:
    """An SPDX expression where the package has one, else what its classifiers call the licence."""
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = (each.split(" :: ") for each in told.get_all("Classifier") or [])
    return [{"license": {"name": parts[-1]}} for parts in classifiers if parts[0] == "License" and len(parts) > 2]


def debian_packages() -> Iterator[Component]:
    """What dpkg has installed; nothing where there is no dpkg."""
    if not DPKG.is_file():
        return
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', RELEASE.read_text(), re.M))
    distribution = release.get("ID", "debian")
    for entry in DPKG.read_text().split("\n\n"):
        told = dict(re.findall(r"^([\w-]+): (.*)$", entry, re.M))
        if told.get("Status", "").endswith(" installed"):
            query = f"?arch={told['Architecture']}&distro={distribution}-{release.get('VERSION_ID', '')}"
            yield component("library", told["Package"], told["Version"], f"deb/{distribution}", query)


def bill(name: str, version: str) -> dict[str, Any]:
    """All of it, of a container called so."""
    found = {each["purl"]: each for each in (*python_packages(), *debian_packages())}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "this", "name": name, "version": version}},
        "components": [found[purl] for purl in sorted(found)],
    }


if __name__ == "__main__":
    json.dump(bill(*sys.argv[1:]), sys.stdout, indent=1)
