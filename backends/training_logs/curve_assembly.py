"""Turns the rows of a log into a learning curve.

Chooses the columns, locates the rows on the x axis, and merges their values.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from backends.training_logs import column_names
from backends.training_logs.column_choice import COLUMNS_HINT, listed
from backends.training_logs.column_names import BATCH, WHOLE, ColumnMeaning
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import ImportedCurve, RunDetails
from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport
from backends.training_logs.log_table import LogRow, LogTable, parse_number
from backends.training_logs.row_positions import RowStamp, locate_rows

FIELDS = ("train_loss", "valid_loss", "train_metric", "valid_metric")

NOT_MEASURED = -1.0
"""The number that some fine-tuning services write into a cell without a value."""

ABOVE_ONE = 1.001
"""A metric above this is in per cent: rounding alone cannot carry a share so far above 1."""


MIN_ALTERNATING = 3
"""So many numbers with NaN between them show that NaN is a blank."""


@dataclass(frozen=True)
class _ParsedRow:
    """A row with its values, and the training loop's learning rate and gradient norm."""

    stamp: RowStamp
    values: Mapping[str, float]
    learning_rate: float | None = None
    grad_norm: float | None = None


def assemble_curve(table: LogTable, details: RunDetails) -> ImportedCurve:
    """Build the curve.

    Raises TrainingLogError, with the place, for a table that is not a training log.
    """
    columns = list(dict.fromkeys(column for row in table.rows for column in row.cells))
    meanings = _meanings(table, columns)
    metric = _metric(table, meanings, details)
    chosen = _chosen_columns(table, meanings, metric)
    if not chosen:
        message = f"no column holds a known loss or metric; the columns are {listed(columns)}"
        raise TrainingLogError(table.name, message, COLUMNS_HINT)
    rows, blank_notes = _without_blank_nan(_parsed_rows(table, meanings, chosen))
    if not rows:
        raise TrainingLogError(table.name, f"there is no number under {', '.join(chosen.values())}")
    located = locate_rows([row.stamp for row in rows], details.train_examples)
    known = [(x, row) for x, row in zip(located.positions, rows, strict=True) if x is not None]
    read_before = sum(len(row.values) for _, row in known)
    known, restart_notes = _last_run(known)
    notes = [*table.notes, *blank_notes, *located.notes, *restart_notes]
    left_out = list(table.left_out)
    if earlier := read_before - sum(len(row.values) for _, row in known):
        left_out.append(f"{earlier} values of earlier runs")
    if unlocated := located.positions.count(None):
        notes.append(f"rows without epoch and step are left out: {unlocated}")
        left_out.append(f"{unlocated} rows without epoch and step")
    known, repeated = _without_repeated_evaluation(known)
    left_out += repeated
    values_read = sum(len(row.values) for _, row in known)
    points = _merged(known)
    points, averaging_notes = _with_averaged_training_values(points)
    points, share_notes = _as_shares(table, points, metric)
    notes += [*averaging_notes, *share_notes]
    if table.hosted and "valid_loss" in chosen:
        is_whole = meanings[chosen["valid_loss"]].extent == WHOLE
        notes.append("validation losses are those of " + ("the whole validation set" if is_whole else "mini-batches"))
    if not any(point.valid_loss is not None or point.valid_metric is not None for point in points):
        notes.append(f"no validation values were found in the columns {', '.join(columns)}")
    # if the loop's own loss has a column, `train_loss` is that of scored examples and not a loop
    # report
    has_loop_loss = any(column_names.normalized(column) == column_names.LOOP_LOSS for column in columns)
    loop_reports = () if has_loop_loss else _loop_reports(known)
    baseline = with_known_baseline(next((point for point in points if point.epoch == 0), None), details)
    valid_examples = details.valid_examples
    if valid_examples is None and (valid_examples := _validation_size(table)) is not None:
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
    used = _used_columns(meanings, chosen, metric, has_loop_reports=bool(loop_reports))
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


def best_by(metric: str | None, details: RunDetails) -> Literal["metric", "loss"]:
    """Return which side decides which epoch to keep.

    That is the metric if it is a goal of training, otherwise the loss.
    """
    is_no_goal = metric in column_names.TOKEN_METRICS and details.metric is None
    return "loss" if metric is None or is_no_goal else "metric"


def metric_name(written: str) -> str:
    """Return the metric that `--metric` names.

    Raises TrainingLogError for a measure for which lower is better.
    """
    metric = column_names.metric(written)
    if metric == "loss" or metric in column_names.LOSS_LIKE or metric.endswith("_loss"):
        hint = "name a share for which higher is better, such as accuracy or macro_f1; losses are always read"
        raise TrainingLogError("--metric", f"`{written}` is a loss and no metric", hint)
    return metric


def with_known_baseline(baseline: CurvePoint | None, details: RunDetails) -> CurvePoint | None:
    """Return the score before training. Values that the caller gave replace those of the log."""
    if details.baseline_loss is not None:
        baseline = replace(baseline or CurvePoint(0.0, 0), valid_loss=details.baseline_loss)
    if details.baseline_metric is not None:
        share = details.baseline_metric / 100 if details.baseline_metric > ABOVE_ONE else details.baseline_metric
        baseline = replace(baseline or CurvePoint(0.0, 0), valid_metric=share)
    return baseline


# ------------------------------------------------------------------------------------------ columns
def _is_axis(column: str) -> bool:
    return column_names.normalized(column) in column_names.EPOCH | column_names.STEP | column_names.EXAMPLES


def _meanings(table: LogTable, columns: Sequence[str]) -> dict[str, ColumnMeaning]:
    meanings = {column: column_names.meaning(column) for column in columns if not _is_axis(column)}
    if table.hosted:
        validates_tokens = any(
            meaning.side == "valid" and meaning.measure == "token_accuracy" for meaning in meanings.values()
        )
        has_train_tokens = ColumnMeaning("train", "token_accuracy") in meanings.values()
        for column, meaning in meanings.items():
            if meaning == ColumnMeaning("train", "accuracy") and validates_tokens and not has_train_tokens:
                # OpenAI's name for token accuracy
                meanings[column] = replace(meaning, measure="token_accuracy")
            elif meaning.measure == "accuracy" and meaning.extent != WHOLE:
                # Azure's name for exact matches
                meanings[column] = replace(meaning, measure="sequence_accuracy")
    validated = {meaning.measure for meaning in meanings.values() if meaning.side == "valid"}
    for column, meaning in meanings.items():
        if meaning.side is None and meaning.measure in validated:
            # as in `accuracy` beside `val_accuracy`
            meanings[column] = replace(meaning, side="train")
    return {column: meanings.get(column, ColumnMeaning(None, "")) for column in columns}


def _metric(table: LogTable, meanings: Mapping[str, ColumnMeaning], details: RunDetails) -> str | None:
    validated = [
        meaning.measure
        for column, meaning in meanings.items()
        if meaning.side == "valid" and meaning.measure != "loss" and _value_count(table, column)
    ]
    if details.metric is None:
        return next((metric for metric in column_names.METRICS if metric in validated), None)
    wanted = metric_name(details.metric)
    if wanted not in validated:
        raise no_such_metric(table.name, details.metric, dict.fromkeys(validated))
    return wanted


def no_such_metric(place: str, written: str, available: Iterable[str]) -> TrainingLogError:
    """Return the error for a `--metric` without validation values."""
    hint = f"choose a metric of this log with --metric: {', '.join(available) or 'it has none'}"
    return TrainingLogError(place, f"the log has no validation values of the metric `{written}`", hint)


def _chosen_columns(table: LogTable, meanings: Mapping[str, ColumnMeaning], metric: str | None) -> dict[str, str]:
    """Return the column of each field.

    The largest extent decides, then the number of values.
    """
    chosen: dict[str, tuple[tuple[int, int], str]] = {}
    for column, meaning in meanings.items():
        if meaning.side is None or meaning.measure not in ("loss", metric) or not meaning.measure:
            continue
        field = f"{meaning.side}_{'loss' if meaning.measure == 'loss' else 'metric'}"
        rank = (meaning.extent, _value_count(table, column))
        if field not in chosen or (rank > chosen[field][0] and rank[1] > 0) or chosen[field][0][1] == 0:
            chosen[field] = (rank, column)
    return {field: chosen[field][1] for field in FIELDS if field in chosen}


def _value_count(table: LogTable, column: str) -> int:
    """Return the number of cells with a value.

    A cell that is not a number counts, so that it is reported later.
    """
    count = 0
    for row in table.rows:
        try:
            value = parse_number(row.cells.get(column))
        except ValueError:
            count += 1
        else:
            count += value is not None and not (table.hosted and value == NOT_MEASURED)
    return count


def _used_columns(
    meanings: Mapping[str, ColumnMeaning], chosen: Mapping[str, str], metric: str | None, *, has_loop_reports: bool
) -> set[str]:
    used = {*chosen.values(), *(column for column in meanings if _is_axis(column))}
    used |= {column for column, meaning in meanings.items() if meaning.known and meaning.measure in ("loss", metric)}
    if has_loop_reports:
        reported = column_names.LEARNING_RATE | column_names.GRAD_NORM
        used |= {column for column in meanings if column_names.normalized(column) in reported}
    return used


# --------------------------------------------------------------------------------------------- rows
def _parsed_rows(table: LogTable, meanings: Mapping[str, ColumnMeaning], chosen: Mapping[str, str]) -> list[_ParsedRow]:
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
            rows.append(_ParsedRow(_stamp(row, values, meanings, chosen), values, learning_rate, grad_norm))
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


def _loop_reports(rows: Iterable[tuple[float, _ParsedRow]]) -> tuple[LoopReport, ...]:
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


def _without_blank_nan(rows: list[_ParsedRow]) -> tuple[list[_ParsedRow], list[str]]:
    """Read NaN as a blank where validation values and NaN alternate regularly.

    Programs that log all columns at every step write NaN between two evaluations.
    """
    notes, blank = [], set()
    for field in ("valid_loss", "valid_metric"):
        values = [row.values[field] for row in rows if field in row.values]
        if _alternates(values):
            blank.add(field)
            notes.append(f"NaN between the values of {field} is read as a blank: {sum(map(math.isnan, values))} times")
    if not blank:
        return rows, []
    kept = []
    for row in rows:
        values_of_row = {
            field: value for field, value in row.values.items() if field not in blank or not math.isnan(value)
        }
        if values_of_row:
            kept.append(replace(row, values=values_of_row, stamp=_with_sides(row.stamp, values_of_row)))
    return kept, notes


def _alternates(values: Sequence[float]) -> bool:
    """Return whether equally many NaN stand between any two numbers, and no more after the last."""
    known = [index for index, value in enumerate(values) if not math.isnan(value)]
    gaps = {after - before - 1 for before, after in pairwise(known)}
    if len(known) < MIN_ALTERNATING or len(gaps) > 1 or 0 in gaps:
        return False
    return len(values) - 1 - known[-1] <= max(gaps)


def _with_sides(stamp: RowStamp, values: Mapping[str, float]) -> RowStamp:
    has_validation = any(field.startswith("valid") for field in values)
    return replace(
        stamp,
        has_training=any(field.startswith("train") for field in values),
        has_validation=has_validation,
        has_whole_validation=stamp.has_whole_validation and has_validation,
    )


def _without_repeated_evaluation(
    rows: list[tuple[float, _ParsedRow]],
) -> tuple[list[tuple[float, _ParsedRow]], list[str]]:
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


def _validation_size(table: LogTable) -> int | None:
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
        except ValueError:
            continue
        if seconds and speed and math.isfinite(seconds * speed):
            sizes.append(seconds * speed)
    size = round(statistics.median(sizes)) if sizes else 0
    return size if size > 0 else None


# ------------------------------------------------------------------------------------------- points
def _last_run(rows: list[tuple[float, _ParsedRow]]) -> tuple[list[tuple[float, _ParsedRow]], list[str]]:
    """Return the rows of the last run, in order.

    Programs often append a new run to the file of the run before.
    """
    positions = [x for x, _ in rows]
    if len(set(positions)) > 1 and positions == sorted(positions, reverse=True):
        return rows[::-1], []
    if len(set(positions)) == len(positions) and positions != sorted(positions):
        return sorted(rows, key=lambda row: row[0]), ["the rows are not in order: they are sorted"]
    starts = [n for n in range(1, len(positions)) if positions[n] < positions[n - 1] and positions[n] <= positions[0]]
    if not starts:
        return rows, []
    return rows[starts[-1] :], [f"the log starts again {len(starts)} time(s): only its last run is judged"]


def _merged(rows: Sequence[tuple[float, _ParsedRow]]) -> list[CurvePoint]:
    """Make one point of the rows at the same position, in the order of positions.

    Of two values, the later one wins.
    """
    points: dict[float, CurvePoint] = {}
    for count, (x, row) in enumerate(rows, 1):
        step = int(row.stamp.step) if row.stamp.step is not None else count if x else 0
        points[x] = replace(points.get(x, CurvePoint(x, step)), step=step, **row.values)
    return [points[x] for x in sorted(points)]


def _with_averaged_training_values(points: Sequence[CurvePoint]) -> tuple[list[CurvePoint], list[str]]:
    """Move training values that were logged between evaluations to the evaluation that follows.

    An evaluation gets the mean over the later half of the values since the previous evaluation: the
    earlier half belongs to a less trained model. Values that are not finite keep their own points.
    """
    kept: list[CurvePoint] = []
    since_evaluation: list[CurvePoint] = []
    longest, has_points_between = 0, False
    for point in points:
        since_evaluation.append(point)
        if point.valid_loss is None and point.valid_metric is None:
            continue
        if len(since_evaluation) > 1:
            has_points_between = True
        longest = max(longest, len(since_evaluation))
        kept += [*_not_finite(since_evaluation[:-1]), _with_mean_training_values(point, since_evaluation)]
        since_evaluation = []
    if not kept or not (has_points_between or since_evaluation):
        return list(points), []
    kept += _not_finite(since_evaluation)
    # training went on long after the last evaluation
    if len(since_evaluation) >= max(2, longest / 2):
        kept.append(_with_mean_training_values(since_evaluation[-1], since_evaluation))
    kept = list({point.epoch: point for point in kept}.values())
    return kept, ["training values between two evaluations are averaged over their later half"]


def _not_finite(points: Iterable[CurvePoint]) -> list[CurvePoint]:
    return [point for point in points if not all(map(math.isfinite, point.values))]


def _with_mean_training_values(point: CurvePoint, since_evaluation: Sequence[CurvePoint]) -> CurvePoint:
    means: dict[str, Any] = {}
    for field in ("train_loss", "train_metric"):
        own_value = getattr(point, field)
        values = [getattr(logged, field) for logged in since_evaluation]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if (own_value is None or math.isfinite(own_value)) and finite:
            later = finite[len(finite) // 2 :]
            means[field] = later[0] if len(later) == 1 else math.fsum(later) / len(later)
    return replace(point, **means)


def _as_shares(table: LogTable, points: list[CurvePoint], metric: str | None) -> tuple[list[CurvePoint], list[str]]:
    """Convert a metric in per cent to a share. Training and validation may differ in that."""
    in_per_cent = {field for field in ("train_metric", "valid_metric") if _is_in_per_cent(table, points, field, metric)}
    if not in_per_cent:
        return points, []

    def converted(point: CurvePoint) -> CurvePoint:
        known = {field: value for field in in_per_cent if (value := getattr(point, field)) is not None}
        shares: dict[str, Any] = {field: value / 100 for field, value in known.items()}
        return replace(point, **shares)

    of_side = "" if len(in_per_cent) == 2 else f" of {'training' if 'train_metric' in in_per_cent else 'validation'}"
    note = f"the {metric}{of_side} is in per cent, and is judged as a share"
    return [converted(point) for point in points], [note]


def _is_in_per_cent(table: LogTable, points: Sequence[CurvePoint], field: str, metric: str | None) -> bool:
    values = [value for point in points if (value := getattr(point, field)) is not None and math.isfinite(value)]
    if not values or (min(values) >= 0 and max(values) <= ABOVE_ONE):
        return False
    if min(values) < 0 or max(values) > 100 * ABOVE_ONE:
        outside = min(values) if min(values) < 0 else max(values)
        hint = "choose a metric between 0 and 1, or 0 and 100 per cent, with --metric, or leave the column out"
        raise TrainingLogError(table.name, f"the metric `{metric}` has the value {outside:g}, which is no share", hint)
    return True
