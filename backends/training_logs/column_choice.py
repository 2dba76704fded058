"""The columns that a caller names: `--columns valid_loss=NAME,epoch=NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from backends.training_logs import column_names
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.log_table import LogRow, LogTable

OPTION = "--columns"

COLUMNS_HINT = f"say which is which: {OPTION} valid_loss=NAME,train_loss=NAME,epoch=NAME"

_MEASURES = ("loss", *column_names.METRICS)

KNOWN = (
    *("epoch", "step", "learning_rate", "grad_norm"),
    *(f"{side}_{measure}" for measure in _MEASURES for side in ("train", "valid")),
)
"""The names that a caller may give to columns."""


def columns_option(text: str) -> dict[str, str]:
    """Return the columns that `--columns` names: ours, and those of the log.

    Raises TrainingLogError for a text of another form, an unknown name, or a name given twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not equals or not theirs:
            raise TrainingLogError(OPTION, f"`{part}` is no pair", "write valid_loss=NAME,train_loss=NAME")
        if ours not in KNOWN:
            near = difflib.get_close_matches(ours, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KNOWN[:8])} and further metrics"
            raise TrainingLogError(OPTION, f"there is no measure `{ours}`", hint)
        if ours in columns or theirs in columns.values():
            raise TrainingLogError(OPTION, f"`{part}` names something a second time", "name each column once")
        columns[ours] = theirs
    return columns


def with_chosen_columns(table: LogTable, columns: Mapping[str, str]) -> LogTable:
    """Return the table with the chosen columns under our names.

    Another column with the meaning of a chosen one is left out. Raises TrainingLogError for a
    column that the table lacks.
    """
    if not columns:
        return table
    present = list(dict.fromkeys(column for row in table.rows for column in row.cells))
    for theirs in columns.values():
        if theirs not in present:
            near = difflib.get_close_matches(theirs, present, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"the columns are {listed(present)}"
            raise TrainingLogError(table.name, f"there is no column `{theirs}`", hint)
    ours = {theirs: name for name, theirs in columns.items()}
    meanings = {column_names.meaning(name) for name in columns}
    axes = {column_names.normalized(name) for name in columns}

    def name_of(column: str) -> str | None:
        if column in ours:
            return ours[column]
        is_same = column_names.meaning(column) in meanings and column_names.meaning(column).known
        return None if is_same or column_names.normalized(column) in axes else column

    names = {column: name_of(column) for column in present}
    rows = tuple(
        LogRow(row.place, {name: cell for column, cell in row.cells.items() if (name := names[column]) is not None})
        for row in table.rows
    )
    return replace(table, rows=rows)


def listed(columns: list[str]) -> str:
    """Name the columns of a table in a message, at most twelve."""
    shown = ", ".join(f"`{column[:40]}`" for column in columns[:12])
    return f"{shown} and {len(columns) - 12} more" if len(columns) > 12 else shown or "none"
