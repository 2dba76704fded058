"""Findings: what the checks report about the data, and how many of a kind are listed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from sweeps.errors import Problem, UserInputError

Severity = Literal["error", "warning"]

MAX_PER_KIND = 10
"""Errors of one kind that are listed with their lines; one more line counts the rest."""

MAX_PLACES = 10
"""Places that a finding lists."""


@dataclass(frozen=True)
class Finding:
    """Something about the data that the user should know.

    An `error` prevents the sweep from starting, a `warning` does not. `code` names the kind and
    never changes once published; `checks.catalogue` says why it hurts, and what repairs it. `place`
    is `file:line` (of the first case where `count` is above one), or a file, or a part of the data.
    `places` lists the first few cases, at most `MAX_PLACES`, where there are several.
    """

    severity: Severity
    code: str
    message: str
    place: str = ""
    hint: str = ""
    count: int = 1
    places: tuple[str, ...] = ()


def error(code: str, place: str, message: str, hint: str = "", count: int = 1) -> Finding:
    """Return a finding that prevents the sweep from starting."""
    return Finding("error", code, message, place, hint, count)


def warning(code: str, place: str, message: str, hint: str = "", count: int = 1) -> Finding:
    """Return a finding that is only reported."""
    return Finding("warning", code, message, place, hint, count)


def capped(findings: Iterable[Finding], limit: int = MAX_PER_KIND) -> tuple[Finding, ...]:
    """Keep at most `limit` findings of each severity and code, in order, and count the rest."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    kept: list[Finding] = []
    for same_kind in kinds.values():
        kept += same_kind[:limit]
        if rest := sum(finding.count for finding in same_kind[limit:]):
            example = same_kind[limit]
            message = f"and {rest} more of the same kind ({example.code})"
            kept.append(Finding(example.severity, example.code, message, _file(example.place), "", rest))
    return tuple(kept)


def errors_as_problems(findings: Iterable[Finding]) -> tuple[Problem, ...]:
    """Return the errors among the findings as problems, those of one file in the order of lines."""
    errors = [finding for finding in findings if finding.severity == "error"]
    files = list(dict.fromkeys(_file(finding.place) for finding in errors))
    errors.sort(key=lambda finding: (files.index(_file(finding.place)), _line(finding.place)))
    return tuple(Problem(finding.place, finding.message, finding.hint, finding.code) for finding in errors)


class FaultyDataError(UserInputError):
    """The data has errors. `findings` are these and the warnings that were found with them."""

    def __init__(self, findings: Iterable[Finding], next_command: str = "") -> None:
        self.findings = tuple(findings)
        super().__init__(errors_as_problems(self.findings), next_command)


def nearest_hint(name: str, available: Sequence[str], prefix: str = "") -> str:
    """Return a hint with the available name that was probably meant, else at most a dozen names."""
    if close := get_close_matches(name, available, n=1):
        return f"did you mean {prefix + close[0]!r}?"
    same_letters = [candidate for candidate in available if candidate.casefold() == name.casefold()]
    if same_letters:
        return f"did you mean {prefix + same_letters[0]!r}?"
    names = ", ".join(repr(prefix + candidate) for candidate in available[:12])
    return f"available: {names}{', ...' if len(available) > 12 else ''}" if names else ""


def quoted(text: str, limit: int = 40) -> str:
    """Return a text for use in a message: on one line, in quotes, cut if it is long."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _line(place: str) -> float:
    """Return the line, or infinity for a place without one: findings on whole files come last."""
    line = place.rpartition(":")[2]
    return int(line) if line.isdigit() else math.inf


def _file(place: str) -> str:
    file, colon, line = place.rpartition(":")
    return file if colon and line.isdigit() else place
