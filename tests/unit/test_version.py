"""One version for the program, the wheel and the images: of a clone with tags, made by git itself."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipelines import version as told
from runtime import workspace

ROOT = workspace.ROOT
TOLD = (
    "pipelines/version.py",
    "scripts/wheel.py",
    "scripts/images.sh",
    "scripts/bill.py",
    "k8s/images/Dockerfile",
    "pyproject.toml",
    "LICENSE",
    "docs/notebook.md",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of the files that tell a version, at number 9.8.7."""
    for name in (*TOLD, "heterrec/evaluation/metrics.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    pyproject = tmp_path / "pyproject.toml"
    number = tomllib.loads(pyproject.read_text())["project"]["version"]
    pyproject.write_text(pyproject.read_text().replace(f'version = "{number}"', 'version = "9.8.7"', 1))
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(clone: Path, *arguments: str) -> str:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=clone, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(clone: Path) -> str:
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "a change")
    return git(clone, "rev-parse", "--short=12", "HEAD")


def wheel(clone: Path) -> str:
    """The version in the name of the wheel, which its own metadata says too."""
    done = subprocess.run(
        [sys.executable, "scripts/wheel.py", str(clone / "build")], cwd=clone, capture_output=True, text=True,
        env={"PYTHONPATH": str(clone), "PATH": "/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    name = Path(done.stdout.strip())
    of = name.name.split("-")[1]
    metadata = zipfile.ZipFile(name).read(f"heterrec-{of}.dist-info/METADATA").decode()
    assert f"\nVersion: {of}\n" in metadata
    shutil.rmtree(clone / "build")
    return of


def image(clone: Path) -> str:
    """The tag of the image that `make images` would build, by an engine that only says what it was told."""
    engine = clone.parent / "bin" / "buildah"
    engine.parent.mkdir(exist_ok=True)
    engine.write_text('#!/bin/sh\necho "$@" >&2\n')
    engine.chmod(0o755)
    path = f"{engine.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "scripts/images.sh", "serve"], cwd=clone, capture_output=True, text=True,
        env={"ENGINE": "buildah", "PATH": path}, check=True,
    )  # fmt: skip
    shutil.rmtree(clone / "build")
    return done.stderr.split("--tag ")[1].split()[0].removeprefix("localhost/heterrec-serve:")


@pytest.mark.parametrize("annotated", [[], ["-a", "-m", "a release"]])
def test_program_wheel_and_images_have_the_version_of_the_tag_and_then_the_commit(
    clone: Path, annotated: list[str]
) -> None:
    assert (told.version(clone), wheel(clone)) == ("9.8.7", "9.8.7"), "before any tag: the number"
    assert image(clone) == git(clone, "rev-parse", "--short=12", "HEAD")
    git(clone, "tag", *annotated, "v9.8.7")
    git(clone, "tag", "something-else")
    assert [told.version(clone), wheel(clone), image(clone)] == ["9.8.7"] * 3
    (clone / "LICENSE").write_text("changed")
    dirty = git(clone, "rev-parse", "--short=12", "HEAD")
    assert told.version(clone) == f"9.8.7.post0+g{dirty}.dirty" and image(clone) == f"{dirty}-dirty"
    later = commit(clone)
    assert told.version(clone) == wheel(clone) == f"9.8.7.post1+g{later}" and image(clone) == later


def test_a_tag_that_is_not_the_number_of_the_sources_makes_nothing(clone: Path) -> None:
    git(clone, "tag", "v9.9.0")
    with pytest.raises(told.WrongTag, match=r"tag v9\.9\.0: pyproject\.toml says 9\.8\.7"):
        told.version(clone)
    for making in (wheel, image):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            making(clone)
        assert "pyproject.toml says 9.8.7" in failed.value.stderr


def test_without_git_it_is_the_number(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert told.version(clone) == "9.8.7"


def test_citation_and_changelog_know_the_number() -> None:
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {number}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {number}\n" in (ROOT / "CHANGELOG.md").read_text()
