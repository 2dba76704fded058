"""The installed backends: the entry points of the group `finesweep.backends`.

Built-in backends register there, too.

A listing reads the metadata of installed distributions and imports no backend. `load` imports only
the one it returns.
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
    """A registered backend: its name in YAML, its import path, and its distribution."""

    name: str
    target: str
    distribution: str
    version: str


class RegistryError(Exception):
    """A backend cannot be loaded: the problem (`message`) and the remedy (`hint`).

    The text contains both.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}"


class UnknownBackendError(RegistryError):
    """No distribution provides a backend of this name."""


class AmbiguousBackendError(RegistryError):
    """Two distributions provide a backend of this name."""


class BrokenBackendError(RegistryError):
    """The backend is installed, but it cannot be imported or is not a backend class."""


def registrations() -> list[Registration]:
    """Return every registration, sorted by name.

    If two distributions claim a name, it is listed twice.
    """
    found = [_registration(entry_point) for entry_point in entry_points(group=GROUP)]
    return sorted(found, key=lambda registration: (registration.name, registration.distribution, registration.target))


def names() -> list[str]:
    """Return the names that `load` knows, sorted. Imports no backend."""
    return sorted({entry_point.name for entry_point in entry_points(group=GROUP)})


def load(name: str) -> type[Backend]:
    """Import and return the class of a backend.

    Raises UnknownBackendError, AmbiguousBackendError, or BrokenBackendError, which names the
    distribution and the error.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise _unknown(name)
    claims = [_registration(entry_point) for entry_point in found]
    if len(claims) > 1:
        providers = " and ".join(sorted(f"{claim.distribution} {claim.version} ({claim.target})" for claim in claims))
        raise AmbiguousBackendError(
            f"two distributions provide the backend {name!r}: {providers}",
            "Uninstall one of them, or give one another name.",
        )
    backend_class = _import(found[0], claims[0])
    if missing := missing_members(backend_class):
        raise BrokenBackendError(
            f"{_described(claims[0])} is not a backend: it lacks {', '.join(missing)}",
            "backends.contract.Backend describes each member, and backends.testing.BackendContract tests it.",
        )
    return cast(type[Backend], backend_class)


def missing_members(candidate: object) -> list[str]:
    """Return the members that a candidate for a backend class lacks, in protocol order.

    `capabilities` belongs to instances and is not required.
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
    except Exception as error:  # the import of a plugin can raise anything, and the message must name the plugin
        raise BrokenBackendError(
            f"{_described(registration)} cannot be imported: {type(error).__name__}: {error}",
            f"Repair or uninstall {registration.distribution}; no other backend is affected.",
        ) from error


def _unknown(name: str) -> UnknownBackendError:
    installed = names()
    nearest = difflib.get_close_matches(name, installed, n=1)
    guess = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return UnknownBackendError(f"there is no backend {name!r}", f"{guess}Installed: {', '.join(installed) or 'none'}.")


def _registration(entry_point: EntryPoint) -> Registration:
    distribution = entry_point.dist
    if distribution is None:
        return Registration(entry_point.name, entry_point.value, "an unnamed distribution", "")
    return Registration(entry_point.name, entry_point.value, distribution.name, distribution.version)


def _described(registration: Registration) -> str:
    origin = f"{registration.distribution} {registration.version}"
    return f"the backend {registration.name!r} of {origin} ({registration.target})"
