"""Checks of the data before anything is spent on it: pure functions, examples -> findings.

A check never opens a file. The structural checks of `examples` are run on every preparation, and
their errors prevent the sweep from starting. Those of `THOROUGH` take seconds; `examination` runs
them once for each content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding

THOROUGH: tuple[Callable[[DataView], Iterator[Finding]], ...] = ()
"""The checks that compare texts, and fit small models. Add new ones here."""
