"""Records: what every reader yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from sweeps.data.findings import Finding


class Record(NamedTuple):
    """One example of a file: its columns, and the line where it begins (the first line is 1)."""

    fields: Mapping[str, Any]
    file: str
    line: int

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


RecordStream: TypeAlias = Iterator[Record | Finding]
"""Records in the order of the file. A finding takes the place of an unreadable record."""
