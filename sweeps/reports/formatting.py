"""How numbers, durations, sizes and advice are written, on the screen and in the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from backends.contract import Scalar
from sweeps.study.sweep_advice import SweepAdvice
from sweeps.trials.trial import Trial
from sweeps.verdicts.baseline_comparison import BaselineComparison


def in_words(hyperparameters: Mapping[str, Scalar]) -> str:
    """Write a point on one line, with rounded numbers."""
    return ", ".join(f"{name} {short(value)}" for name, value in hyperparameters.items())


def short(value: Scalar) -> str:
    """Write a value with at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """Write a duration as `m:ss` or `h:mm:ss`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def moment(at: float, now: float) -> str:
    """Write a time as local time, with the date unless it is today."""
    then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now)
    return f"{then:%H:%M}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M}"


ADVICE_ROWS = 4
"""So many lines of advice are shown, but all sentences about the sweep, and one about a trial."""
NAMED_TRIALS = 4


def advice_lines(
    trials: Sequence[Trial], advice: SweepAdvice, comparison: BaselineComparison | None = None
) -> list[str]:
    """Return the advice on the sweep, then that on single trials, the most frequent first.

    There is none if the comparison with the baselines says already that the hyperparameters are not
    the cause.
    """
    if comparison is not None and comparison.excludes_hyperparameters:
        return []
    given: dict[str, list[int]] = {}
    for trial in trials:
        if trial.verdict is not None and (text := advice.trials.get(trial.number)):
            given.setdefault(f"{trial.verdict.kind}: {text}", []).append(trial.number)
    frequent = sorted(given.items(), key=lambda item: -len(item[1]))
    rows = max(1, ADVICE_ROWS - len(advice.sentences))
    return [*advice.sentences, *(f"{_of_trials(numbers)} {text}" for text, numbers in frequent[:rows])]


def _of_trials(numbers: Sequence[int]) -> str:
    if len(numbers) > NAMED_TRIALS:
        return f"{len(numbers)} trials are"
    named = " and ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
    return f"trials {named} are" if len(numbers) > 1 else f"trial {named} is"


def in_bytes(count: int) -> str:
    """Write a number of bytes with a unit."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
