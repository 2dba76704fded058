"""Examine prepared data thoroughly: the slow checks."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.data.checks import THOROUGH
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding


@dataclass(frozen=True)
class Examination:
    """What the thorough checks found."""

    findings: tuple[Finding, ...]


def examine(view: DataView) -> Examination:
    """Run all thorough checks."""
    return Examination(tuple(finding for check in THOROUGH for finding in check(view)))
