"""The strict gate: with `--strict`, a warning stops a sweep before anything is spent. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sweeps.data import Finding
from sweeps.errors import Problem, UserInputError


def refused_warnings(findings: Iterable[Finding], accepted: Collection[str] = ()) -> list[Problem]:
    """Return a problem for each warning whose code is not accepted."""
    return [
        Problem(finding.place, finding.message, _remedy(finding), finding.code)
        for finding in findings
        if finding.severity == "warning" and finding.code not in accepted
    ]


def stop_at_warnings(findings: Iterable[Finding], strict: bool, accepted: Collection[str]) -> None:
    """Raise UserInputError with the warnings that are not accepted, if `strict`."""
    if strict and (refused := refused_warnings(findings, accepted)):
        raise UserInputError(refused)


def _remedy(finding: Finding) -> str:
    accept = f"--accept {finding.code} lets it pass"
    return f"{finding.hint}; {accept}" if finding.hint else accept
