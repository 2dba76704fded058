"""Logs as delimited text: result files of hosted services, Keras and Lightning logs, any CSV."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re

from backends.training_logs import column_names
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.log_table import LogRow, LogTable

SEPARATORS = ",;\t"

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def read(text: str, name: str) -> LogTable:
    """Read a table.

    The header decides the format. Raises TrainingLogError with the line of a mistake.
    """
    decoded = _decoded_base64(text)
    content = decoded or text
    lines = content.lstrip("\r\n")
    first_line = 1 + content[: len(content) - len(lines)].count("\n")
    header_line = lines.partition("\n")[0]
    separator = max(SEPARATORS, key=header_line.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator, strict=True)
    rows: list[LogRow] = []
    header: list[str] = []
    try:
        for cells in reader:
            place = f"{name}:{reader.line_num + first_line - 1}"
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header([cell.strip() for cell in cells], place)
                continue
            if len(cells) != len(header):
                message = f"the row has {len(cells)} cells, but the header has {len(header)}"
                raise TrainingLogError(place, message, "complete the row, or delete it if it was cut off")
            rows.append(LogRow(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        place = f"{name}:{reader.line_num + first_line - 1}"
        raise TrainingLogError(place, f"the file is not a valid table: {error}") from None
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
    return LogTable(name, _format(columns), tuple(rows))


def _format(columns: set[str]) -> str:
    has_epoch, has_step = bool(columns & column_names.EPOCH), bool(columns & column_names.STEP)
    lightning = any(column.startswith("val_") or column.endswith(("_epoch", "_step")) for column in columns)
    if has_epoch and has_step and lightning:
        return "Lightning CSV log"
    return "Keras CSV log" if has_epoch and not has_step and "loss" in columns else "CSV"


def _header(columns: list[str], place: str) -> list[str]:
    if not any(column_names.meaning(column).known for column in columns):
        listed = ", ".join(f"`{column[:40]}`" for column in columns[:8])
        raise TrainingLogError(place, f"the header has no known column, only {listed}")
    duplicate = next((column for column in columns if column and columns.count(column) > 1), None)
    if duplicate is not None:
        raise TrainingLogError(place, f"column `{duplicate}` appears twice", "rename or delete one of the two")
    return columns


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
