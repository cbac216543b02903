"""requirements.lock pins every package by version and by the digests of its files, which uv compares."""

import re

from runtime.workspace import ROOT

LOCK = (ROOT / "requirements.lock").read_text()


def test_every_package_is_pinned_with_the_digests_of_its_files():
    entries = re.findall(
        r"^([a-z][\w.-]*(?:\[[\w,-]+\])?==\S+)( \\)?\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", LOCK, re.M
    )
    assert len(entries) > 200
    assert len(entries) == len(re.findall(r"^[a-z]", LOCK, re.M)), "a line that is none"
    assert not [name for name, _, digests in entries if not digests]


def test_what_comes_with_torch_is_not_in_it():
    """torch is chosen for the machine (scripts/setup.sh), and what it brings for GPUs comes with it."""
    assert not re.findall(r"^(?:torch|triton|nvidia-\w+|cuda-\w+)==", LOCK, re.M)


def test_the_installation_holds_files_against_it():
    """uv compares digests that constraints name; a flag that turns this off must not appear."""
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    assert "--constraints requirements.lock" in setup
    assert "--no-verify-hashes" not in setup
