"""Whether no trial of a sweep learned anything, and what to look at then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.domains import Domain
from search_spaces.usual_names import role_of
from sweeps.trials.trial import Trial
from sweeps.verdicts.advice import LEARNING_RATES
from sweeps.verdicts.verdict import VerdictKind

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


def no_learning(ended: Sequence[Trial], domains: Mapping[str, Domain]) -> NoLearning | None:
    """Return the finding if it holds for every trial with a settled verdict."""
    judged = [
        (trial, trial.verdict)
        for trial in ended
        if trial.verdict is not None and trial.verdict.kind is not VerdictKind.UNSETTLED
    ]
    idle = (verdict.kind is VerdictKind.UNDERFIT and not verdict.improving for _, verdict in judged)
    if len(judged) < MIN_JUDGED or not all(idle):
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
