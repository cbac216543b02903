"""Code that an archive brings."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def brought(path: Path) -> ModuleType:
    """Import a file of code of an archive, under a name of its own: versions may differ in one process."""
    name = f"archive_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # a half of it would be taken for the whole by who asks next
            raise
    return sys.modules[name]
