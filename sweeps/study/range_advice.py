"""What the trials of a sweep advise on the range of one hyperparameter. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optuna.distributions import CategoricalDistribution

from search_spaces.domains import Domain
from search_spaces.usual_names import role_of
from sweeps.study.range_evidence import Limits, RangeEvidence, ends, position
from sweeps.study.steering import EPOCHS_FACTOR, RATE_FACTOR, Change, NumericRange
from sweeps.verdicts.advice import EPOCHS, LEARNING_RATES
from sweeps.verdicts.suggestion import Direction
from sweeps.verdicts.verdict import VerdictKind

Finding = Literal["move", "at-limit", "wide-enough", "unclear", "too-few"]
"""What the trials say about a range. MLflow and JSON show it: an existing name must not change."""

MIN_TRIALS = 8
"""Fewer trials do not show where in a range the best ones lie."""

NEAR_EDGE = 0.8
"""The outer fifth of a range is near its edge."""

LIKELY, SURE = 0.05, 0.01
"""The advice to move an edge needs a rank correlation that chance gives in 5 % of the cases at
most, over all searched ranges (Bonferroni); at 1 % it is called clear."""

OTHER_FACTOR = 2.0
"""How far an edge goes that is neither of a learning rate nor of epochs."""

_DIVERGED_OR_OVERFIT = (VerdictKind.DIVERGED, VerdictKind.OVERFIT)


@dataclass(frozen=True)
class RangeAdvice:
    """What the trials say about the range of one hyperparameter, with the reason as a sentence.

    For the finding `move`, `edge` moves from `value` to `target`. For another one, `edge` is where
    the best trials lie, and empty if they lie inside or need nothing beyond the edge. `chance` is
    how probable such a rank correlation is by chance, counted over all ranges. `trials` were
    compared.
    """

    parameter: str
    finding: Finding
    text: str
    edge: Literal["lower", "upper", ""] = ""
    value: float | None = None
    target: float | None = None
    correlation: float | None = None
    chance: float | None = None
    trials: int = 0

    @property
    def way(self) -> Direction | Literal[""]:
        """In which direction the edge moves; empty if it stays."""
        if self.value is None or self.target is None:
            return ""
        return "raise" if self.target > self.value else "lower"

    @property
    def extends(self) -> bool:
        """Whether the range grows: its upper edge goes up, or its lower edge goes down."""
        return (self.edge, self.way) in (("upper", "raise"), ("lower", "lower"))


def from_verdicts(change: Change, found: RangeEvidence, ranges: int) -> RangeAdvice:
    """Tell a change of steering. The ranking of all trials can make it surer."""
    (low, high), counted = change.previous_range, len(change.trials)
    is_upper = change.high != high
    edge: Literal["lower", "upper"] = "upper" if is_upper else "lower"
    value, target = (high, change.high) if is_upper else (low, change.low)
    verb, sign = ("raise", 1.0) if target > value else ("lower", -1.0)
    chance = min(1.0, ranges * found.chance(sign))
    sure = "a hint"
    if chance <= SURE or counted > MIN_TRIALS // 2:
        sure = "clear"
    elif chance <= LIKELY or counted > 2:
        sure = "likely"
    agrees = f" (rank correlation {found.correlation:.2f})" if found.correlation and chance <= LIKELY else ""
    text = (
        f"{verb} the {edge} edge of {change.parameter} from {value:.4g} to {target:.4g} ({sure}): "
        f"{change.reason}{agrees}"
    )
    return RangeAdvice(change.parameter, "move", text, edge, value, target, found.correlation, chance, found.trials)


def from_ranking(name: str, domain: Domain, found: RangeEvidence, limits: Limits, ranges: int) -> RangeAdvice:
    """Judge one range by where the best trials lie and by the rank correlation."""
    if found.trials < MIN_TRIALS:
        return RangeAdvice(name, "too-few", "", trials=found.trials)
    wide = RangeAdvice(name, "wide-enough", f"the range of {name} is wide enough", trials=found.trials)
    bounds = ends(domain)
    places = [position(domain, value) for value in found.best_values]
    if bounds is None or not places or places[0] is None:
        return wide
    is_upper = places[0] >= NEAR_EDGE
    if not is_upper and places[0] > 1 - NEAR_EDGE:
        return wide
    near = [place is not None and (place >= NEAR_EDGE if is_upper else place <= 1 - NEAR_EDGE) for place in places]
    if _best_need_no_move(name, found, is_upper=is_upper):
        return wide
    edge: Literal["lower", "upper"] = "upper" if is_upper else "lower"
    value, limit = bounds[is_upper], limits[is_upper]
    chance = min(1.0, ranges * found.chance(1.0 if is_upper else -1.0))
    known = (edge, value, None, found.correlation, chance, found.trials)
    located = _located(sum(near), len(near), found.trials, domain, is_upper=is_upper)
    against = found.smaller_better > found.larger_better if is_upper else found.larger_better > found.smaller_better
    is_open = against or chance > LIKELY or 3 * sum(near) < 2 * len(near)
    if is_open and isinstance(domain, CategoricalDistribution) and len(domain.choices) == 2:
        return wide  # each of two values is an edge
    if is_open:
        why = "which trials alike in everything else do not confirm" if against else "which may be chance"
        return RangeAdvice(name, "unclear", f"{name}: {located}, {why}", *known)
    target = _target(name, domain, value, is_upper=is_upper)
    if limit is not None:
        target = min(target, limit) if is_upper else max(target, limit)
    if f"{target:.4g}" == f"{value:.4g}" or (target > value) != is_upper:
        return RangeAdvice(name, "at-limit", f"{name}: {located}, and its edge, {value:.4g}, is a limit", *known)
    verb, sure = "raise" if is_upper else "lower", "clear" if chance <= SURE else "likely"
    step = f"{verb} the {edge} edge of {name} from {value:.4g} to {target:.4g}"
    if isinstance(domain, CategoricalDistribution):
        step = f"add {target:.4g} to the values of {name}"
    text = f"{step} ({sure}): {located} (rank correlation {found.correlation or 0.0:.2f})"
    return RangeAdvice(name, "move", text, edge, value, target, found.correlation, chance, found.trials)


def _located(near: int, best: int, trials: int, domain: Domain, *, is_upper: bool) -> str:
    """Say where the best are: "the 3 best of 12 trials lie in the top fifth of the range"."""
    which = "the best" if best == 1 else f"the {best} best" if near == best else f"{near} of the {best} best"
    lie, have = ("lies", "has") if near == 1 else ("lie", "have")
    if isinstance(domain, CategoricalDistribution):
        return f"{which} of {trials} trials {have} the {'largest' if is_upper else 'smallest'} value"
    return f"{which} of {trials} trials {lie} in the {'top' if is_upper else 'bottom'} fifth of the range"


def _best_need_no_move(name: str, found: RangeEvidence, *, is_upper: bool) -> bool:
    """Return whether the best trials themselves speak against going beyond the edge.

    At an upper edge most of them overfitted or diverged, or kept an epoch before their last one.
    """
    if not is_upper:
        return False
    kinds = [trial.verdict.kind for trial, _ in found.best if trial.verdict is not None]
    lost = sum(kind in _DIVERGED_OR_OVERFIT for kind in kinds)
    early = 0
    if role_of(name) == EPOCHS:
        early = sum(
            trial.best_epoch is not None and trial.best_epoch <= trial.trained_epochs - 1 for trial, _ in found.best
        )
    return 2 * lost > len(found.best) or 2 * early > len(found.best)


def _target(name: str, domain: Domain, value: float, *, is_upper: bool) -> float:
    """Return where an edge goes: by a factor on a log scale, by half of the range on another."""
    role = role_of(name)
    if role == EPOCHS or (isinstance(domain, NumericRange) and not domain.log and role not in LEARNING_RATES):
        bounds = ends(domain) or (value, value)
        step = (bounds[1] - bounds[0]) / 2
        target = value * EPOCHS_FACTOR if role == EPOCHS and is_upper else value + (step if is_upper else -step)
        target = max(target, 0.0 if bounds[0] >= 0 else target)
    else:
        factor = RATE_FACTOR if role in LEARNING_RATES else OTHER_FACTOR
        target = value * factor if is_upper else value / factor
    numbers = domain.choices if isinstance(domain, CategoricalDistribution) else (domain.low, domain.high)
    if all(isinstance(number, int) for number in numbers):
        return float(math.ceil(target) if is_upper else max(1 if role == EPOCHS else -math.inf, math.floor(target)))
    return float(f"{target:.3g}")
