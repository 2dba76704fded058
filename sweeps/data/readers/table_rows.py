"""Rows of cells -> records, for every format whose first row names the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from sweeps.data.findings import Finding, warning
from sweeps.data.readers.damage import Damage
from sweeps.data.readers.header import check_header
from sweeps.data.readers.record import Record, RecordStream, RepeatedColumn

_SAMPLE = 200
"""Rows below the header that decide whether it is one."""


class Row(NamedTuple):
    """The cells of a row, and the line where it begins."""

    line: int
    cells: Sequence[Any]


def records_of_rows(rows: Iterator[Row | Finding], damage: Damage) -> RecordStream:
    """Make records of the rows below the header.

    Empty rows are left out with a warning, and so is a header that is repeated further below.
    Raises FileFaultError if the first row is no header.
    """
    not_blank = (row for row in rows if isinstance(row, Row) and (len(row.cells) > 1 or any(map(_has_text, row.cells))))
    header_row = next(not_blank, None)
    if header_row is None:
        return
    sample = list(islice(rows, _SAMPLE))
    header = [str(cell).strip().strip("\ufeff").strip() for cell in header_row.cells]
    texts = [[str(cell) for cell in row.cells] for row in sample if isinstance(row, Row)]
    check_header(header, texts, header_row.line)
    yield from _records(header, chain(sample, rows), damage, header_row.line)


def _records(header: list[str], rows: Iterator[Row | Finding], damage: Damage, header_line: int) -> RecordStream:
    file, width = damage.file, len(header)
    repeated = _repeated_columns(header)
    for column in repeated.values():
        yield warning("repeated-column", f"{file}:{header_line}", f"{column}; it cannot be used", "rename one of them")
    is_plain = all(header) and not repeated
    needed = max(number for number, name in enumerate(header, 1) if name)
    unnamed = [number for number, name in enumerate(header) if not name]
    empty_hint = "delete it, or write the example into it"
    for row in rows:
        if isinstance(row, Finding):
            yield row
            continue
        line, cells = row
        if is_plain and len(cells) == width:
            first = cells[0]
            if first == header[0] and list(cells) == header:
                damage.add("repeated-header", line, "the column names again: the row is left out", mild=True)
                continue
            if first and not (type(first) is str and first.isspace()):
                yield Record(dict(zip(header, cells, strict=False)), file, line)
                continue
        if not any(_has_text(cell) for cell in cells):
            damage.add("empty-row", line, "the row is empty: it is left out", empty_hint, mild=True)
        elif len(cells) < needed or any(_has_text(cell) for cell in cells[width:]):
            message = f"the row has {len(cells)} cell{'s' if len(cells) != 1 else ''}, the header {width}"
            hint = 'quote cells that hold the delimiter or a line break: "a, b"; let the header be the first line'
            damage.add("cells", line, message, hint, kind="cells")
        else:
            fields = {name: cell for name, cell in zip(header, cells, strict=False) if name}
            yield Record(fields | repeated, file, line)
            if any(_has_text(cells[number]) for number in unnamed if number < len(cells)):
                message = "the row has text in a column without a name; the text is dropped"
                hint = "name the columns in the header, or quote cells that hold the delimiter"
                damage.add("unnamed-column", line, message, hint, mild=True)


def _repeated_columns(header: Sequence[str]) -> dict[str, RepeatedColumn]:
    positions: dict[str, list[int]] = {}
    for number, name in enumerate(header, 1):
        if name:
            positions.setdefault(name, []).append(number)
    return {name: RepeatedColumn(name, tuple(numbers)) for name, numbers in positions.items() if len(numbers) > 1}


def _has_text(cell: Any) -> bool:
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None
