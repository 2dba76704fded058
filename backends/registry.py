"""Which backends are installed: the entry points of the group `finesweep.backends`. Built-in ones use the same door.

Listing reads the metadata of installed distributions and imports none of them; loading imports the one asked for.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import cast

from pydantic import BaseModel

from backends.contract import Backend

GROUP = "finesweep.backends"


@dataclass(frozen=True)
class Registration:
    """An installed backend: its name in YAML, where its class is, and the distribution that brought it."""

    name: str
    target: str
    distribution: str
    version: str


class RegistryError(Exception):
    """A backend cannot be had: what is wrong (`message`), and the remedy (`hint`). The text is both."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}"


class UnknownBackend(RegistryError):  # noqa: N818  the name says what is the case, as the command line reports it
    """No distribution brings a backend of this name."""


class AmbiguousBackend(RegistryError):  # noqa: N818
    """Two distributions bring a backend of this name."""


class BrokenBackend(RegistryError):  # noqa: N818
    """The backend is installed, but cannot be imported or is no backend."""


def describe_all() -> list[Registration]:
    """Return every registration, by name; a name that two distributions claim is there twice. Imports nothing."""
    found = [_registration(each) for each in entry_points(group=GROUP)]
    return sorted(found, key=lambda each: (each.name, each.distribution, each.target))


def names() -> list[str]:
    """Return the names that `load` knows, sorted. Imports nothing."""
    return sorted({each.name for each in entry_points(group=GROUP)})


def load(name: str) -> type[Backend]:
    """Import and return a backend's class.

    Raises UnknownBackend, AmbiguousBackend, or BrokenBackend, which names the distribution and the error.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise _unknown(name)
    claims = [_registration(each) for each in found]
    if len(claims) > 1:
        brought = " and ".join(sorted(f"{each.distribution} {each.version} ({each.target})" for each in claims))
        raise AmbiguousBackend(
            f"the backend {name!r} is brought by {brought}", "Uninstall one of them, or give one another name."
        )
    loaded = _import(found[0], claims[0])
    if missing := missing_members(loaded):
        raise BrokenBackend(
            f"{_of(claims[0])} is no backend: it lacks {', '.join(missing)}",
            "backends.contract.Backend says what each member does, backends.testing.BackendContract tests it.",
        )
    return cast(type[Backend], loaded)


def missing_members(candidate: object) -> list[str]:
    """Return what a candidate lacks to be a backend class, in the protocol's order; empty where nothing is missing.

    `capabilities` belongs to instances and is not asked for.
    """
    if not inspect.isclass(candidate):
        return ["options_model", *_METHODS]
    model = getattr(candidate, "options_model", None)
    missing = [] if inspect.isclass(model) and issubclass(model, BaseModel) else ["options_model"]
    return missing + [name for name in _METHODS if not callable(getattr(candidate, name, None))]


_METHODS = tuple(
    name
    for name, member in vars(Backend).items()
    if not name.startswith("_") and isinstance(member, FunctionType | classmethod)
)


def _import(entry_point: EntryPoint, registration: Registration) -> object:
    try:
        return entry_point.load()
    except Exception as error:  # anything may go wrong in a stranger's import, and must be told as theirs
        raise BrokenBackend(
            f"{_of(registration)} cannot be imported: {type(error).__name__}: {error}",
            f"Repair or uninstall {registration.distribution}; no other backend is affected.",
        ) from error


def _unknown(name: str) -> UnknownBackend:
    installed = names()
    nearest = difflib.get_close_matches(name, installed, n=1)
    guess = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return UnknownBackend(f"there is no backend {name!r}", f"{guess}Installed: {', '.join(installed) or 'none'}.")


def _registration(entry_point: EntryPoint) -> Registration:
    distribution = entry_point.dist
    if distribution is None:
        return Registration(entry_point.name, entry_point.value, "an unnamed distribution", "")
    return Registration(entry_point.name, entry_point.value, distribution.name, distribution.version)


def _of(registration: Registration) -> str:
    origin = f"{registration.distribution} {registration.version}"
    return f"the backend {registration.name!r} of {origin} ({registration.target})"
