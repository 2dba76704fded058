"""Whether no trial of a sweep learned anything, and what to look at then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.domains import Domain
from search_spaces.usual_names import role_of
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial, leaderboard
from sweeps.verdicts.advice import LEARNING_RATES
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

MIN_JUDGED = 6
"""Fewer settled verdicts do not show that no point of the space learns."""

RATES_TRIED = 30.0
"""If learning rates that differ by this factor all learn nothing, another one will not, either. The
ranges of the catalogue span a factor of 10 to 100, so that steering may move a narrow range first.
"""


@dataclass(frozen=True)
class NoLearning:
    """The finding that no judged trial learned anything, as a sentence.

    `excludes_hyperparameters`: enough learning rates were tried that they are not the cause.
    """

    text: str
    excludes_hyperparameters: bool


def no_learning(ended: Sequence[Trial], domains: Mapping[str, Domain], objective: Objective) -> NoLearning | None:
    """Return the finding if it holds for every trial with a settled verdict, and for the best one.

    A trial that was stopped early has no settled verdict, and may have learned.
    """
    judged = [
        (trial, trial.verdict)
        for trial in ended
        if trial.verdict is not None and trial.verdict.kind is not VerdictKind.UNSETTLED
    ]
    if len(judged) < MIN_JUDGED or not all(_is_idle(verdict) for _, verdict in judged):
        return None
    best = next(iter(leaderboard(ended, objective)), None)
    if best is not None and (best.verdict is None or not _is_idle(best.verdict)):
        return None
    nothing = f"none of {len(judged)} judged trials learned anything"
    rate = next((name for name in domains if role_of(name) in LEARNING_RATES), None)
    if rate is None:
        return NoLearning(f"{nothing}, and all had the same learning rate: search the learning rate first", False)
    values = (trial.hyperparameters.get(rate) for trial, _ in judged)
    tried = sorted(float(value) for value in values if isinstance(value, int | float) and value > 0)
    if not tried or tried[-1] < RATES_TRIED * tried[0]:
        return NoLearning(f"{nothing}: widen the range of {rate} first", False)
    return NoLearning(
        f"{nothing}, with {rate} from {tried[0]:.3g} to {tried[-1]:.3g}: "
        "look at the base model or the data, not at the hyperparameters",
        True,
    )


def _is_idle(verdict: FitVerdict) -> bool:
    return verdict.kind is VerdictKind.UNDERFIT and not verdict.improving
