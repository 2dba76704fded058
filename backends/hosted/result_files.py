"""The result file of a job: CSV, which some hosts wrap in base64, under names that each host spells differently."""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Mapping

Row = Mapping[str, float]
"""The measurements of one step under the names of the events; `step` is among them."""


def read(content: bytes, aliases: Mapping[str, str]) -> list[Row]:
    """Return the rows that have a step, an empty cell left out; nothing where the content is no result file."""
    text = _text(content)
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


def _text(content: bytes) -> str | None:
    """Return the CSV text, whether it comes as it is or in base64."""
    for candidate in (content, _unwrapped(content)):
        if candidate is None:
            continue
        try:
            text = candidate.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        if "step" in [each.strip() for each in text.partition("\n")[0].strip().split(",")]:
            return text
    return None


def _unwrapped(content: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return None


def _number(cell: object) -> float | None:
    """Return a cell's value; a number that is not finite counts, an empty cell does not."""
    if not isinstance(cell, str) or not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        return None
