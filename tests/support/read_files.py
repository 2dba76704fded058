"""Reads a file that a test writes, and returns what the reader found in forms that compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sweeps.data.findings import Finding
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record


class Found(NamedTuple):
    """The records as (line, fields), the findings as (severity, code, place), and their texts."""

    records: list[tuple[int, dict[str, Any]]]
    findings: list[tuple[str, str, str]]
    messages: list[str]
    hints: list[str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The fields of the records."""
        return [fields for _, fields in self.records]

    @property
    def codes(self) -> list[tuple[str, str]]:
        """Severity and code of each finding."""
        return [(severity, code) for severity, code, _ in self.findings]


def read_back(path: Path, encoding: str = "utf-8") -> Found:
    """Read a file; the folder of the file is left out of places."""
    found = list(read_records(path, encoding))
    findings = [item for item in found if isinstance(item, Finding)]
    return Found(
        [(item.line, dict(item.fields)) for item in found if isinstance(item, Record)],
        [(item.severity, item.code, item.place.removeprefix(f"{path.parent}/")) for item in findings],
        [item.message for item in findings],
        [item.hint for item in findings],
    )


def read_content(folder: Path, name: str, content: bytes, encoding: str = "utf-8") -> Found:
    """Write a file with this content, and read it."""
    (folder / name).write_bytes(content)
    return read_back(folder / name, encoding)
