"""Loads a file of tests a second time, to run them under other circumstances."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_tests(file: Path, circumstances: str) -> ModuleType:
    """Return a new module of this file, whose name ends with the circumstances."""
    spec = importlib.util.spec_from_file_location(f"{file.stem}_{circumstances}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
