"""The installed backends: the entry points of the group `finesweep.backends`.

Built-in backends register there, too. `backends.plugins` describes the functions and their errors.
"""

from __future__ import annotations

from backends.contract import Backend
from backends.plugins import PluginRegistry, Registration, RegistryError

__all__ = ["BACKENDS", "Registration", "RegistryError", "load", "missing_members", "names", "registrations"]

BACKENDS = PluginRegistry[Backend]("finesweep.backends", "backend", Backend, "BackendContract")

registrations = BACKENDS.registrations
names = BACKENDS.names
load = BACKENDS.load
missing_members = BACKENDS.missing_members
