"""Records: what every reader yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from sweeps.data.findings import Finding


class Record(NamedTuple):
    """One example of a file: its columns, and the line where it begins (the first line is 1).

    In a table without lines, such as Parquet, and in a JSON list on one line, `line` is the number
    of the record. So records of one file have different places.
    """

    fields: Mapping[str, Any]
    file: str
    line: int

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


RecordStream: TypeAlias = Iterator[Record | Finding]
"""Records in the order of the file, and findings among them.

Every record that cannot be read is counted by a finding, which may come later, at the end of its
file.
"""


@dataclass(frozen=True)
class RepeatedColumn:
    """Stands for the value of a column whose name several columns of the file have.

    `numbers` are the positions of these columns; the first column is 1.
    """

    name: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return f"columns {' and '.join(map(str, self.numbers))} have the same name {self.name!r}"
