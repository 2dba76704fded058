"""The installed task metrics: the entry points of the group `finesweep.metrics`.

Built-in metrics register there, too. `backends.plugins` describes the functions and their errors.
"""

from __future__ import annotations

from backends.metrics.contract import Metric
from backends.plugins import PluginRegistry, RegistryError

__all__ = ["METRICS", "RegistryError", "load", "names", "registrations"]

METRICS = PluginRegistry[Metric]("finesweep.metrics", "metric", Metric, "MetricContract")

registrations = METRICS.registrations
names = METRICS.names
load = METRICS.load
