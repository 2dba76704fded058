"""Turns the rows of a log into a learning curve.

Chooses the columns, locates the rows on the x axis, and merges their values.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from backends.training_logs import column_names
from backends.training_logs.column_choice import COLUMNS_HINT, listed
from backends.training_logs.column_names import WHOLE
from backends.training_logs.curve_points import ABOVE_ONE, as_shares, merged, with_averaged_training_values
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import ImportedCurve, RunDetails
from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from backends.training_logs.log_table import LogTable, parse_number
from backends.training_logs.measure_choice import best_by, chosen_metric, columns_of_fields, meanings_of, used_columns
from backends.training_logs.parsed_rows import (
    last_run,
    loop_reports_of,
    parsed_rows,
    without_blank_nan,
    without_repeated_evaluation,
)
from backends.training_logs.row_positions import locate_rows


def assemble_curve(table: LogTable, details: RunDetails) -> ImportedCurve:
    """Build the curve.

    Raises TrainingLogError, with the place, for a table that is not a training log.
    """
    columns = list(dict.fromkeys(column for row in table.rows for column in row.cells))
    meanings = meanings_of(table, columns)
    metric = chosen_metric(table, meanings, details)
    chosen = columns_of_fields(table, meanings, metric)
    if not chosen:
        message = f"no column holds a known loss or metric; the columns are {listed(columns)}"
        raise TrainingLogError(table.name, message, COLUMNS_HINT)
    rows, blank_notes = without_blank_nan(parsed_rows(table, meanings, chosen))
    if not rows:
        raise TrainingLogError(table.name, f"there is no number under {', '.join(chosen.values())}")
    located = locate_rows([row.stamp for row in rows], details.train_examples)
    known = [(x, row) for x, row in zip(located.positions, rows, strict=True) if x is not None]
    read_before = sum(len(row.values) for _, row in known)
    known, restart_notes = last_run(known)
    notes = [*table.notes, *blank_notes, *located.notes, *restart_notes]
    left_out = list(table.left_out)
    if earlier := read_before - sum(len(row.values) for _, row in known):
        left_out.append(f"{earlier} values of earlier runs")
    if unlocated := located.positions.count(None):
        notes.append(f"rows without epoch and step are left out: {unlocated}")
        left_out.append(f"{unlocated} rows without epoch and step")
    known, repeated = without_repeated_evaluation(known)
    left_out += repeated
    values_read = sum(len(row.values) for _, row in known)
    points = merged(known)
    points, averaging_notes = with_averaged_training_values(points)
    points, share_notes = as_shares(table, points, metric)
    notes += [*averaging_notes, *share_notes]
    if table.hosted and "valid_loss" in chosen:
        is_whole = meanings[chosen["valid_loss"]].extent == WHOLE
        notes.append("validation losses are those of " + ("the whole validation set" if is_whole else "mini-batches"))
    if not any(point.valid_loss is not None or point.valid_metric is not None for point in points):
        notes.append(f"no validation values were found in the columns {', '.join(columns)}")
    # if the loop's own loss has a column, `train_loss` is that of scored examples and not a loop
    # report
    has_loop_loss = any(column_names.normalized(column) == column_names.LOOP_LOSS for column in columns)
    loop_reports = () if has_loop_loss else loop_reports_of(known)
    baseline = with_known_baseline(next((point for point in points if point.epoch == 0), None), details)
    valid_examples = details.valid_examples
    if valid_examples is None and (valid_examples := validation_size(table)) is not None:
        notes.append(f"the validation set has {valid_examples:,} examples, as its runtime and its speed show")
    curve = LearningCurve(
        points=tuple(point for point in points if point.epoch != 0),
        baseline=baseline,
        metric=metric,
        train_examples=details.train_examples,
        valid_examples=valid_examples,
        classes=details.classes,
        best_by=best_by(metric, details),
        ended=table.ended,
        loop_reports=loop_reports,
    )
    used = used_columns(meanings, chosen, metric, has_loop_reports=bool(loop_reports))
    ignored = tuple(column for column in columns if column not in used)
    return ImportedCurve(
        table.name,
        table.format,
        curve,
        located.axis,
        tuple(notes),
        ignored,
        table.scope,
        values_read=values_read,
        left_out=tuple(left_out),
    )


def with_known_baseline(baseline: CurvePoint | None, details: RunDetails) -> CurvePoint | None:
    """Return the score before training. Values that the caller gave replace those of the log."""
    if details.baseline_loss is not None:
        baseline = replace(baseline or CurvePoint(0.0, 0), valid_loss=details.baseline_loss)
    if details.baseline_metric is not None:
        share = details.baseline_metric / 100 if details.baseline_metric > ABOVE_ONE else details.baseline_metric
        baseline = replace(baseline or CurvePoint(0.0, 0), valid_metric=share)
    return baseline


def validation_size(table: LogTable) -> int | None:
    """Return the number of validation examples that the log of the Hugging Face Trainer implies.

    It logs the time of an evaluation with four decimals and the speed with three, so the median
    over the evaluations is exact to a few examples.
    """
    sizes = []
    for row in table.rows:
        cells = {column_names.normalized(str(column)): cell for column, cell in row.cells.items()}
        try:
            seconds = parse_number(cells.get("eval_runtime"))
            speed = parse_number(cells.get("eval_samples_per_second"))
            count = parse_number(cells.get("eval_samples"))
        except ValueError:
            continue
        if count and math.isfinite(count):
            sizes.append(count)
        elif seconds and speed and math.isfinite(seconds * speed):
            sizes.append(seconds * speed)
    size = round(statistics.median(sizes)) if sizes else 0
    return size if size > 0 else None
