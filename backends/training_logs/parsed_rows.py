"""The rows of a log as numbers: blanks, further evaluations and earlier runs are left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from backends.training_logs import column_names
from backends.training_logs.column_names import BATCH, WHOLE, ColumnMeaning
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.learning_curve import LoopReport
from backends.training_logs.log_table import LogRow, LogTable, parse_number
from backends.training_logs.measure_choice import NOT_MEASURED
from backends.training_logs.row_positions import RowStamp


@dataclass(frozen=True)
class ParsedRow:
    """A row with its values, and the training loop's learning rate and gradient norm."""

    stamp: RowStamp
    values: Mapping[str, float]
    learning_rate: float | None = None
    grad_norm: float | None = None


def parsed_rows(table: LogTable, meanings: Mapping[str, ColumnMeaning], chosen: Mapping[str, str]) -> list[ParsedRow]:
    """Parse the rows that have a value.

    A loss of a single mini-batch counts only if it is not finite.
    """
    batch_losses = [
        column
        for column, meaning in meanings.items()
        if meaning == ColumnMeaning("train", "loss", BATCH) and column not in chosen.values()
    ]
    rows = []
    for row in table.rows:
        values = {}
        for field, column in chosen.items():
            value = _number(row, column)
            if value is not None and not (table.hosted and value == NOT_MEASURED):
                values[field] = value
        for column in batch_losses:
            value = _number(row, column)
            if value is not None and not math.isfinite(value):
                values.setdefault("train_loss", value)
        if values:
            learning_rate = _reported(row, column_names.LEARNING_RATE)
            grad_norm = _reported(row, column_names.GRAD_NORM)
            rows.append(ParsedRow(_stamp(row, values, meanings, chosen), values, learning_rate, grad_norm))
    return rows


def _reported(row: LogRow, names: Iterable[str]) -> float | None:
    """Return a value that the training loop reported.

    Returns None if it is not a finite number, because no verdict needs it.
    """
    for column, cell in row.cells.items():
        if column_names.normalized(column) in names:
            try:
                value = parse_number(cell)
            except ValueError:
                return None
            return value if value is not None and math.isfinite(value) else None
    return None


def loop_reports_of(rows: Iterable[tuple[float, ParsedRow]]) -> tuple[LoopReport, ...]:
    """Return the reports of the training loop, in order.

    A report is a row with a training loss and a learning rate.
    """
    reports = [
        LoopReport(x, row.values["train_loss"], row.grad_norm, row.learning_rate)
        for x, row in rows
        if row.learning_rate is not None and math.isfinite(row.values.get("train_loss", math.nan))
    ]
    return tuple(sorted(reports, key=lambda report: report.epoch))


def _stamp(
    row: LogRow, values: Mapping[str, float], meanings: Mapping[str, ColumnMeaning], chosen: Mapping[str, str]
) -> RowStamp:
    def axis_value(names: Iterable[str]) -> float | None:
        column = next((column for column in row.cells if column_names.normalized(column) in names), None)
        if column is None:
            return None
        value = _number(row, column)
        if value is not None and not (math.isfinite(value) and value >= 0):
            hint = "epochs and steps are numbers from 0 on; correct the cell"
            raise TrainingLogError(row.place, f"`{column}` is {value}", hint)
        return value

    return RowStamp(
        epoch=axis_value(column_names.EPOCH),
        step=axis_value(column_names.STEP),
        examples=axis_value(column_names.EXAMPLES),
        has_training=any(field.startswith("train") for field in values),
        has_whole_validation=any(
            field.startswith("valid") and meanings[chosen[field]].extent == WHOLE for field in values
        ),
        has_validation=any(field.startswith("valid") for field in values),
    )


def _number(row: LogRow, column: str) -> float | None:
    try:
        return parse_number(row.cells.get(column))
    except ValueError:
        written = repr(row.cells[column])[:60]
        hint = "leave a cell empty (null in JSON) where nothing was measured"
        if row.cells[column] == column:
            hint = "the row is a second header: give each run a file of its own"
        raise TrainingLogError(row.place, f"`{column}` is {written} and no number", hint) from None


def without_blank_nan(rows: list[ParsedRow]) -> tuple[list[ParsedRow], list[str]]:
    """Read NaN as a blank where validation values and NaN alternate.

    Programs that log all columns at every step write NaN between two evaluations. NaN that follows
    the last number for longer than before stays: the run diverged.
    """
    notes = []
    blanks: dict[str, set[int]] = {}
    for field in ("valid_loss", "valid_metric"):
        having = [index for index, row in enumerate(rows) if field in row.values]
        found = _blank_places([rows[index].values[field] for index in having])
        if found:
            blanks[field] = {having[place] for place in found}
            notes.append(f"NaN between the values of {field} is read as a blank: {len(found)} times")
    if not blanks:
        return rows, []
    kept = []
    for index, row in enumerate(rows):
        left = {field: value for field, value in row.values.items() if index not in blanks.get(field, ())}
        if left:
            kept.append(replace(row, values=left, stamp=_with_sides(row.stamp, left)))
    return kept, notes


def _blank_places(values: Sequence[float]) -> list[int]:
    """Return where NaN is a blank: between numbers, if most of their gaps have it."""
    known = [place for place, value in enumerate(values) if not math.isnan(value)]
    gaps = [after - before - 1 for before, after in pairwise(known)]
    if not gaps or sum(gap > 0 for gap in gaps) <= len(gaps) / 2:
        return []
    goes_on = len(values) - 1 - known[-1] <= max(gaps)
    end = len(values) if goes_on else known[-1]
    return [place for place, value in enumerate(values[:end]) if math.isnan(value)]


def _with_sides(stamp: RowStamp, values: Mapping[str, float]) -> RowStamp:
    has_validation = any(field.startswith("valid") for field in values)
    return replace(
        stamp,
        has_training=any(field.startswith("train") for field in values),
        has_validation=has_validation,
        has_whole_validation=stamp.has_whole_validation and has_validation,
    )


def without_repeated_evaluation(
    rows: list[tuple[float, ParsedRow]],
) -> tuple[list[tuple[float, ParsedRow]], list[str]]:
    """Leave out a second evaluation at the end, of the best state or of another set."""
    evaluated = [index for index, (_, row) in enumerate(rows) if row.stamp.has_validation]
    if len(evaluated) < 3:
        return rows, []
    last, before = evaluated[-1], evaluated[-2]
    fields = [field for field in rows[last][1].values if field.startswith("valid")]
    is_again = rows[last][0] == rows[before][0] and last == len(rows) - 1
    if not is_again or any(field not in rows[before][1].values for field in fields):
        return rows, []
    return rows[:last], ["1 further evaluation at the last step"]


def last_run(rows: list[tuple[float, ParsedRow]]) -> tuple[list[tuple[float, ParsedRow]], list[str]]:
    """Return the rows of the last run, in order.

    Programs often append a new run to the file of the run before.
    """
    positions = [x for x, _ in rows]
    if len(set(positions)) > 1 and positions == sorted(positions, reverse=True):
        return rows[::-1], []
    measured = [(x, field) for x, row in rows for field in row.values]
    if len(set(measured)) == len(measured) and positions != sorted(positions):
        return sorted(rows, key=lambda row: row[0]), ["the rows are not in order: they are sorted"]
    starts = [n for n in range(1, len(positions)) if positions[n] < positions[n - 1] and positions[n] <= positions[0]]
    if not starts:
        return rows, []
    return rows[starts[-1] :], [f"the log starts again {len(starts)} time(s): only its last run is judged"]
