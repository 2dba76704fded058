"""Named search spaces, made of recommendations: library/*.yaml, which contain no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

_SUFFIX = ".yaml"


@dataclass(frozen=True)
class LibrarySpace:
    """A named space: its purpose in one sentence, and the mapping that replaces `use: NAME`."""

    name: str
    description: str
    space: Mapping[str, Any]


@cache
def names() -> tuple[str, ...]:
    """Return the names of all packaged spaces, sorted."""
    files = resources.files("search_spaces").joinpath("library").iterdir()
    return tuple(sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX)))


@cache
def load(name: str) -> LibrarySpace:
    """Return a packaged space. Raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(name)
    file = resources.files("search_spaces").joinpath("library", name + _SUFFIX)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return LibrarySpace(name, content["description"], content["space"])
