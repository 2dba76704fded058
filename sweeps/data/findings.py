"""What the checks have to say about the data: one finding each, and how many of a kind are worth printing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from sweeps.errors import Problem

SHOWN_OF_A_KIND = 10
"""So many errors of one kind are listed with their lines; the rest is one line with their number."""


@dataclass(frozen=True)
class Finding:
    """Something about the data that a person should know.

    An `error` keeps a sweep from starting, a `warning` does not. `code` names the kind and never changes once
    published; `place` is `file:line` (of the first one, where `count` is above one) or a file or a part of the data.
    """

    severity: Literal["error", "warning"]
    code: str
    message: str
    place: str = ""
    hint: str = ""
    count: int = 1


def error(code: str, place: str, message: str, hint: str = "", count: int = 1) -> Finding:
    """Return a finding that keeps the sweep from starting."""
    return Finding("error", code, message, place, hint, count)


def warning(code: str, place: str, message: str, hint: str = "", count: int = 1) -> Finding:
    """Return a finding that is said and no more."""
    return Finding("warning", code, message, place, hint, count)


def capped(findings: Iterable[Finding], limit: int = SHOWN_OF_A_KIND) -> tuple[Finding, ...]:
    """Keep at most `limit` findings of each severity and code, in order; say how many more there are of each."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    kept: list[Finding] = []
    for found in kinds.values():
        kept += found[:limit]
        if rest := sum(finding.count for finding in found[limit:]):
            example = found[limit]
            message = f"and {rest} more of the same kind ({example.code})"
            kept.append(Finding(example.severity, example.code, message, _file(example.place), "", rest))
    return tuple(kept)


def problems(findings: Iterable[Finding]) -> tuple[Problem, ...]:
    """Return the errors among the findings as what a user is shown: a file's in the order of its lines."""
    errors = [each for each in findings if each.severity == "error"]
    files = list(dict.fromkeys(_file(each.place) for each in errors))
    errors.sort(key=lambda each: (files.index(_file(each.place)), _line(each.place)))
    return tuple(Problem(each.place, each.message, each.hint) for each in errors)


def nearest(name: str, available: Sequence[str], prefix: str = "") -> str:
    """Return a hint: the name that was probably meant, else all (at most a dozen) that there are."""
    if close := get_close_matches(name, available, n=1):
        return f"did you mean {prefix + close[0]!r}?"
    folded = [each for each in available if each.casefold() == name.casefold()]
    if folded:
        return f"did you mean {prefix + folded[0]!r}?"
    names = ", ".join(repr(prefix + each) for each in available[:12])
    return f"there is: {names}{', ...' if len(available) > 12 else ''}" if names else ""


def quoted(text: str, limit: int = 40) -> str:
    """Return a text as it is shown inside a message: one line, in quotes, cut where it is long."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _line(place: str) -> float:
    """The line, or infinity where a place is no single line: what is said of a whole file comes last."""
    line = place.rpartition(":")[2]
    return int(line) if line.isdigit() else math.inf


def _file(place: str) -> str:
    file, colon, line = place.rpartition(":")
    return file if colon and line.isdigit() else place
