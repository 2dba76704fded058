"""Paths in options and hyperparameters, as absolute paths: a worker may run in another folder.

A backend declares them. An option of type `pathlib.Path` (also `pydantic.FilePath` and
`DirectoryPath`, in lists, mappings and nested models) is always a path. A text option marked with
`MayBePath`, and a hyperparameter with `may_be_path`, can also be another name, such as a hub id: it
is a path if something lies there, or if it begins like one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class MayBePath:
    """Marks a text option: `tokenizer: Annotated[str | None, MayBePath()] = None`."""


def absolute_name(name: str) -> str:
    """Return a text that may be a path: absolute if it is one, else unchanged.

    Relative means relative to the current folder, and `~` is the home folder. Links stay.
    """
    path = Path(os.path.expanduser(name))
    is_path = name.startswith((".", "/", "~")) or (name != "" and ":" not in name and os.path.lexists(path))
    return os.path.abspath(path) if is_path and "\0" not in name else name


def with_absolute_paths(options: _Model) -> _Model:
    """Return a copy of a backend's options in which every path is absolute."""
    changes = {}
    for name, field in type(options).model_fields.items():
        marked = any(isinstance(mark, MayBePath) for mark in field.metadata)
        value = getattr(options, name)
        if (changed := _absolute(value, marked=marked)) is not value:
            changes[name] = changed
    return options.model_copy(update=changes) if changes else options


def _absolute(value: Any, *, marked: bool) -> Any:
    """Return the value with its paths absolute, or the same object if it holds none."""
    if isinstance(value, BaseModel):
        return with_absolute_paths(value)
    if isinstance(value, Path):
        return Path(os.path.abspath(os.path.expanduser(value)))
    if isinstance(value, str):
        return absolute_name(value) if marked else value
    if isinstance(value, list | tuple | set | frozenset):
        items = [_absolute(item, marked=marked) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)
    if isinstance(value, Mapping):
        entries = {key: _absolute(item, marked=marked) for key, item in value.items()}
        return value if all(entries[key] is value[key] for key in entries) else entries
    return value
