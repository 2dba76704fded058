"""Finds the position of each log row on the x axis.

That is its epoch, an epoch derived from its step, or else its step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class RowStamp:
    """The facts in a row that reveal its position.

    `has_training`: the row has training values. `has_whole_validation`: it has values of the whole
    validation set.
    """

    epoch: float | None = None
    step: float | None = None
    examples: float | None = None
    has_training: bool = False
    has_whole_validation: bool = False
    has_validation: bool = False


@dataclass(frozen=True)
class RowPositions:
    """The positions of the rows, in row order, and the unit of the axis.

    0 is before training, and None is unknown.
    """

    positions: tuple[float | None, ...]
    axis: Literal["epoch", "step"] = "epoch"
    notes: tuple[str, ...] = ()


def locate_rows(stamps: Sequence[RowStamp], train_examples: int | None) -> RowPositions:
    """Return the position of every row. Epochs that a log counts from 0 are counted from 1."""
    if any(stamp.epoch is not None for stamp in stamps):
        located = _from_epochs(stamps)
        if not _loses_evaluations(stamps, located.positions):
            return located
        by_step = _from_steps(stamps)
        note = "the epochs are rounded or start again: several evaluations share one, so the steps count"
        return replace(by_step, notes=(note, *by_step.notes))
    if train_examples and all(stamp.examples is not None for stamp in stamps):
        return RowPositions(tuple((stamp.examples or 0.0) / train_examples for stamp in stamps))
    if any(stamp.step is not None for stamp in stamps):
        return _from_steps(stamps)
    note = "the log has neither epochs nor steps: each row is taken as one epoch"
    return RowPositions(tuple(float(n + 1) for n in range(len(stamps))), "epoch", (note,))


def _loses_evaluations(stamps: Sequence[RowStamp], positions: Sequence[float | None]) -> bool:
    """Return whether evaluations at different steps have the same position."""
    located = [
        (stamp.step, position)
        for stamp, position in zip(stamps, positions, strict=True)
        if stamp.has_validation and stamp.step is not None
    ]
    return len({position for _, position in located}) < len({step for step, _ in located})


def _from_epochs(stamps: Sequence[RowStamp]) -> RowPositions:
    epochs = [stamp.epoch for stamp in stamps if stamp.epoch is not None]
    notes: list[str] = []
    if all(epoch.is_integer() for epoch in epochs):
        positions, notes = _from_whole_epochs(stamps)
    else:
        positions = [stamp.epoch for stamp in stamps]
    if None in positions:
        epoch_of_step = {
            stamp.step: position
            for stamp, position in zip(stamps, positions, strict=True)
            if stamp.step is not None and position is not None
        }
        known = sorted({0.0: 0.0, **epoch_of_step}.items())
        positions = [
            _interpolated(known, stamp.step)
            if position is None and stamp.step is not None and epoch_of_step
            else position
            for stamp, position in zip(stamps, positions, strict=True)
        ]
    return RowPositions(tuple(positions), "epoch", tuple(notes))


def _from_whole_epochs(stamps: Sequence[RowStamp]) -> tuple[list[float | None], list[str]]:
    """Locate rows whose epochs are whole numbers, which several rows may share."""
    steps: dict[float, set[float]] = {}
    for stamp in stamps:
        if stamp.epoch is not None:
            steps.setdefault(stamp.epoch, set())
            if stamp.step is not None:
                steps[stamp.epoch].add(stamp.step)
    if any(len(epoch_steps) > 1 for epoch_steps in steps.values()):
        return _within_epochs(stamps, {epoch: max(epoch_steps) for epoch, epoch_steps in steps.items() if epoch_steps})
    if min(steps) != 0 or _epoch_0_is_untrained(stamps, steps):
        return [stamp.epoch for stamp in stamps], []
    note = "the epochs in this log are counted from 0: epoch 0 is taken as the first"
    return [None if stamp.epoch is None else stamp.epoch + 1 for stamp in stamps], [note]


def _epoch_0_is_untrained(stamps: Sequence[RowStamp], steps: dict[float, set[float]]) -> bool:
    """Return whether epoch 0 is the model before training rather than the first epoch."""
    has_training = any(stamp.has_training for stamp in stamps if stamp.epoch == 0)
    if not has_training and any(stamp.has_training for stamp in stamps):
        return True
    later_first_steps = [min(epoch_steps) for epoch, epoch_steps in steps.items() if epoch > 0 and epoch_steps]
    return steps[0] == {0.0} and (not has_training or (bool(later_first_steps) and min(later_first_steps) > 1))


def _within_epochs(stamps: Sequence[RowStamp], last_steps: dict[float, float]) -> tuple[list[float | None], list[str]]:
    """Locate rows by their steps between the ends of their epochs.

    `last_steps` has the last step of each epoch.
    """
    first_epoch = 0.0 if min(last_steps) == 0 else 1.0
    ends = [last_steps[epoch] for epoch in sorted(last_steps)]
    if any(after <= before for before, after in pairwise(ends)):
        return _restarting_steps(stamps, first_epoch, max(ends)), ["the steps start again in every epoch"]
    from_zero = first_epoch == 0 and not (len(ends) > 1 and ends[1] - ends[0] == ends[0])
    offset = 1.0 if from_zero or (len(ends) > 1 and ends[1] - ends[0] == ends[0] + 1) else 0.0
    length = max((step + offset) / (epoch - first_epoch + 1) for epoch, step in last_steps.items()) or 1.0
    positions: list[float | None] = []
    for stamp in stamps:
        if stamp.epoch is None:
            positions.append(None)
        elif stamp.step is None:
            positions.append(stamp.epoch - first_epoch + 1)
        elif stamp.step == 0 and not stamp.has_training:
            positions.append(0.0)
        else:
            start = stamp.epoch - first_epoch
            positions.append(min(start + 1, max((stamp.step + offset) / length, start)))
    return positions, []


def _restarting_steps(stamps: Sequence[RowStamp], first_epoch: float, last_step: float) -> list[float | None]:
    """Locate rows whose steps start again in every epoch.

    `last_step` is the last step of the longest epoch.
    """
    offset = 1.0 if any(stamp.step == 0 and stamp.has_training for stamp in stamps) else 0.0
    return [
        None
        if stamp.epoch is None
        else stamp.epoch - first_epoch + (1 if stamp.step is None else (stamp.step + offset) / (last_step + offset))
        for stamp in stamps
    ]


def _from_steps(stamps: Sequence[RowStamp]) -> RowPositions:
    steps = [stamp.step for stamp in stamps]
    ends = sorted({stamp.step for stamp in stamps if stamp.has_whole_validation and stamp.step})
    if ends and all(abs(end - (n + 1) * ends[0]) <= n + 1 for n, end in enumerate(ends)):
        known = [(0.0, 0.0), *((end, n + 1.0) for n, end in enumerate(ends))]
        return RowPositions(tuple(None if step is None else _interpolated(known, step) for step in steps))
    shift = 1.0 if any(stamp.step == 0 and stamp.has_training for stamp in stamps) else 0.0
    note = "the log does not reveal the epochs: every epoch number here counts steps"
    return RowPositions(tuple(None if step is None else step + shift for step in steps), "step", (note,))


def _interpolated(known: Sequence[tuple[float, float]], step: float) -> float:
    """Interpolate the epoch of `step` between known (step, epoch) pairs, in ascending order.

    Beyond the last pair, the epochs continue at the average pace so far.
    """
    index = bisect_left(known, (step, float("-inf")))
    if index == len(known):
        last_step, epoch = known[-1]
        return epoch * step / last_step if last_step > 0 else step
    if known[index][0] == step or index == 0:
        return known[index][1]
    (before, low), (after, high) = known[index - 1], known[index]
    return low + (high - low) * (step - before) / (after - before)
