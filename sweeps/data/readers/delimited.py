"""Delimited text: CSV and TSV as programs write them, and as spreadsheets export them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sweeps.data.findings import Finding, warning
from sweeps.data.readers.damage import Damage
from sweeps.data.readers.decoding import DecodedText
from sweeps.data.readers.record import RecordStream
from sweeps.data.readers.table_rows import Row, records_of_rows

CELL_LIMIT = 2**24
"""The most characters in one cell: 16 Mi. The csv module's 131,072 are too few for documents."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_SAMPLE_LINES = 100
_SAMPLE_CHARACTERS = 2**18
_DECLARED = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)
_CLEARLY_BETTER = 0.3


def read_csv(text: DecodedText, damage: Damage) -> RecordStream:
    """Read delimited text. Commas are usual; other delimiters are recognised."""
    return _read(text, damage, ",")


def read_tsv(text: DecodedText, damage: Damage) -> RecordStream:
    """Read delimited text. Tabs are usual; other delimiters are recognised."""
    return _read(text, damage, "\t")


def _read(text: DecodedText, damage: Damage, usual: str) -> RecordStream:
    lines = iter(text.lines())
    head = _head(lines)
    skipped = 0
    if head and (declared := _DECLARED.fullmatch(head[0])):  # Excel's own first line
        delimiter, skipped = declared[1], 1
    else:
        delimiter = recognise_delimiter(head, usual)
        if delimiter != usual:
            name = f"{DELIMITERS[delimiter]}, not {DELIMITERS[usual]}"
            hint = "nothing, if the columns are right; otherwise save the table with " + DELIMITERS[usual]
            yield warning("delimiter", f"{damage.file}:1", f"the columns are separated by {name}", hint)
    quoting = recognise_quoting(head[skipped:], delimiter)
    if quoting is not None:
        message = f"cells in quotes are written with {quoting.in_words}"
        hint = 'nothing, if the columns are right; the usual form is "a, b" with "" for a quote'
        yield warning("quoting", f"{damage.file}:1", message, hint)
    rows = _rows(chain(head[skipped:], lines), delimiter, quoting, text, damage, skipped)
    yield from records_of_rows(rows, damage)


def _head(lines: Iterator[str]) -> list[str]:
    head: list[str] = []
    size = 0
    for line in lines:
        head.append(line)
        size += len(line)
        if len(head) == _SAMPLE_LINES or size > _SAMPLE_CHARACTERS:
            break
    return head


def recognise_delimiter(head: Sequence[str], usual: str) -> str:
    """Return the delimiter of the first lines of a file.

    It is the usual one, unless with another one clearly more rows have as many cells as the header.
    """
    shares = {delimiter: _consistent_share(head, delimiter) for delimiter in (usual, *DELIMITERS)}
    best = max(shares, key=lambda delimiter: shares[delimiter])
    return best if shares[best] > shares[usual] + _CLEARLY_BETTER else usual


@dataclass(frozen=True)
class Quoting:
    """An unusual way to put cells in quotes; `options` are those of `csv.reader`."""

    in_words: str
    options: Mapping[str, Any]


_QUOTINGS = (
    Quoting("spaces after the delimiter", {"skipinitialspace": True}),
    Quoting("backslashes before the quotes inside", {"escapechar": "\\"}),
)


def recognise_quoting(head: Sequence[str], delimiter: str) -> Quoting | None:
    """Return the unusual quoting that explains all of the first lines, where the usual does not."""
    if _fits(head, delimiter, {}):
        return None
    return next((quoting for quoting in _QUOTINGS if _fits(head, delimiter, quoting.options)), None)


def _fits(head: Sequence[str], delimiter: str, options: Mapping[str, Any]) -> bool:
    """Return whether all complete rows of the first lines have as many cells as the header."""
    reader = csv.reader(head, delimiter=delimiter, strict=True, **options)
    widths: list[int] = []
    try:
        widths.extend(len(row) for row in reader if row)
    except csv.Error as problem:
        if "unexpected end" not in str(problem) or len(head) < _SAMPLE_LINES:
            return False  # not only cut off by the end of the sample
    return len(set(widths)) == 1


def _consistent_share(head: Sequence[str], delimiter: str) -> float:
    """Return the share of rows with as many cells as the header; 0 if it is a single one."""
    csv.field_size_limit(CELL_LIMIT)
    try:
        rows = [row for row in csv.reader(head, delimiter=delimiter) if row]
    except csv.Error:
        return 0.0
    if not rows or len(rows[0]) < 2:
        return 0.0
    # The last row may be cut off by the end of the sample.
    below = rows[1:-1] or rows[1:]
    return sum(len(row) == len(rows[0]) for row in below) / len(below) if below else 1.0


def _rows(
    lines: Iterable[str], delimiter: str, quoting: Quoting | None, text: DecodedText, damage: Damage, skipped: int
) -> Iterator[Row | Finding]:
    """Yield rows with the line where each begins, since a quoted cell may have line breaks.

    Lines without any character are skipped.
    """
    csv.field_size_limit(CELL_LIMIT)
    options = {} if quoting is None else quoting.options
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **options)
    line = 1 + skipped
    while True:
        try:
            for cells in reader:
                if cells:
                    mended: Sequence[str] | None = text.mended(cells, line) if text.suspicious else cells
                    if mended is not None:
                        yield Row(line, mended)
                line = reader.line_num + 1 + skipped
        except csv.Error as problem:
            _count_problem(damage, line, str(problem))
            line = reader.line_num + 1 + skipped
        else:
            return


def _count_problem(damage: Damage, line: int, problem: str) -> None:
    if "unexpected end" in problem:
        hint = 'a quote (") that opens here is never closed; write a quote inside a cell as ""'
    elif "field limit" in problem:
        hint = f'a cell has more than {CELL_LIMIT:,} characters, or a quote (") that opens here is never closed'
    else:
        hint = 'write a quote inside a cell as "", and put the cell in quotes'
    damage.add("csv", line, f"not valid CSV: {problem}", hint, kind=problem)
