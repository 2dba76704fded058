"""Whether the challenger becomes the champion, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.champions.comparison import LEVEL, Comparison
from sweeps.study.champion_decision import ChampionDecision


def decide(model: str, version: str, opponent: str, comparison: Comparison, broken: Sequence[str]) -> ChampionDecision:
    """Promote a challenger that is better than its opponent beyond the noise and breaks no guard; nobody else.

    `opponent` is how the opponent is called in the reason, `broken` what `challenge.broken_guards` returned.
    """
    promoted = comparison.beyond_noise and not broken
    return ChampionDecision(
        promoted=promoted,
        reason=_reason(version, opponent, comparison, broken),
        challenger_score=comparison.challenger,
        champion_score=comparison.opponent,
        difference_low=comparison.low,
        difference_high=comparison.high,
        model=model,
        version=version,
    )


def undecided(model: str, version: str, score: float | None, why: str) -> ChampionDecision:
    """Return the decision where the champion could not be asked: nothing is promoted without a comparison."""
    return ChampionDecision(False, why, score, None, None, None, model, version)


def _reason(version: str, opponent: str, found: Comparison, broken: Sequence[str]) -> str:
    scores = f"version {version} is right on {found.challenger:.4g} of {found.examples:,} test examples, "
    scores += f"{opponent} on {found.opponent:.4g}"
    interval = f"{found.difference:+.3g} ({found.low:+.3g} .. {found.high:+.3g} at {LEVEL:.0%})"
    if broken:
        return f"version {version} breaks a guard: {'; '.join(broken)}. {scores}: {interval}"
    if found.beyond_noise:
        return f"{scores}: better by more than chance explains, {interval}"
    if found.high < 0:
        return f"{scores}: worse, {interval}"
    return f"{scores}: the difference is inside the noise, {interval}"
