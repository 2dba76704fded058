"""Which columns of a log hold which measures: the losses, and the metric to judge by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from backends.training_logs import column_names
from backends.training_logs.column_names import WHOLE, ColumnMeaning
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import RunDetails
from backends.training_logs.log_table import LogTable, parse_number

FIELDS = ("train_loss", "valid_loss", "train_metric", "valid_metric")
"""What a point of a learning curve holds."""

NOT_MEASURED = -1.0
"""The number that some fine-tuning services write into a cell without a value."""


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


def is_axis(column: str) -> bool:
    """Return whether a column counts epochs, steps or examples."""
    return column_names.normalized(column) in column_names.EPOCH | column_names.STEP | column_names.EXAMPLES


def meanings_of(table: LogTable, columns: Sequence[str]) -> dict[str, ColumnMeaning]:
    """Return the meaning of each column, as the names of all columns together reveal it."""
    meanings = {column: column_names.meaning(column) for column in columns if not is_axis(column)}
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


def chosen_metric(table: LogTable, meanings: Mapping[str, ColumnMeaning], details: RunDetails) -> str | None:
    """Return the metric to judge by: the wanted one, or the first known one; None if there is none.

    Raises TrainingLogError if the wanted one has no validation values.
    """
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


def columns_of_fields(table: LogTable, meanings: Mapping[str, ColumnMeaning], metric: str | None) -> dict[str, str]:
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


def used_columns(
    meanings: Mapping[str, ColumnMeaning], chosen: Mapping[str, str], metric: str | None, *, has_loop_reports: bool
) -> set[str]:
    """Return the columns that the curve uses."""
    used = {*chosen.values(), *(column for column in meanings if is_axis(column))}
    used |= {column for column, meaning in meanings.items() if meaning.known and meaning.measure in ("loss", metric)}
    if has_loop_reports:
        reported = column_names.LEARNING_RATE | column_names.GRAD_NORM
        used |= {column for column in meanings if column_names.normalized(column) in reported}
    return used
