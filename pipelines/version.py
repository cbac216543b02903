"""The project's version, for `heterrec --version`, the wheel and the images alike: the tag of a release, and after it
the commit too.

`python pipelines/version.py` prints it, `--image` as a tag of images. Needs nothing but Python; git where there is one.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_DESCRIBED = re.compile(r"v(?P<number>.+)-(?P<since>\d+)-g(?P<commit>[0-9a-f]+)(?P<dirty>-dirty)?")


class WrongTag(ValueError):
    """The tag of this commit is not the number that the sources give themselves."""


def version(root: Path = ROOT) -> str:
    """`1.2.3` at the clean tag v1.2.3, `1.2.3.post4+g0123456789ab` four commits later (".dirty" with changes beside);
    before any tag, and where no git is at hand, as in an image, the number of pyproject.toml.

    Raises `WrongTag`: a release has one number.
    """
    number = str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])
    found = _DESCRIBED.fullmatch(
        _git(root, "describe", "--tags", "--long", "--dirty", "--abbrev=12", "--match=v[0-9]*")
    )
    if found is None:
        return number
    if found["since"] == "0" and not found["dirty"]:
        if found["number"] != number:
            raise WrongTag(
                f"tag v{found['number']}: pyproject.toml says {number}. Set its version and tag that commit: "
                "CONTRIBUTING.md says how a release is made"
            )
        return number
    dirty = ".dirty" if found["dirty"] else ""
    return f"{found['number']}.post{found['since']}+g{found['commit']}{dirty}"


def image_tag(root: Path = ROOT) -> str:
    """The version of a release; else the commit, since a tag of images may hold no `+`."""
    found = version(root)
    released = _git(root, "describe", "--tags", "--exact-match", "--dirty", "--match=v[0-9]*")
    return (
        found
        if released == f"v{found}"
        else _git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    )


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where there is no git, or no such tag."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        print(image_tag() if "--image" in sys.argv[1:] else version())
    except WrongTag as error:
        sys.exit(f"error {error}")
