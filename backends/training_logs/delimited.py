"""Histories with a header and separated cells: result files of services, Keras and Lightning logs, any CSV."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re

from backends.training_logs import names
from backends.training_logs.table import Row, Table, TrainingLogError

SEPARATORS = ",;\t"

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


def read(text: str, name: str) -> Table:
    """Read a table; its header says which format it is. Raises TrainingLogError with the line of a mistake."""
    inner = _unwrapped(text)
    lines = (inner or text).lstrip("\r\n")
    first_line = 1 + (inner or text)[: len(inner or text) - len(lines)].count("\n")
    header_line = lines.partition("\n")[0]
    separator = max(SEPARATORS, key=header_line.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            place = f"{name}:{reader.line_num + first_line - 1}"
            if not any(each.strip() for each in cells):
                continue
            if not header:
                header = _header([each.strip() for each in cells], place)
                continue
            if len(cells) != len(header):
                message = f"has {len(cells)} cells, the header {len(header)}"
                raise TrainingLogError(place, message, "complete the row, or delete it where the writing was cut off")
            rows.append(Row(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise TrainingLogError(f"{name}:{reader.line_num + first_line - 1}", f"is no table: {error}") from None
    if not rows:
        raise TrainingLogError(name, "has a header and no rows" if header else "is empty")
    plain = {names.plain(each) for each in header}
    legacy = "elapsed_tokens" in plain or "elapsed_examples" in plain
    if plain & names.STEP and plain & names.HOSTED:
        scope = "gpt3-classification" if legacy else "hosted-current"
        notes = ("the file was in base64",) if inner else ()
        return Table(name, "fine-tuning result file", tuple(rows), scope=scope, hosted=True, notes=notes)
    return Table(name, _format(plain), tuple(rows))


def _format(plain: set[str]) -> str:
    stepped = plain & names.EPOCH and plain & names.STEP
    if stepped and any(each.startswith("val_") or each.endswith(("_epoch", "_step")) for each in plain):
        return "Lightning CSV log"
    return "Keras CSV log" if plain & names.EPOCH and not plain & names.STEP and "loss" in plain else "CSV"


def _header(cells: list[str], place: str) -> list[str]:
    if not any(names.meaning(each).known for each in cells):
        shown = ", ".join(f"`{each[:40]}`" for each in cells[:8])
        raise TrainingLogError(place, f"the header has no column that is known: {shown}")
    twice = next((each for each in cells if each and cells.count(each) > 1), None)
    if twice is not None:
        raise TrainingLogError(place, f"column `{twice}` is there twice", "rename or delete one of them")
    return cells


def _unwrapped(text: str) -> str | None:
    """Return the table inside base64, as OpenAI's service sends its result files; None where the text is none."""
    if _BASE64.fullmatch(text) is None:
        return None
    try:
        inner = base64.b64decode("".join(text.split()), validate=True).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return inner if any(each in inner.partition("\n")[0] for each in SEPARATORS) else None
