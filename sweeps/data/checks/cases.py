"""Collect the examples with one fault: their number, and the places of the first few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sweeps.data.examples import Example
from sweeps.data.findings import MAX_PLACES, Finding, Severity

_SHOWN_LINES = 5


_recorded: ContextVar[dict[str, set[str]] | None] = ContextVar("_recorded", default=None)


@contextmanager
def recording() -> Iterator[dict[str, set[str]]]:
    """Record the places of all examples of each code that the checks of this block report.

    A finding itself lists only the first few. The dictionary fills while the checks run.
    """
    places: dict[str, set[str]] = {}
    token = _recorded.set(places)
    try:
        yield places
    finally:
        _recorded.reset(token)


def record(code: str, examples: Sequence[Example], indices: Sequence[int]) -> None:
    """Record examples that a check reports in findings without `Cases`, if somebody records."""
    if (recorded := _recorded.get()) is not None:
        recorded.setdefault(code, set()).update(examples[index].place for index in indices)


class Cases:
    """The examples that have one fault. The memory does not grow with their number."""

    def __init__(self) -> None:
        self.count = 0
        self.places: list[str] = []
        self._file = ""
        self._lines: list[int] = []
        self._all: set[str] | None = None if _recorded.get() is None else set()

    @classmethod
    def of(cls, examples: Sequence[Example], indices: Sequence[int]) -> Cases:
        """Return the examples with these indices, of which only the first few are read."""
        cases = cls()
        for index in indices if cases._all is not None else indices[:MAX_PLACES]:
            cases.add(examples[index])
        cases.count = len(indices)
        return cases

    @classmethod
    def joined(cls, several: Iterable[Cases]) -> Cases:
        """Return the examples of several cases together, in the order of the cases."""
        joined = cls()
        for cases in several:
            joined.count += cases.count
            joined._file = joined._file or cases._file
            if cases._file == joined._file:
                joined._lines = sorted([*joined._lines, *cases._lines])[:_SHOWN_LINES]
            joined.places = [*joined.places, *cases.places][:MAX_PLACES]
            if joined._all is not None and cases._all is not None:
                joined._all |= cases._all
        return joined

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, example: Example) -> None:
        """Count an example."""
        self.count += 1
        if self._all is not None:
            self._all.add(example.place)
        if not self.places:
            self._file = example.file
        if len(self.places) < MAX_PLACES:
            self.places.append(example.place)
        if example.file == self._file and len(self._lines) < _SHOWN_LINES:
            self._lines.append(example.line)

    def in_words(self) -> str:
        """Return text such as `3 examples (lines 4, 9, 12)`: lines in the file of the first one."""
        lines = ", ".join(map(str, self._lines))
        if self.count == 0:
            return "no example"
        if self.count == 1:
            return f"1 example (line {lines})"
        return f"{self.count:,} examples (lines {lines}{', ...' if self.count > len(self._lines) else ''})"

    def warning(self, code: str, message: str, hint: str = "") -> Finding:
        """Return the finding about these examples that is only reported."""
        return self._finding("warning", code, message, hint)

    def error(self, code: str, message: str, hint: str = "") -> Finding:
        """Return the finding about these examples that prevents the sweep from starting."""
        return self._finding("error", code, message, hint)

    def _finding(self, severity: Severity, code: str, message: str, hint: str) -> Finding:
        if (recorded := _recorded.get()) is not None:
            recorded.setdefault(code, set()).update(self._all or ())
        place = self.places[0] if self.places else ""
        return Finding(severity, code, message, place, hint, self.count, tuple(self.places))


def beside(example: Example, other: Example) -> str:
    """Return where `other` is, in a message whose place is `example`."""
    return f"line {other.line}" if other.file == example.file else other.place
