"""Lines that a program printed: dicts of the Hugging Face Trainer, progress lines of Keras."""

from __future__ import annotations

import re

from backends.training_logs import column_names
from backends.training_logs.live_sources import row_of_line
from backends.training_logs.log_table import LogRow, LogTable

MIN_ROWS = 2
"""Two lines with numbers are a log; one may be anything."""

_EPOCH = re.compile(r"\b[Ee]poch[:\s\[#]*(\d+)\s*(?:/|of|\]|:|,|\s|$)")
_PAIR = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9_./ ]{0,40}?)\s*[:=]\s*(?P<value>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)%?"
)
_KERAS_BAR = re.compile(r"^\s*\d+/\d+\s*[\[━]")


def read_dicts(text: str, name: str) -> LogTable | None:
    """Return the log of lines that are Python dicts, such as `{'loss': 0.5}`; None otherwise."""
    if not re.match(r"\s*\{\s*'", text):
        return None
    return _dict_lines(text, name)


def read(text: str, name: str) -> LogTable | None:
    """Return the log in lines of output; None if the text is no such output."""
    if "{" in text and (dicts := _dict_lines(text, name)) is not None:
        return dicts
    return _progress_lines(text, name)


def _dict_lines(text: str, name: str) -> LogTable | None:
    rows = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        row = row_of_line(line) if "{" in line else None
        if row is not None and any(column_names.meaning(key).known for key in row) and "train_runtime" not in row:
            rows.append(LogRow(f"{name}:{number}", row))
    return LogTable(name, "output with dicts", tuple(rows)) if len(rows) >= MIN_ROWS else None


def _progress_lines(text: str, name: str) -> LogTable | None:
    """Read lines with `name: number` pairs, after lines that name the epoch.

    Of the lines of one epoch, the last value of each measure counts.
    """
    epochs: dict[int, dict[str, float]] = {}
    places: dict[int, str] = {}
    epoch = None
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if (found := _EPOCH.search(line)) is not None:
            epoch = int(found[1])
        if epoch is None:
            continue
        for pair in _PAIR.finditer(line):
            column = pair["name"].strip().rpartition("  ")[2]
            column = re.sub(r"^(?:.*\s-\s|\s*-\s*)", "", column).strip()
            if column_names.meaning(column).known:
                value = float(pair["value"])
                is_share = pair[0].endswith("%")
                epochs.setdefault(epoch, {})[column] = value / 100 if is_share else value
                places.setdefault(epoch, f"{name}:{number}")
    if len(epochs) < MIN_ROWS:
        return None
    rows = tuple(LogRow(places[epoch], {"epoch": epoch, **cells}) for epoch, cells in epochs.items())
    return LogTable(name, "output with progress lines", rows)
