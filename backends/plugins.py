"""Classes that distributions register as entry points: backends and task metrics.

A listing reads the metadata of installed distributions and imports no plug-in. `load` imports only
the one it returns.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

_Protocol = TypeVar("_Protocol")


@dataclass(frozen=True)
class Registration:
    """A registered class: its name in YAML, its import path, and its distribution."""

    name: str
    target: str
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """The distribution and its version, as a message names them."""
        return f"{self.distribution} {self.version}"


class RegistryError(Exception):
    """A plug-in cannot be loaded: the problem (`message`) and the remedy (`hint`).

    The text contains both.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}"


class UnknownPluginError(RegistryError):
    """No distribution provides a plug-in of this name."""


class AmbiguousPluginError(RegistryError):
    """Two distributions provide a plug-in of this name."""


class BrokenPluginError(RegistryError):
    """The plug-in is installed, but it cannot be imported or is not a class of the protocol."""


class PluginRegistry(Generic[_Protocol]):
    """The classes of an entry point group.

    `noun` is the word for one of them in messages. `protocol` is the protocol that they implement,
    and `suite` is the name of its contract suite in `backends.testing`.
    """

    def __init__(self, group: str, noun: str, protocol: type, suite: str) -> None:
        self.group = group
        self._noun = noun
        self._protocol = protocol
        self._suite = suite
        self._methods = tuple(
            name
            for name, member in vars(protocol).items()
            if not name.startswith("_") and isinstance(member, FunctionType | classmethod)
        )

    def registrations(self) -> list[Registration]:
        """Return every registration, sorted by name.

        If two distributions claim a name, it is listed twice.
        """
        found = [_registration(entry_point) for entry_point in entry_points(group=self.group)]
        return sorted(
            found, key=lambda registration: (registration.name, registration.distribution, registration.target)
        )

    def names(self) -> list[str]:
        """Return the names that `load` knows, sorted. Imports no plug-in."""
        return sorted({entry_point.name for entry_point in entry_points(group=self.group)})

    def load(self, name: str) -> type[_Protocol]:
        """Import and return a registered class.

        Raises UnknownPluginError, AmbiguousPluginError, or BrokenPluginError, which names the
        distribution and the error.
        """
        found = list(entry_points(group=self.group, name=name))
        if not found:
            raise self._unknown(name)
        claims = [_registration(entry_point) for entry_point in found]
        if len(claims) > 1:
            providers = " and ".join(sorted(f"{claim.origin} ({claim.target})" for claim in claims))
            raise AmbiguousPluginError(
                f"two distributions provide the {self._noun} {name!r}: {providers}",
                "Uninstall one of them, or give one another name.",
            )
        loaded = self._import(found[0], claims[0])
        if missing := self.missing_members(loaded):
            raise BrokenPluginError(
                f"{self._described(claims[0])} is not a {self._noun}: it lacks {', '.join(missing)}",
                f"{self._protocol.__module__}.{self._protocol.__name__} describes each member, and "
                f"backends.testing.{self._suite} tests it.",
            )
        return cast(type[_Protocol], loaded)

    def missing_members(self, candidate: object) -> list[str]:
        """Return the members of the protocol that a candidate lacks, in their order.

        Attributes of instances are not required.
        """
        if not inspect.isclass(candidate):
            return ["options_model", *self._methods]
        model: Any = getattr(candidate, "options_model", None)
        missing = [] if inspect.isclass(model) and issubclass(model, BaseModel) else ["options_model"]
        return missing + [name for name in self._methods if not callable(getattr(candidate, name, None))]

    def _import(self, entry_point: EntryPoint, registration: Registration) -> object:
        try:
            return entry_point.load()
        except Exception as error:  # the import of a plugin can raise anything, and the message must name the plugin
            raise BrokenPluginError(
                f"{self._described(registration)} cannot be imported: {type(error).__name__}: {error}",
                f"Repair or uninstall {registration.distribution}; no other {self._noun} is affected.",
            ) from error

    def _unknown(self, name: str) -> UnknownPluginError:
        installed = self.names()
        nearest = difflib.get_close_matches(name, installed, n=1)
        guess = f"Did you mean {nearest[0]!r}? " if nearest else ""
        return UnknownPluginError(
            f"there is no {self._noun} {name!r}", f"{guess}Installed: {', '.join(installed) or 'none'}."
        )

    def _described(self, registration: Registration) -> str:
        return f"the {self._noun} {registration.name!r} of {registration.origin} ({registration.target})"


def _registration(entry_point: EntryPoint) -> Registration:
    distribution = entry_point.dist
    if distribution is None:
        return Registration(entry_point.name, entry_point.value, "an unnamed distribution", "")
    return Registration(entry_point.name, entry_point.value, distribution.name, distribution.version)
