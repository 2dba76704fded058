"""Turns the rows of a program's log into measurements: names, steps and epochs as a sweep has them.

The columns are named by `backends.training_logs.column_names`; the user's `rename` comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from backends.contract import Measured
from backends.training_logs import column_names
from backends.training_logs.json_formats import is_hidden_nan
from backends.training_logs.live_sources import Row, flattened
from backends.training_logs.log_table import parse_number

SUMMARY_COLUMN = "train_runtime"
"""Only the summary that the Hugging Face Trainer writes after training has it."""

_STEP = column_names.STEP | {"current_steps"}

_LOOP_NAMES: Mapping[str, str] = {
    **dict.fromkeys(column_names.LEARNING_RATE, "learning_rate"),
    **dict.fromkeys(column_names.GRAD_NORM, "grad_norm"),
    column_names.LOOP_LOSS: column_names.LOOP_LOSS,
}
_NO_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens", "time")
"""Columns beside the metrics of an evaluation that say how long it took."""

LOSSES_KEPT = 1000
"""How many losses of the training loop since the last evaluation count for its training loss."""


@dataclass(frozen=True)
class NamedRow:
    """A row with our names: its place on the axis, and its scores or its loop reports.

    `step` and `epoch` are as the log counts them; None where the row has none.
    """

    step: float | None = None
    epoch: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    loop: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_evaluation(self) -> bool:
        """Whether the row has a score of the validation set."""
        return _has_validation(self.scores)

    @property
    def is_training(self) -> bool:
        """Whether the row has a value of the training set or of the training loop."""
        return bool(self.loop) or any(name.startswith("train_") for name in self.scores)


def named(row: Row, rename: Mapping[str, str]) -> NamedRow:
    """Name the columns of a row. Cells that are no numbers are left out.

    `rename` may also name a column `step`, `epoch` or a report of the training loop.
    """
    place: dict[str, float] = {}
    scores: dict[str, float] = {}
    loop: dict[str, float] = {}
    for column, cell in flattened(row).items():
        number = _number(cell)
        if number is None:
            continue
        name = rename.get(column) or _own_name(column)
        if name is None:
            continue
        if name in ("step", "epoch"):
            if math.isfinite(number):
                place[name] = number
        elif name in _LOOP_NAMES.values():
            loop[name] = number
        else:
            scores[name] = number
    return NamedRow(place.get("step"), place.get("epoch"), scores, loop)


@lru_cache(maxsize=4096)
def _own_name(column: str) -> str | None:
    """Return our name for a column; None if the column is neither a score nor a loop report."""
    last = column_names.normalized(column.rpartition("/")[2])
    meaning = column_names.meaning(column)
    measure = column_names.normalized(meaning.measure)
    if last in _STEP:
        return "step"
    if last in column_names.EPOCH:
        return "epoch"
    if meaning.side == "valid":
        return None if measure.endswith(_NO_METRICS) else f"valid_{measure}"
    if last in _LOOP_NAMES:
        return _LOOP_NAMES[last]
    if meaning.side == "train" and measure == "loss" and meaning.extent != column_names.WHOLE:
        return f"train_{measure}" if _names_training(column) else column_names.LOOP_LOSS
    if meaning.side == "train" and (meaning.known or meaning.extent == column_names.WHOLE):
        return f"train_{measure}"
    return None


def _names_training(column: str) -> bool:
    """Return whether a column says itself that it is about training.

    `train_loss` does, beside which a log may have the `loss` of its loop; `loss` and `train/loss`,
    as TensorBoard callbacks write it, do not.
    """
    return "/" not in column and column_names.normalized(column) in ("train_loss", "training_loss")


def _number(cell: Any) -> float | None:
    try:
        return parse_number(cell)
    except ValueError:
        return None


def _has_validation(scores: Mapping[str, float]) -> bool:
    return any(name.startswith("valid_") for name in scores)


@dataclass(frozen=True)
class Timeline:
    """Places named rows on the axes of steps and epochs, in the order of the log. A value.

    `metric` is the metric to keep, `by_column` is set for logs with one column in a row, and
    `first_step` is the number that the log gives to its first step.

    The rows of a step become one evaluation. It is complete when the columns of earlier
    evaluations are there, or else when another step begins. The first evaluation of a log with
    whole rows is complete with the metric to keep; new columns that follow are reported by
    themselves.

    An evaluation without a training loss gets the mean of the later half of the losses that the
    training loop has reported since the evaluation before, as `sweep fit` reads it from such a log.

    Epochs and steps that a log counts from 0 are counted from 1. Steps that begin again in every
    epoch are added up. Without epochs an evaluation counts as an epoch, and without steps as a
    step. Neither ever decreases: a program that resumed from a checkpoint reports again what is
    already known, and those rows are left out.
    """

    metric: str = "valid_loss"
    by_column: bool = False
    first_step: int = 1

    step: int = 0
    epoch: float = 0.0
    evaluations: int = 0
    evaluated_step: int = -1
    has_trained: bool = False
    epochs_from_zero: bool | None = None
    expected: tuple[str, ...] = ()

    has_steps: bool = False
    steps_before: int = 0
    log_step: float | None = None
    log_epoch: float | None = None

    known: tuple[str, ...] = ()
    is_evaluated: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    loop: Mapping[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()

    def after(self, rows: Iterable[NamedRow]) -> tuple[Timeline, list[Measured]]:
        """Return the timeline after further rows, and the measurements that became complete."""
        timeline, events = self, []
        for row in rows:
            timeline, new = timeline._after(row)
            events += new
        return timeline, events

    def ended(self) -> tuple[Timeline, list[Measured]]:
        """Return the timeline of a log that has ended, and its last measurements."""
        return self._closed(None)

    # ----------------------------------------------------------------------------------- the place
    def _after(self, row: NamedRow) -> tuple[Timeline, list[Measured]]:
        names = (*row.scores, *row.loop)
        if not names and row.epoch is None:
            return self, []
        order = self._order(row, names)
        if order < 0:
            return self, []
        timeline, events = self, list[Measured]()
        if order > 0:
            timeline, events = self._closed(row)
            timeline = timeline._moved(row)
        elif row.epoch is not None:
            timeline = replace(timeline, log_epoch=row.epoch)
        timeline, more = timeline._merged(row)
        return timeline, [*events, *more]

    def _order(self, row: NamedRow, names: tuple[str, ...]) -> int:
        """Return whether a row lies behind the current place (1), at it (0), or before it (-1)."""
        is_repeated = any(name in self.known for name in names)
        if row.step is not None:
            if not self.has_steps or self._begins_again(row):
                return 1
            assert self.log_step is not None
            if row.step < self.log_step:
                return int(self._is_late_evaluation(row)) or -1
            if not self.by_column and row.epoch is not None and row.epoch < (self.log_epoch or 0.0):
                return -1
            return int(row.step > self.log_step)
        if row.epoch is not None and self.log_epoch is not None and row.epoch != self.log_epoch:
            return 1 if row.epoch > self.log_epoch else -1
        if row.epoch is not None and self.log_epoch is not None and is_repeated and row.is_evaluation:
            return -1
        return int(is_repeated or (not self.known and not self.has_steps))

    def _is_late_evaluation(self, row: NamedRow) -> bool:
        """Return whether a new evaluation comes after loop reports of later steps.

        Another file has it. It is placed at the current step, because steps never decrease.
        """
        is_new = row.step is not None and self._own_step(row.step) > self.evaluated_step
        return not self.by_column and row.is_evaluation and is_new

    def _own_step(self, step: float) -> int:
        return self.steps_before + int(step) + 1 - self.first_step

    def _begins_again(self, row: NamedRow) -> bool:
        """Return whether the steps begin again, because the row belongs to a later epoch."""
        if row.step is None or row.epoch is None or self.log_step is None or self.log_epoch is None:
            return False
        return not self.by_column and row.step <= self.log_step and row.epoch > self.log_epoch

    def _moved(self, row: NamedRow) -> Timeline:
        """Return the timeline at the place of a row that lies behind the current one."""
        moved = replace(self, known=(), is_evaluated=False, scores={}, loop={})
        if row.epoch is not None:
            is_whole = row.epoch.is_integer()
            moved = replace(moved, log_epoch=row.epoch, epochs_from_zero=self.epochs_from_zero if is_whole else False)
        if row.step is None:
            return moved
        if self._begins_again(row):
            moved = replace(moved, steps_before=self.steps_before + int(self.log_step or 0) + int(row.step == 0))
            return replace(moved, log_step=row.step, step=moved._own_step(row.step))
        log_step = max(row.step, self.log_step or 0.0)
        return replace(moved, has_steps=True, log_step=log_step, step=max(self.step, moved._own_step(row.step)))

    # ---------------------------------------------------------------------------------- the values
    def _merged(self, row: NamedRow) -> tuple[Timeline, list[Measured]]:
        """Return the timeline with the values of a row at the current place."""
        scores = {name: value for name, value in row.scores.items() if name not in self.known}
        loop = {name: value for name, value in row.loop.items() if name not in self.known}
        names = [*scores, *loop, *(["epoch"] if row.epoch is not None and "epoch" not in self.known else [])]
        timeline = replace(
            self,
            known=(*self.known, *names),
            scores={**self.scores, **scores},
            loop={**self.loop, **loop},
        )
        if self.is_evaluated:
            return timeline._with_late(row, scores)
        if timeline._is_complete():
            return timeline._emitted(None)
        if loop and not self.by_column and not row.scores:
            return replace(timeline, scores={})._reported(timeline.scores)
        return timeline, []

    def _with_late(self, row: NamedRow, scores: Mapping[str, float]) -> tuple[Timeline, list[Measured]]:
        """Report new scores behind the evaluation of a place, and expect them at the next one."""
        expected = tuple(dict.fromkeys((*self.expected, *row.scores)))
        timeline = replace(self, expected=expected)
        return (timeline, []) if self.by_column and not scores else timeline._reported()

    def _is_complete(self) -> bool:
        if not _has_validation(self.scores) or self._may_be_untrained():
            return False
        if self.expected:
            return set(self.expected) <= set(self.known)
        if self.by_column or self.metric not in self.scores:
            return False
        # other names may be those of one of several validation sets, each of which has its own row
        return column_names.meaning(self.metric).known or "valid_loss" in self.scores

    def _may_be_untrained(self) -> bool:
        """Return whether only the next row tells if epoch 0 is the untrained model."""
        is_first = self.evaluations == 0 and self.epochs_from_zero is None and not self._is_training()
        return is_first and self.log_epoch == 0 and not self.has_steps

    def _is_training(self) -> bool:
        return self.has_trained or NamedRow(scores=self.scores, loop=self.loop).is_training

    def _closed(self, following: NamedRow | None) -> tuple[Timeline, list[Measured]]:
        """Report what the current place still holds. `following` is the first row behind it."""
        if _has_validation(self.scores) and not self.is_evaluated:
            return self._emitted(following)
        if "train_loss" in self.scores and column_names.LOOP_LOSS not in self.known and not self.is_evaluated:
            others = {name: value for name, value in self.scores.items() if name != "train_loss"}
            loop = {**self.loop, column_names.LOOP_LOSS: self.scores["train_loss"]}
            return replace(self, scores=others, loop=loop)._reported()
        return self._reported()

    def _reported(self, kept: Mapping[str, float] | None = None) -> tuple[Timeline, list[Measured]]:
        """Report the values of the training loop, and scores that belong to no evaluation.

        The place holds only the `kept` scores afterwards.
        """
        values = {**self.scores, **self.loop}
        timeline = replace(self, has_trained=self._is_training(), scores=kept or {}, loop={})
        if not values:
            return timeline, []
        loss = values.get(column_names.LOOP_LOSS)
        if is_hidden_nan(loss, values.get("grad_norm")):
            loss = values[column_names.LOOP_LOSS] = float("nan")
        epoch = max(self.epoch, self.log_epoch or 0.0)
        losses = self.losses if loss is None else (*self.losses, loss)[-LOSSES_KEPT:]
        step = self.step if self.has_steps else self.evaluations
        event = Measured(step=step, epoch=epoch, values=values, scope="step")
        return replace(timeline, epoch=epoch, losses=losses), [event]

    def _emitted(self, following: NamedRow | None) -> tuple[Timeline, list[Measured]]:
        """Report the evaluation of the current place, after the loop reports beside it."""
        is_untrained = self._may_be_untrained() and following is not None and following.is_training
        seen = (name for name in self.known if name in self.scores or (name == "epoch" and self.by_column))
        expected = tuple(dict.fromkeys((*self.expected, *seen)))
        timeline, events = replace(self, scores={}, has_trained=self._is_training())._reported()
        timeline = timeline._with_counting(is_untrained=is_untrained)
        step, epoch = timeline._evaluation_place(is_untrained=is_untrained)
        timeline = replace(timeline, is_evaluated=True, expected=expected)
        if step <= self.evaluated_step:  # it was known before the program resumed
            return timeline, events
        scores = {**timeline._mean_loss(), **self.scores}
        timeline = replace(
            timeline,
            known=tuple(dict.fromkeys((*self.known, *scores))),
            step=max(timeline.step, step),
            epoch=epoch,
            evaluations=self.evaluations + (step > 0),
            evaluated_step=step,
            losses=(),
        )
        return timeline, [*events, Measured(step=step, epoch=epoch, values=scores, scope="evaluation")]

    def _mean_loss(self) -> dict[str, float]:
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        later = finite[len(finite) // 2 :]
        return {"train_loss": math.fsum(later) / len(later)} if later else {}

    def _with_counting(self, *, is_untrained: bool) -> Timeline:
        """Find out at an evaluation whether the log counts its steps and epochs from 0."""
        timeline = self
        if self.has_steps and self.step == 0 and self.has_trained and self.first_step == 1:
            timeline = replace(timeline, first_step=0, step=1)
        if self.epochs_from_zero is None and self.log_epoch is not None and not is_untrained:
            if self.log_epoch > 0:
                timeline = replace(timeline, epochs_from_zero=False)
            elif self.has_trained or timeline.step > 0 or not self.has_steps:
                timeline = replace(timeline, epochs_from_zero=True)
        return timeline

    def _evaluation_place(self, *, is_untrained: bool) -> tuple[int, float]:
        step = self.step if self.has_steps else self.evaluations + 1
        if is_untrained:
            step = 0
        if self.log_epoch is None:
            epoch = float(self.evaluations + (step > 0))
        else:
            epoch = self.log_epoch + (1.0 if self.epochs_from_zero and self.log_epoch.is_integer() else 0.0)
        return step, max(self.epoch, epoch)
