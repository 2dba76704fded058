"""Damage to a file: one finding for each kind, however many records have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from sweeps.data.findings import MAX_PLACES, Finding, error

_LINES_IN_MESSAGE = 6


class FileFaultError(Exception):
    """A file, or the rest of it, cannot be read. `code`, `message` and `hint` as in a finding.

    `line` is 0 where no line is to blame.
    """

    def __init__(self, code: str, message: str, hint: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.line = line

    def finding(self, file: str) -> Finding:
        """Return the error finding for a file."""
        return error(self.code, f"{file}:{self.line}" if self.line else file, self.message, self.hint)


@dataclass
class _Kind:
    finding: Finding
    lines: list[int]
    count: int = 1


@dataclass
class Damage:
    """Collects what is wrong with the records of one file. `later` yield more at its end."""

    file: str
    later: list[Callable[[str], Iterator[Finding]]] = field(default_factory=list)
    _kinds: dict[tuple[str, str], _Kind] = field(default_factory=dict)

    def add(self, code: str, line: int, message: str, hint: str = "", *, kind: str = "", mild: bool = False) -> None:
        """Count a damaged record.

        Records with the same code and `kind` (default: the message) become one finding, with the
        message of the first. It is a warning if `mild`, otherwise an error.
        """
        key = (code, kind or message)
        known = self._kinds.get(key)
        if known is None:
            severity: Literal["error", "warning"] = "warning" if mild else "error"
            finding = Finding(severity, code, message, f"{self.file}:{line}", hint)
            self._kinds[key] = _Kind(finding, [line])
            return
        known.count += 1
        if len(known.lines) < MAX_PLACES:
            known.lines.append(line)

    def findings(self) -> Iterator[Finding]:
        """Yield one finding for each kind, in order of first line, then those of `later`."""
        for kind in self._kinds.values():
            first = kind.finding
            if kind.count == 1:
                yield first
                continue
            others = kind.count - 1
            shown = ", ".join(map(str, kind.lines[1 : _LINES_IN_MESSAGE + 1]))
            dots = ", ..." if others > _LINES_IN_MESSAGE else ""
            message = f"{first.message}; the same on {others:,} more line{'s' if others > 1 else ''}: {shown}{dots}"
            places = tuple(f"{self.file}:{line}" for line in kind.lines)
            yield Finding(first.severity, first.code, message, first.place, first.hint, kind.count, places)
        for others_of in self.later:
            yield from others_of(self.file)
