"""Copies of sealed artifacts that share their bytes where the file system allows."""

import os
import shutil


def link_or_copy(source: str, target: str) -> None:
    """`copy_function` of `shutil.copytree`: a hard link, or the content where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
