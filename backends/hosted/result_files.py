"""Read the result file of a job: CSV, at some hosts in base64, with different column names."""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Mapping

Row = Mapping[str, float]
"""The measurements of one step under the names that events use, `step` among them."""


def read(content: bytes, aliases: Mapping[str, str]) -> list[Row]:
    """Return the rows that have a step, without their empty cells. Other content has no rows.

    `aliases` maps the spellings of column names to the names that events use.
    """
    text = _csv_text(content)
    if text is None:
        return []
    rows: list[Row] = []
    for cells in csv.DictReader(io.StringIO(text)):
        row: dict[str, float] = {}
        for name, cell in cells.items():
            value = _number(cell)
            if isinstance(name, str) and value is not None:
                row[aliases.get(name.strip(), name.strip())] = value
        if "step" in row:
            rows.append(row)
    return rows


def _csv_text(content: bytes) -> str | None:
    """Return the CSV text of plain or base64 content; None if it has no column `step`."""
    for candidate in (content, _base64_decoded(content)):
        if candidate is None:
            continue
        try:
            text = candidate.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        header = text.partition("\n")[0].strip()
        if "step" in [name.strip() for name in header.split(",")]:
            return text
    return None


def _base64_decoded(content: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return None


def _number(cell: object) -> float | None:
    """Return a cell's value, which may be non-finite; None for an empty cell or a text."""
    if not isinstance(cell, str) or not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        return None
