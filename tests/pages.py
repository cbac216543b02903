"""What holds of every page that the program writes, whoever renders it."""

import re
from pathlib import Path

_NAMESPACES = re.compile(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', re.DOTALL)
"""Names that look like addresses and are never asked for."""
_ADDRESS = re.compile(r"""(?:https?:)?//[a-z0-9-]+\.[a-z0-9.-]+""", re.IGNORECASE)
_LINK = re.compile(r"""(?:src|href)\s*=\s*["']([^"'#][^"'#]*)""")


def pages(folder: Path) -> list[Path]:
    """Every page below `folder`."""
    return sorted(folder.rglob("*.html"))


def assert_offline(page: Path) -> None:
    """It names nothing of the network, and what it links to is there."""
    html = _NAMESPACES.sub("", page.read_text())
    assert not _ADDRESS.findall(html), f"{page}: {_ADDRESS.findall(html)[:3]}"
    for link in _LINK.findall(html):
        assert (page.parent / link).exists(), f"{page}: {link}"
