"""How `make test` gives its files out to several processes; the hooks are taken into conftest.py."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadfile import LoadFileScheduling

TOGETHER = ("pushed_home",)
"""Fixtures that take minutes: the files that name one run in one process, which makes it once."""


@cache
def unit(file: Path) -> str:
    """What the tests of `file` are given out with: the costly fixture that it names, or the file alone."""
    text = file.read_text()
    return next((fixture for fixture in TOGETHER if fixture in text), str(file))


class FilesTogether(LoadFileScheduling):
    """The tests of a file, or of all files with the same costly fixture, run in one process; none does where a file
    could not be imported."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(self.config.rootpath / super()._split_scope(nodeid))

    def schedule(self) -> None:
        # As without processes: else all others run first, and the fault is told half an hour later.
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        broken = [report.nodeid for report in terminal.stats.get("error", [])]
        if broken and not self.config.option.continue_on_collection_errors:
            pytest.exit(f"no test was run: could not be imported: {', '.join(broken)}", returncode=2)
        super().schedule()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None
