"""The installed task metrics: the entry points of the group `finesweep.metrics`.

Built-in metrics register there, too. `backends.plugins` describes the functions and their errors.
"""

from __future__ import annotations

from backends.metrics.contract import Metric
from backends.plugins import PluginRegistry, Registration, RegistryError

__all__ = ["METRICS", "Registration", "RegistryError", "load", "missing_members", "names", "registrations"]

METRICS = PluginRegistry[Metric]("finesweep.metrics", "metric", Metric, "MetricContract")

registrations = METRICS.registrations
names = METRICS.names
load = METRICS.load
missing_members = METRICS.missing_members
