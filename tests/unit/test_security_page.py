"""docs/security.md speaks of what is there: secrets, ports and the count of packages, read from their own places."""

import re

import yaml

from runtime.workspace import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
MANIFESTS = [
    document
    for path in (ROOT / "k8s").rglob("*.yaml")
    for document in yaml.safe_load_all(path.read_text())
    if isinstance(document, dict)
]


def references(tree: object) -> set[str]:
    """Names of all Secrets that a document refers to, in environment or volumes."""
    if isinstance(tree, list):
        return set().union(*map(references, tree))
    if not isinstance(tree, dict):
        return set()
    own = {tree["secretName"]} if "secretName" in tree else set()
    own |= {tree["secretKeyRef"]["name"]} if "secretKeyRef" in tree else set()
    return own.union(*map(references, tree.values()))


def test_it_names_every_secret_and_no_other():
    told = PAGE.partition("## Secrets\n")[2].partition("## ")[0].partition(": `")[2].partition(". Runs")[0]
    of_runs = {
        secret["name"]
        for path in (ROOT / "k8s/overlays").glob("*/cluster.yaml")
        for secret in yaml.safe_load(path.read_text())["secrets"]
    }
    assert set(re.findall(r"([a-z][a-z-]+)`", told)) == references(MANIFESTS) | of_runs


def test_it_names_every_port_that_a_container_opens():
    table = PAGE.partition("## Who reaches what")[2].partition("\n## ")[0]
    named = set(map(int, re.findall(r"\b(\d{4})\b", table)))
    opened = {port for document in MANIFESTS for port in ports(document)}
    assert opened and opened <= named, opened - named


def ports(tree: object) -> set[int]:
    if isinstance(tree, list):
        return set().union(*map(ports, tree))
    if not isinstance(tree, dict):
        return set()
    own = {int(tree["containerPort"])} if "containerPort" in tree else set()
    return own.union(*map(ports, tree.values()))


def test_it_counts_the_packages_that_are_asked_for():
    count = len(re.findall(r"^[a-z][^ ]*==", (ROOT / "requirements.lock").read_text(), re.M))
    assert f"the {count} packages of `requirements.lock`" in PAGE
