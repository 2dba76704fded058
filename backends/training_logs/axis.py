"""Where a row stands on the x axis: at its epoch, at the one that follows from its steps, or else at its step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Stamp:
    """What a row says of its place. `trained`: it has training values; `whole`: it has values of a whole validation."""

    epoch: float | None = None
    step: float | None = None
    examples: float | None = None
    trained: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Placed:
    """The rows' places in their order; 0 is before training. None is a place that nobody knows."""

    x: tuple[float | None, ...]
    axis: Literal["epoch", "step"] = "epoch"
    notes: tuple[str, ...] = ()


def place(stamps: Sequence[Stamp], train_examples: int | None) -> Placed:
    """Find the rows' places. An epoch that counts from 0 is finished as the first."""
    if any(each.epoch is not None for each in stamps):
        return _by_epoch(stamps)
    if train_examples and all(each.examples is not None for each in stamps):
        return Placed(tuple((each.examples or 0.0) / train_examples for each in stamps))
    if any(each.step is not None for each in stamps):
        return _by_step(stamps)
    note = "neither epochs nor steps are given: each row is taken as one epoch"
    return Placed(tuple(float(n + 1) for n in range(len(stamps))), "epoch", (note,))


def _by_epoch(stamps: Sequence[Stamp]) -> Placed:
    epochs = [each.epoch for each in stamps if each.epoch is not None]
    notes: list[str] = []
    if all(each.is_integer() for each in epochs):
        x, notes = _whole_epochs(stamps)
    else:
        x = [each.epoch for each in stamps]
    if None in x:
        known = {each.step: at for each, at in zip(stamps, x, strict=True) if each.step is not None and at is not None}
        steps = sorted({0.0: 0.0, **known}.items())
        x = [
            at if at is not None else _between(steps, each.step) if each.step is not None and known else None
            for each, at in zip(stamps, x, strict=True)
        ]
    return Placed(tuple(x), "epoch", tuple(notes))


def _whole_epochs(stamps: Sequence[Stamp]) -> tuple[list[float | None], list[str]]:
    """Place rows whose epochs are numbers of epochs, which several rows may share."""
    steps: dict[float, set[float]] = {}
    for each in stamps:
        if each.epoch is not None:
            steps.setdefault(each.epoch, set())
            if each.step is not None:
                steps[each.epoch].add(each.step)
    if any(len(each) > 1 for each in steps.values()):
        return _within_epochs(stamps, {epoch: max(each) for epoch, each in steps.items() if each})
    if min(steps) != 0 or _untrained(stamps, steps):
        return [each.epoch for each in stamps], []
    note = "epochs are counted from 0: epoch 0 is taken as the first"
    return [None if each.epoch is None else each.epoch + 1 for each in stamps], [note]


def _untrained(stamps: Sequence[Stamp], steps: dict[float, set[float]]) -> bool:
    """Whether epoch 0 is the model before training, and not the first epoch."""
    first = [each for each in stamps if each.epoch == 0]
    trained = any(each.trained for each in first)
    if not trained and any(each.trained for each in stamps):
        return True
    following = [min(each) for epoch, each in steps.items() if epoch > 0 and each]
    return steps[0] == {0.0} and (not trained or (bool(following) and min(following) > 1))


def _within_epochs(stamps: Sequence[Stamp], last: dict[float, float]) -> tuple[list[float | None], list[str]]:
    """Place rows by their steps between the ends of their epochs; `last` has the last step of each epoch."""
    base = 0.0 if min(last) == 0 else 1.0
    ends = [last[each] for each in sorted(last)]
    if any(after <= before for before, after in pairwise(ends)):
        return _counted_anew(stamps, base, max(ends)), ["steps are counted anew in each epoch"]
    from_zero = base == 0 and not (len(ends) > 1 and ends[1] - ends[0] == ends[0])
    offset = 1.0 if from_zero or (len(ends) > 1 and ends[1] - ends[0] == ends[0] + 1) else 0.0
    length = max((step + offset) / (epoch - base + 1) for epoch, step in last.items()) or 1.0
    x: list[float | None] = []
    for each in stamps:
        if each.epoch is None:
            x.append(None)
        elif each.step is None:
            x.append(each.epoch - base + 1)
        elif each.step == 0 and not each.trained:
            x.append(0.0)
        else:
            begun = each.epoch - base
            x.append(min(begun + 1, max((each.step + offset) / length, begun)))
    return x, []


def _counted_anew(stamps: Sequence[Stamp], base: float, last: float) -> list[float | None]:
    """Place rows whose steps begin again with each epoch, of which the longest has the step `last`."""
    offset = 1.0 if any(each.step == 0 and each.trained for each in stamps) else 0.0
    return [
        None
        if each.epoch is None
        else each.epoch - base + (1 if each.step is None else (each.step + offset) / (last + offset))
        for each in stamps
    ]


def _by_step(stamps: Sequence[Stamp]) -> Placed:
    steps = [each.step for each in stamps]
    ends = sorted({each.step for each in stamps if each.whole and each.step})
    if ends and all(abs(end - (n + 1) * ends[0]) <= n + 1 for n, end in enumerate(ends)):
        known = [(0.0, 0.0), *((end, n + 1.0) for n, end in enumerate(ends))]
        return Placed(tuple(None if each is None else _between(known, each) for each in steps))
    shift = 1.0 if any(each.step == 0 and each.trained for each in stamps) else 0.0
    note = "the epochs are not known: what is called an epoch counts steps here"
    return Placed(tuple(None if each is None else each + shift for each in steps), "step", (note,))


def _between(known: Sequence[tuple[float, float]], step: float) -> float:
    """Interpolate between (step, epoch) pairs, and go on beyond the last one at the pace so far."""
    at = bisect_left(known, (step, float("-inf")))
    if at == len(known):
        last, epoch = known[-1]
        return epoch * step / last if last > 0 else step
    if known[at][0] == step or at == 0:
        return known[at][1]
    (before, low), (after, high) = known[at - 1], known[at]
    return low + (high - low) * (step - before) / (after - before)
