"""Logs as delimited text: result files of hosted services, Keras and Lightning logs, any CSV."""

from __future__ import annotations

import base64
import binascii
import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from backends.training_logs import column_names
from backends.training_logs.column_choice import COLUMNS_HINT, listed
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.log_table import MISSING, LogRow, LogTable

SEPARATORS = ",;\t|"

MANY_ROWS = 50_000
"""A log of more rows is thinned: see `_Thinning`."""

NOT_FINITE = frozenset({"nan", "-nan", "inf", "+inf", "-inf", "infinity", "-infinity"})

_SEPARATOR_HINT = re.compile(r"sep=.\r?\n")
_COMMA_NUMBER = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?\s*%?", re.IGNORECASE)
_POINT_NUMBER = re.compile(r"[-+]?\d*\.\d+(e[-+]?\d+)?\s*%?", re.IGNORECASE)

_RULE = re.compile(r"\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?")
"""The line below the header of a Markdown table."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def read(text: str, name: str, chosen: Mapping[str, str] | None = None) -> LogTable:
    """Read a table.

    The header decides the format. `chosen` are the columns that the caller names. Raises
    TrainingLogError with the line of a mistake.
    """
    decoded = _decoded_base64(text)
    content = decoded or text
    lines = content.lstrip("\r\n")
    if (hint := _SEPARATOR_HINT.match(lines)) is not None:  # the first line of a file that Excel wrote
        lines = lines[hint.end() :]
    first_line = 1 + content[: len(content) - len(lines)].count("\n")
    header_line = lines.partition("\n")[0]
    separator = max(SEPARATORS, key=header_line.count)
    if separator == "|" and header_line.count("|") > 1:
        lines, separator = _of_markdown(lines), "|"
    elif header_line.count(separator) == 0 and len(header_line.split()) > 1:
        lines, separator = _of_aligned_columns(lines), "\t"
    reader = csv.reader(_lines_of(lines), delimiter=separator, strict=True)
    rows: list[LogRow] = []
    header: list[str] = []
    thinning = _Thinning(lines.count("\n"))
    try:
        for cells in reader:
            place = f"{name}:{reader.line_num + first_line - 1}"
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header([cell.strip() for cell in cells], place, name, chosen or {})
                continue
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(header):
                message = f"the row has {len(cells)} cells, but the header has {len(header)}"
                raise TrainingLogError(place, message, "complete the row, or delete it if it was cut off")
            if thinning.keeps(header, cells):
                rows.append(LogRow(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        place = f"{name}:{reader.line_num + first_line - 1}"
        raise TrainingLogError(place, f"the file is not a valid table: {error}") from None
    rows, notes = _with_decimal_points(rows, separator)
    if not rows:
        raise TrainingLogError(name, "the file has a header but no rows" if header else "the file is empty")
    columns = {column_names.normalized(column) for column in header}
    if columns & column_names.STEP and columns & column_names.HOSTED:
        is_legacy = "elapsed_tokens" in columns or "elapsed_examples" in columns
        return LogTable(
            name,
            "fine-tuning result file",
            tuple(rows),
            scope="gpt3-classification" if is_legacy else "hosted-current",
            hosted=True,
            notes=("the file was in base64",) if decoded else (),
        )
    return LogTable(name, _format(columns), tuple(rows), notes=notes, left_out=thinning.left_out)


class _Thinning:
    """Leaves out rows of a very long log that have training values only.

    The verdict averages them anyway. Every evaluation stays, and every training value that is not
    finite. A table is thinned only if its header says which columns hold validation values: in
    others, such as a table of phases, the cells say it.
    """

    def __init__(self, lines: int) -> None:
        self._every = -(-lines // MANY_ROWS)
        self._number = self._dropped = 0
        self._columns: dict[str | None, list[int]] | None = None

    def keeps(self, header: Sequence[str], cells: Sequence[str]) -> bool:
        """Return whether the next row stays."""
        if self._every <= 1:
            return True
        if self._columns is None:
            self._columns = {"valid": [], "train": []}
            for place, column in enumerate(header):
                self._columns.setdefault(column_names.meaning(column).side, []).append(place)
            if not self._columns["valid"]:
                self._every = 1
                return True
        self._number += 1
        if self._number % self._every == 0 or any(_is_measured(cells[place]) for place in self._columns["valid"]):
            return True
        if any(cells[place].strip().lower() in NOT_FINITE for place in self._columns["train"]):
            return True
        self._dropped += 1
        return False

    @property
    def left_out(self) -> tuple[str, ...]:
        if not self._dropped:
            return ()
        return (f"{self._dropped:,} rows with training values only, of which one in {self._every} is read",)


def _is_measured(cell: str) -> bool:
    """Return whether a cell has a value; NaN may stand for a blank."""
    text = cell.strip().lower()
    return text not in MISSING and text != "nan"


def _lines_of(text: str) -> Iterator[str]:
    """Yield the lines one by one: a list of them all would take more memory than the text."""
    end_mark = "\n" if "\n" in text else "\r"
    start = 0
    while (end := text.find(end_mark, start)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    if start < len(text):
        yield text[start:]


def table_within(text: str) -> str | None:
    """Return the table of results inside a model card, as the Hugging Face Trainer writes it.

    Returns None for a text that has no Markdown table of measures after other lines.
    """
    lines = text.splitlines()
    for number in range(1, len(lines) - 1):
        if not _RULE.fullmatch(lines[number + 1].strip()) or "|" not in lines[number]:
            continue
        names = [name.strip() for name in lines[number].strip().strip("|").split("|")]
        if not any(column_names.meaning(name).known for name in names):
            continue
        rows = itertools.takewhile(lambda line: line.strip().startswith("|"), lines[number:])
        return "\n".join(rows)
    return None


def _of_markdown(lines: str) -> str:
    """Return the rows of a Markdown table without its frame and its second line."""
    rows = (line.strip().strip("|") for line in lines.splitlines() if "|" in line)
    return "\n".join(row for row in rows if not re.fullmatch(r"[\s:|-]+", row))


def _of_aligned_columns(lines: str) -> str:
    """Return a table whose columns are separated by spaces with tabs instead.

    fastai and many scripts print such a table.
    """
    return "\n".join("\t".join(line.split()) for line in lines.splitlines())


def _with_decimal_points(rows: list[LogRow], separator: str) -> tuple[list[LogRow], tuple[str, ...]]:
    """Read decimal commas, if the table has no decimal point."""
    texts = [cell.strip() for row in rows for cell in row.cells.values() if isinstance(cell, str)]
    if separator == "," or not any(_COMMA_NUMBER.fullmatch(text) for text in texts):
        return rows, ()
    if any(_POINT_NUMBER.fullmatch(text) for text in texts):
        return rows, ()
    changed = [
        LogRow(
            row.place,
            {
                column: cell.replace(",", ".") if _COMMA_NUMBER.fullmatch(cell.strip()) else cell
                for column, cell in row.cells.items()
            },
        )
        for row in rows
    ]
    return changed, ("the numbers have decimal commas",)


def _format(columns: set[str]) -> str:
    has_epoch, has_step = bool(columns & column_names.EPOCH), bool(columns & column_names.STEP)
    lightning = any(column.startswith("val_") or column.endswith(("_epoch", "_step")) for column in columns)
    if has_epoch and has_step and lightning:
        return "Lightning CSV log"
    return "Keras CSV log" if has_epoch and not has_step and "loss" in columns else "CSV"


def _header(columns: list[str], place: str, name: str, chosen: Mapping[str, str]) -> list[str]:
    columns = _with_tag_of_file(columns, name)
    if len(columns) > 1 and columns[-1] == "" and columns.count("") == 1:
        columns = [*columns[:-1], "(last)"]
    columns = [column or f"(column {number})" for number, column in enumerate(columns, 1)]
    is_known = any(map(_may_be_of_a_log, columns))
    if not is_known and not set(chosen.values()) & set(columns):
        message = f"the header has no known column, only {listed(columns)}"
        raise TrainingLogError(place, message, COLUMNS_HINT)
    duplicate = next((column for column in columns if columns.count(column) > 1), None)
    if duplicate is not None:
        raise TrainingLogError(place, f"column `{duplicate}` appears twice", "rename or delete one of the two")
    return columns


def _may_be_of_a_log(column: str) -> bool:
    """Return whether a log may have this column: a measure, a side, or a name of both."""
    if column_names.meaning(column).known or column_names.side_of_part(column) or " - " in column:
        return True
    word = column_names.normalized(column)
    return word in ("value", *column_names.SIDES) or word.startswith("test_")


def _with_tag_of_file(columns: list[str], name: str) -> list[str]:
    """Give the value of a TensorBoard export the name of its file, which has the tag."""
    if [column_names.normalized(column) for column in columns] != ["wall_time", "step", "value"]:
        return columns
    stem = PurePath(name).name.rpartition(".")[0] or name
    tag = stem.partition("tag-")[2] or stem
    found = re.search(
        r"(train|training|valid|validation|val|eval|dev)?[_/. -]*(loss|accuracy|acc|f1)", tag, re.IGNORECASE
    )
    return [columns[0], columns[1], columns[2] if found is None else "_".join(filter(None, found.groups()))]


def _decoded_base64(text: str) -> str | None:
    """Return the table inside base64, or None for any other text.

    OpenAI encodes its result files so.
    """
    if _BASE64.fullmatch(text) is None:
        return None
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return decoded if any(separator in decoded.partition("\n")[0] for separator in SEPARATORS) else None
