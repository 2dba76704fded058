"""Turns the rows of a program's log into measurements: names, steps and epochs as a sweep has them.

The columns are named by `backends.training_logs.column_names`; the user's `rename` comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from backends.contract import Measured
from backends.training_logs import column_names
from backends.training_logs.live_sources import Row, flattened
from backends.training_logs.log_table import parse_number

SUMMARY_COLUMN = "train_runtime"
"""Only the summary that the Hugging Face Trainer writes after training has it."""

_LOOP_NAMES: Mapping[str, str] = {
    **dict.fromkeys(column_names.LEARNING_RATE, "learning_rate"),
    **dict.fromkeys(column_names.GRAD_NORM, "grad_norm"),
}
_NO_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens", "time")
"""Columns beside the metrics of an evaluation that say how long it took."""


@dataclass(frozen=True)
class NamedRow:
    """A row with our names: its place on the axis, and its scores or its loop reports.

    `step` and `epoch` are as the log counts them; None where the row has none.
    """

    step: float | None
    epoch: float | None
    scores: Mapping[str, float] = field(default_factory=dict)
    loop: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_evaluation(self) -> bool:
        """Whether the row has a score of the validation set."""
        return any(name.startswith("valid_") for name in self.scores)


def named(row: Row, rename: Mapping[str, str]) -> NamedRow:
    """Name the columns of a row. Cells that are no numbers are left out."""
    step = epoch = None
    scores: dict[str, float] = {}
    loop: dict[str, float] = {}
    for column, cell in flattened(row).items():
        number = _number(cell)
        if number is None:
            continue
        normal = column_names.normalized(column.rpartition("/")[2] if column not in rename else column)
        if column in rename:
            scores[rename[column]] = number
        elif normal in column_names.STEP | {"current_steps"}:
            step = number
        elif normal in column_names.EPOCH:
            epoch = number
        elif normal in _LOOP_NAMES and not column.startswith(("eval", "val")):
            loop[_LOOP_NAMES[normal]] = number
        else:
            _add(column, number, scores, loop)
    if any(name.startswith("valid_") for name in scores):
        loop.pop("batch_loss", None) if "train_loss" in scores else None
    return NamedRow(step, epoch, scores, loop)


def _add(column: str, number: float, scores: dict[str, float], loop: dict[str, float]) -> None:
    """Sort a number into the scores or the loop reports by the name of its column."""
    meaning = column_names.meaning(column)
    measure = column_names.normalized(meaning.measure)
    if meaning.side == "valid" and not measure.endswith(_NO_METRICS):
        scores[f"valid_{measure}"] = number
    elif meaning.side == "train" and measure == "loss" and meaning.extent != column_names.WHOLE:
        loop["batch_loss"] = number
    elif meaning.side == "train" and (meaning.known or meaning.extent == column_names.WHOLE):
        scores[f"train_{measure}"] = number


def _number(cell: Any) -> float | None:
    try:
        return parse_number(cell)
    except ValueError:
        return None


@dataclass
class Timeline:
    """Places named rows on the axes of steps and epochs, in the order of the log.

    Epochs that a log counts from 0 are counted from 1. Without epochs an evaluation counts as an
    epoch, and without steps as a step. Neither ever decreases: a program that resumed from a
    checkpoint reports again what is already known, and those rows are left out.
    """

    step: int = 0
    epoch: float = 0.0
    evaluations: int = 0
    evaluated_step: int = -1
    from_zero: bool | None = None

    def measured(self, rows: Iterable[NamedRow]) -> Iterator[Measured]:
        """Yield the measurements of further rows."""
        for row in rows:
            step, epoch = self._place(row)
            if row.is_evaluation:
                if step <= self.evaluated_step:
                    continue
                self.step, self.epoch = step, epoch
                self.evaluations, self.evaluated_step = self.evaluations + 1, step
                yield self._event(row.scores, "evaluation")
            elif row.loop and step >= self.step and epoch >= self.epoch:
                self.step, self.epoch = step, epoch
                yield self._event(row.loop, "step")

    def _event(self, values: Mapping[str, float], scope: Literal["step", "evaluation"]) -> Measured:
        return Measured(step=self.step, epoch=self.epoch, values=dict(values), scope=scope)

    def _place(self, row: NamedRow) -> tuple[int, float]:
        if self.from_zero is None and row.epoch is not None:
            untrained = row.is_evaluation and not row.loop and not row.step
            has_training = bool(row.loop) or any(name.startswith("train_") for name in row.scores)
            self.from_zero = row.epoch == 0 and (has_training or not untrained)
        next_evaluation = self.evaluations + (1 if row.is_evaluation else 0)
        step = next_evaluation if row.step is None else int(row.step)
        if row.epoch is None:
            return step, float(next_evaluation)
        if self.from_zero and row.epoch == int(row.epoch):
            return step, row.epoch + (1.0 if row.is_evaluation else 0.0)
        return step, row.epoch


def last_loop_loss_is_finite(rows: Sequence[NamedRow]) -> bool:
    """Return whether the last loss of the training loop is a number, or there is none."""
    losses = [row.loop["batch_loss"] for row in rows if "batch_loss" in row.loop]
    return not losses or math.isfinite(losses[-1])
