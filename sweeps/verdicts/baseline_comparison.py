"""Does the sweep beat what the task gives away? A pure decision, with the share of chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sweeps.data.baselines import Baseline, Baselines, MetricRange
from sweeps.verdicts.noise import SIGNIFICANT, standard_error

ComparisonKind = Literal["below", "not-above-most-frequent", "no-difference", "above"]
"""MLflow and JSON show it: an existing name must not change."""

_Shown = Literal["learned", "doubtful", "nothing"]

EMBEDDED_MODEL = "builtin:tiny-lm"


@dataclass(frozen=True)
class SweepScore:
    """The best score of a sweep: the metric without its part, and the part that it is about.

    `is_settled`: several trials ended, and the best had stopped learning by itself, so that other
    hyperparameters had their chance.
    """

    part: Literal["valid", "test"]
    metric: str
    value: float
    examples: int
    is_settled: bool = True

    @property
    def name(self) -> str:
        """The metric with its part, as an objective names it."""
        return f"{self.part}_{self.metric}"


@dataclass(frozen=True)
class BaselineComparison:
    """The result: its kind, the baseline compared with, and sentences with the numbers.

    `excludes_hyperparameters`: the sentences say that the base model or the data are the cause.
    """

    kind: ComparisonKind
    baseline: str
    text: str
    excludes_hyperparameters: bool = False


def compare(
    score: SweepScore, baselines: Baselines, base_model: str, *, has_own_data: bool = True
) -> BaselineComparison | None:
    """Compare a sweep's best score with the strongest baseline and with the most frequent answer.

    Two scores differ if they are farther apart than two standard errors of their difference. Both
    are taken as independent samples; they are about the same examples, so that chance explains
    less than that. None if the baselines did not measure this metric, or its range is unknown.
    """
    scale = baselines.ranges.get(score.metric, MetricRange())
    strongest = baselines.strongest(score.part, score.metric)
    reached = scale.share(score.value)
    if strongest is None or reached is None or not math.isfinite(score.value):
        return None
    constant = baselines.model("most-frequent") or strongest
    by_strongest, by_constant = (model.value(score.part, score.metric) for model in (strongest, constant))
    if by_strongest is None or by_constant is None:
        return None
    noise = _noise(score, reached, scale.share(by_strongest) or 0.0, baselines)
    lead = reached - (scale.share(by_strongest) or 0.0)
    lead_of_constant = reached - (scale.share(by_constant) or 0.0)
    cause = _cause(score, base_model, has_own_data)
    best, rival = f"{score.name} {score.value:.3g}", f"{strongest.name}, {by_strongest:.3g}"
    span = abs((scale.best or 0.0) - (scale.worst or 0.0))
    chance = f"chance explains {noise * span:.2g} with {score.examples:,} examples"
    if lead_of_constant <= _noise(score, reached, scale.share(by_constant) or 0.0, baselines):
        gap = lead_of_constant - lead  # of the strongest baseline over the most frequent answer
        said = _no_better_text(best, constant, by_constant, is_ahead=lead_of_constant > 0)
        shown = _shown(lead, gap, noise)
        text = f"{said} {_what_baselines_show(rival, shown, cause, chance)}"
        excluded = shown == "nothing" or (shown == "learned" and score.is_settled)
        return BaselineComparison("not-above-most-frequent", constant.key, text, excluded)
    if lead < -noise:
        text = f"The sweep's best, {best}, is below {rival} ({chance}): {cause}."
        return BaselineComparison("below", strongest.key, text, score.is_settled)
    if lead <= noise:
        text = f"The sweep's best, {best}, and {rival}, are too close to tell apart ({chance})."
        return BaselineComparison("no-difference", strongest.key, text)
    return BaselineComparison("above", strongest.key, f"The sweep's best, {best}, is above {rival} ({chance}).")


def _noise(score: SweepScore, reached: float, baseline: float, baselines: Baselines) -> float:
    measured = baselines.examples.get(score.part, score.examples)
    if score.metric == "macro_f1" and score.part in baselines.balanced:
        measured = baselines.balanced[score.part]
        counted = min(score.examples, measured)
    else:
        counted = score.examples
    return SIGNIFICANT * math.hypot(standard_error(reached, counted), standard_error(baseline, measured))


def _shown(lead: float, gap: float, noise: float) -> _Shown:
    """Return what the strongest baseline shows where the sweep is no better than one answer.

    `lead` is that of the sweep over the baseline, `gap` that of the baseline over the one answer.
    """
    if lead < -noise:
        return "learned"
    return "doubtful" if gap > noise / 2 else "nothing"


def _no_better_text(best: str, constant: Baseline, by_constant: float, *, is_ahead: bool) -> str:
    answer = "" if constant.answer is None else f" ({constant.answer[:40]!r})"
    beats = "clearly beats" if is_ahead else "beats"
    return f"No trial {beats} the most frequent answer{answer}, {by_constant:.3g}: the best has {best}."


def _what_baselines_show(rival: str, outcome: _Shown, cause: str, chance: str) -> str:
    """Say what the strongest baseline shows: that the data can be learned, perhaps, or nothing."""
    if outcome == "learned":
        return f"The data can be learned, as {rival}, shows ({chance}): {cause}."
    if outcome == "doubtful":
        return (
            f"{rival[0].upper()}{rival[1:]}, may be chance ({chance}): more validation examples would show "
            "whether the base model is too weak or the data teach nothing."
        )
    return (
        "No baseline does, either: the prompts may not hold what decides the answer, or the labels may be wrong. "
        "Look at the data before the hyperparameters."
    )


def _cause(score: SweepScore, base_model: str, has_own_data: bool) -> str:
    if not score.is_settled:
        return "more trials and longer training would show whether the base model is too weak for this text"
    if base_model == EMBEDDED_MODEL and has_own_data:
        return (
            f"the base model is too weak for this text, not the hyperparameters; {EMBEDDED_MODEL} is a demonstration, "
            "choose a real base model with --model"
        )
    return "the base model is too weak for this text, not the hyperparameters"
