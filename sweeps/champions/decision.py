"""Whether the challenger becomes the champion, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.champions.comparison import CONFIDENCE_LEVEL, Comparison
from sweeps.study.champion_decision import ChampionDecision


def decide(
    model: str,
    version: str,
    opponent: str,
    comparison: Comparison,
    broken_guards: Sequence[str],
    metric: str = "accuracy",
) -> ChampionDecision:
    """Promote the challenger only if it is better beyond chance and breaks no guard.

    `opponent` is its name in the reason, and `metric` that of the scores. `broken_guards` is the
    result of `guards.broken_guards`.
    """
    return ChampionDecision(
        promoted=comparison.beyond_chance and not broken_guards,
        reason=_reason(version, opponent, comparison, broken_guards, metric),
        challenger_score=comparison.challenger_score,
        champion_score=comparison.opponent_score,
        difference_low=comparison.difference_low,
        difference_high=comparison.difference_high,
        model=model,
        version=version,
    )


def keep_champion(model: str, version: str, score: float | None, reason: str) -> ChampionDecision:
    """Return the decision without a comparison, as when the champion cannot predict.

    Nothing is promoted without a comparison.
    """
    return ChampionDecision(False, reason, score, None, None, None, model, version)


def _reason(version: str, opponent: str, comparison: Comparison, broken_guards: Sequence[str], metric: str) -> str:
    low, high = comparison.difference_low, comparison.difference_high
    scores = (
        f"has {metric} {comparison.challenger_score:.4g} on {comparison.examples:,} test examples, "
        f"{opponent} has {comparison.opponent_score:.4g}"
    )
    difference = f"difference {comparison.difference:+.3g} ({CONFIDENCE_LEVEL:.0%} interval {low:+.3g} .. {high:+.3g})"
    if broken_guards:
        return f"version {version} breaks a guard: {'; '.join(broken_guards)}. It {scores}: {difference}"
    if comparison.beyond_chance:
        return f"version {version} {scores}: better by more than chance explains, {difference}"
    if high < 0:
        return f"version {version} {scores}: worse, {difference}"
    return f"version {version} {scores}: no difference beyond chance, {difference}"
