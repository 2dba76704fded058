"""Rows of a foreign history -> a learning curve: which columns count, where the rows stand, what they are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.training_logs import names
from backends.training_logs.axis import Stamp, place
from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport
from backends.training_logs.names import BATCH, WHOLE, Meaning
from backends.training_logs.table import Context, NamedCurve, Row, Table, TrainingLogError, number

FIELDS = ("train_loss", "valid_loss", "train_metric", "valid_metric")

NOT_MEASURED = -1.0
"""What some fine-tuning services write into a cell for which there is no value."""

ABOVE_ONE = 1.001
"""A metric above is in per cent; rounding alone does not carry a share beyond."""


@dataclass(frozen=True)
class _Read:
    """A row with its values by field of a curve's point, and what the training loop reported beside its loss."""

    stamp: Stamp
    values: Mapping[str, float]
    rate: float | None = None
    grad_norm: float | None = None


def assemble(table: Table, context: Context) -> NamedCurve:
    """Build the curve. Raises TrainingLogError for what is no history, naming the place."""
    columns = list(dict.fromkeys(column for row in table.rows for column in row.cells))
    meanings = _meanings(table, columns)
    metric = _metric(table, meanings, context)
    chosen = _chosen(table, meanings, metric)
    if not chosen:
        shown = ", ".join(f"`{each}`" for each in columns[:12]) or "nothing"
        raise TrainingLogError(table.name, f"no column with a loss or a metric that is known; there is {shown}")
    read = _read(table, meanings, chosen)
    if not read:
        raise TrainingLogError(table.name, f"there is no number under {', '.join(chosen.values())}")
    placed = place([each.stamp for each in read], context.train_examples)
    known = [(x, each) for x, each in zip(placed.x, read, strict=True) if x is not None]
    known, notes = _in_order(known)
    if lost := len(read) - sum(each is not None for each in placed.x):
        notes.append(f"{lost} rows say neither epoch nor step, and are left out")
    merged = _merged(known)
    if len(merged) < 2:
        raise TrainingLogError(
            table.name, "a single row is a level and no curve", "give the whole history, one row an evaluation"
        )
    points, condensed = _condensed(merged)
    points, per_cent = _as_shares(table, points, metric)
    notes = [*table.notes, *placed.notes, *notes, *condensed, *per_cent]
    if table.hosted and "valid_loss" in chosen:
        whole = meanings[chosen["valid_loss"]].quality == WHOLE
        notes.append("validation losses are those of " + ("the whole validation set" if whole else "mini-batches"))
    if not any(each.valid_loss is not None or each.valid_metric is not None for each in points):
        notes.append(f"no validation values were found among: {', '.join(columns)}")
    used = {*chosen.values(), *(each for each in columns if _is_axis(each))}
    used |= {each for each in columns if meanings[each].known and meanings[each].measure in ("loss", metric)}
    # where the loop's own loss has a column, `train_loss` is that of scored examples and no report of the loop
    running = () if any(names.plain(each) == names.LOOP_LOSS for each in columns) else _running(known)
    used |= {each for each in columns if running and names.plain(each) in names.RATE | names.GRADIENT}
    baseline = with_baseline(next((each for each in points if each.epoch == 0), None), context)
    curve = LearningCurve(
        points=tuple(each for each in points if each.epoch != 0),
        baseline=baseline,
        metric=metric,
        train_examples=context.train_examples,
        valid_examples=context.valid_examples,
        classes=context.classes,
        best_by=best_by(metric, context),
        ended=table.ended,
        running=running,
    )
    ignored = tuple(each for each in columns if each not in used)
    return NamedCurve(table.name, table.format, curve, placed.axis, tuple(notes), ignored, table.scope)


def best_by(metric: str | None, context: Context) -> Literal["metric", "loss"]:
    """Which side decides about the epoch to keep: the loss, where no metric is there that one trains for."""
    return "loss" if metric is None or (metric in names.TOKEN_METRICS and context.metric is None) else "metric"


# ------------------------------------------------------------------------------------------------------------- columns
def _is_axis(column: str) -> bool:
    return names.plain(column) in names.EPOCH | names.STEP | names.EXAMPLES


def _meanings(table: Table, columns: Sequence[str]) -> dict[str, Meaning]:
    found = {each: names.meaning(each) for each in columns if not _is_axis(each)}
    if table.hosted:
        tokens = any(each.side == "valid" and each.measure == "token_accuracy" for each in found.values())
        tokens = tokens and Meaning("train", "token_accuracy") not in found.values()
        for column, each in found.items():
            if each == Meaning("train", "accuracy") and tokens:  # OpenAI's name for the accuracy of tokens
                found[column] = replace(each, measure="token_accuracy")
            elif each.measure == "accuracy" and each.quality != WHOLE:  # Azure's for completions that match as a whole
                found[column] = replace(each, measure="sequence_accuracy")
    validated = {each.measure for each in found.values() if each.side == "valid"}
    for column, each in found.items():
        if each.side is None and each.measure in validated:
            found[column] = replace(each, side="train")  # as in `accuracy` beside `val_accuracy`
    return {each: found.get(each, Meaning(None, "")) for each in columns}


def _metric(table: Table, meanings: Mapping[str, Meaning], context: Context) -> str | None:
    there = [
        each.measure
        for column, each in meanings.items()
        if each.side == "valid" and each.measure != "loss" and _count(table, column)
    ]
    if context.metric is None:
        return next((each for each in names.METRICS if each in there), None)
    wanted = metric_name(context.metric)
    if wanted not in there:
        listed = ", ".join(dict.fromkeys(there)) or "none"
        raise TrainingLogError(
            table.name,
            f"no validation values of the metric `{context.metric}`",
            f"metrics here: {listed}; see --metric",
        )
    return wanted


def metric_name(written: str) -> str:
    """Return the metric that `--metric` names. Raises TrainingLogError where less of it is better."""
    wanted = names.metric(written)
    if wanted == "loss" or wanted in names.LOSS_LIKE or wanted.endswith("_loss"):
        hint = "losses are read anyway; --metric names a share that is better the higher, as accuracy or macro_f1"
        raise TrainingLogError("--metric", f"`{written}` is a loss and no metric", hint)
    return wanted


def _chosen(table: Table, meanings: Mapping[str, Meaning], metric: str | None) -> dict[str, str]:
    """Return the column of each field: the one of the best quality, then the one with the most values."""
    chosen: dict[str, tuple[tuple[int, int], str]] = {}
    for column, each in meanings.items():
        if each.side is None or each.measure not in ("loss", metric) or not each.measure:
            continue
        field = f"{each.side}_{'loss' if each.measure == 'loss' else 'metric'}"
        rank = (each.quality, _count(table, column))
        if field not in chosen or (rank > chosen[field][0] and rank[1] > 0) or chosen[field][0][1] == 0:
            chosen[field] = (rank, column)
    return {field: chosen[field][1] for field in FIELDS if field in chosen}


def _count(table: Table, column: str) -> int:
    count = 0
    for row in table.rows:
        try:
            value = number(row.cells.get(column))
        except ValueError:
            count += 1
        else:
            count += value is not None and not (table.hosted and value == NOT_MEASURED)
    return count


# ---------------------------------------------------------------------------------------------------------------- rows
def _read(table: Table, meanings: Mapping[str, Meaning], chosen: Mapping[str, str]) -> list[_Read]:
    """Read the rows that have a value. Of mini-batches' own losses only one that is not finite is taken."""
    batches = [
        column
        for column, each in meanings.items()
        if each == Meaning("train", "loss", BATCH) and column not in chosen.values()
    ]
    rows = []
    for row in table.rows:
        values = {}
        for field, column in chosen.items():
            value = _cell(row, column)
            if value is not None and not (table.hosted and value == NOT_MEASURED):
                values[field] = value
        for column in batches:
            value = _cell(row, column)
            if value is not None and not math.isfinite(value):
                values.setdefault("train_loss", value)
        if values:
            stamp = _stamp(row, values, meanings, chosen)
            rows.append(_Read(stamp, values, _reported(row, names.RATE), _reported(row, names.GRADIENT)))
    return rows


def _reported(row: Row, accepted: Iterable[str]) -> float | None:
    """Return what a training loop reported; None where it is no number: no verdict needs it."""
    for column, cell in row.cells.items():
        if names.plain(column) in accepted:
            try:
                value = number(cell)
            except ValueError:
                return None
            return value if value is not None and math.isfinite(value) else None
    return None


def _running(rows: Iterable[tuple[float, _Read]]) -> tuple[LoopReport, ...]:
    """Return the training loop's reports, in order: rows with a training loss and the rate it was made with."""
    found = [
        LoopReport(x, each.values["train_loss"], each.grad_norm, each.rate)
        for x, each in rows
        if each.rate is not None and math.isfinite(each.values.get("train_loss", math.nan))
    ]
    return tuple(sorted(found, key=lambda each: each.epoch))


def _stamp(row: Row, values: Mapping[str, float], meanings: Mapping[str, Meaning], chosen: Mapping[str, str]) -> Stamp:
    def axis(accepted: Iterable[str]) -> float | None:
        column = next((each for each in row.cells if names.plain(each) in accepted), None)
        if column is None:
            return None
        value = _cell(row, column)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise TrainingLogError(row.place, f"`{column}` is {value}", "epochs and steps are numbers from 0 on")
        return value

    whole = any(field.startswith("valid") and meanings[chosen[field]].quality == WHOLE for field in values)
    trained = any(field.startswith("train") for field in values)
    return Stamp(axis(names.EPOCH), axis(names.STEP), axis(names.EXAMPLES), trained, whole)


def _cell(row: Row, column: str) -> float | None:
    try:
        return number(row.cells.get(column))
    except ValueError:
        shown = repr(row.cells[column])[:60]
        hint = "leave a cell empty (null in JSON) where nothing was measured"
        if row.cells[column] == column:
            hint = "a second header: give each run a file of its own"
        raise TrainingLogError(row.place, f"`{column}` is {shown} and no number", hint) from None


# -------------------------------------------------------------------------------------------------------------- points
def _in_order(rows: list[tuple[float, _Read]]) -> tuple[list[tuple[float, _Read]], list[str]]:
    """Leave out what came before a new beginning: the file of a run is often written to by the next one as well."""
    xs = [x for x, _ in rows]
    if len(set(xs)) > 1 and xs == sorted(xs, reverse=True):
        return rows[::-1], []
    begins = [n for n in range(1, len(xs)) if xs[n] < xs[n - 1] and xs[n] <= xs[0]]
    if not begins:
        return rows, []
    return rows[begins[-1] :], [f"the history begins anew {len(begins)} time(s): only its last run is judged"]


def _merged(rows: Sequence[tuple[float, _Read]]) -> list[CurvePoint]:
    """Make one point of the rows with the same place, the later value first, in the order of their places."""
    points: dict[float, CurvePoint] = {}
    for count, (x, row) in enumerate(rows, 1):
        step = int(row.stamp.step) if row.stamp.step is not None else count if x else 0
        points[x] = replace(points.get(x, CurvePoint(x, step)), step=step, **row.values)
    return [points[x] for x in sorted(points)]


def _condensed(points: Sequence[CurvePoint]) -> tuple[list[CurvePoint], list[str]]:
    """Bring the training values to the evaluations, where they were logged more often.

    An evaluation gets the mean over the later half of what was logged since the one before: the earlier half belongs
    to a model that was trained less. Values that are not finite keep their place.
    """
    found: list[CurvePoint] = []
    since: list[CurvePoint] = []
    widest, loose = 0, False
    for each in points:
        since.append(each)
        if each.valid_loss is None and each.valid_metric is None:
            continue
        if len(since) > 1:
            loose = True
        widest = max(widest, len(since))
        found += [*_not_finite(since[:-1]), _with_training(each, since)]
        since = []
    if not found or not (loose or since):
        return list(points), []
    found += _not_finite(since)
    if len(since) >= max(2, widest / 2):  # training went on for long after the last evaluation
        found.append(_with_training(since[-1], since))
    found = list({each.epoch: each for each in found}.values())
    return found, ["training values between two evaluations are averaged over the later half of them"]


def _not_finite(points: Iterable[CurvePoint]) -> list[CurvePoint]:
    return [each for each in points if not all(map(math.isfinite, each.values))]


def _with_training(point: CurvePoint, since: Sequence[CurvePoint]) -> CurvePoint:
    values: dict[str, Any] = {}
    for field in ("train_loss", "train_metric"):
        own = getattr(point, field)
        logged = [value for each in since if (value := getattr(each, field)) is not None and math.isfinite(value)]
        if (own is None or math.isfinite(own)) and logged:
            later = logged[len(logged) // 2 :]
            values[field] = later[0] if len(later) == 1 else math.fsum(later) / len(later)
    return replace(point, **values)


def _as_shares(table: Table, points: list[CurvePoint], metric: str | None) -> tuple[list[CurvePoint], list[str]]:
    """Write a metric in per cent as a share."""
    fields = ("train_metric", "valid_metric")
    values = [value for each in points for field in fields if (value := getattr(each, field)) is not None]
    finite = [each for each in values if math.isfinite(each)]
    if not finite or (min(finite) >= 0 and max(finite) <= ABOVE_ONE):
        return points, []
    if min(finite) < 0 or max(finite) > 100 * ABOVE_ONE:
        outside = min(finite) if min(finite) < 0 else max(finite)
        hint = "name another with --metric, or leave the column out: a metric is a share in 0..1, or 0..100 per cent"
        raise TrainingLogError(table.name, f"the metric `{metric}` is {outside:g} somewhere, which is no share", hint)

    def share(value: float | None) -> float | None:
        return None if value is None else value / 100

    shares = [
        replace(each, train_metric=share(each.train_metric), valid_metric=share(each.valid_metric)) for each in points
    ]
    return shares, [f"the {metric} is in per cent, and judged as a share"]


def with_baseline(found: CurvePoint | None, context: Context) -> CurvePoint | None:
    """Add what is known from elsewhere of the model before training; it wins."""
    if context.baseline_loss is not None:
        found = replace(found or CurvePoint(0.0, 0), valid_loss=context.baseline_loss)
    if context.baseline_metric is not None:
        share = context.baseline_metric / 100 if context.baseline_metric > ABOVE_ONE else context.baseline_metric
        found = replace(found or CurvePoint(0.0, 0), valid_metric=share)
    return found
