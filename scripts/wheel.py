"""`make wheel`: the model library alone as a wheel, for who wants no pipeline. Needs nothing but Python.

A wheel is a zip file of the modules, METADATA, WHEEL and RECORD (the packaging specification "Binary distribution
format"). Modules of Python alone need no build, so there is no backend to fetch; the same sources give the same bytes.
"""

import base64
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path

from pipelines.version import version

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "heterrec"
_MOMENT = (1980, 1, 1, 0, 0, 0)
"""Of every file: a wheel's bytes say what it holds, not when it was made."""


def build(folder: Path) -> Path:
    """Write `heterrec-VERSION-py3-none-any.whl` into `folder` and return its path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    number = version()
    about = f"{PACKAGE}-{number}.dist-info"
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
    files |= {
        f"{PACKAGE}/py.typed": b"",
        f"{about}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
        f"{about}/METADATA": _metadata(project, number).encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: heterrec\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PACKAGE}-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, _MOMENT)
            info.external_attr, info.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            wheel.writestr(info, content)
    return path


def _metadata(project: dict[str, dict[str, object]], number: str) -> str:
    about, groups = project["project"], project["dependency-groups"]
    needed = groups["model"]
    assert isinstance(needed, list)
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {PACKAGE}",
        f"Version: {number}",
        "Summary: HeterRec, sequential recommendation from two tables: features and IDs as tokens, beside a memory",
        f"License-Expression: {about['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {about['requires-python']}",
        # What the project is tested with is the least; what comes later is not forbidden.
        *(f"Requires-Dist: {each.replace('==', '>=')}" for each in needed),
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join([*lines, "", (ROOT / "docs" / "notebook.md").read_text()])


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"))
