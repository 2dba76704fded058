"""Whether the challenger becomes the champion, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from sweeps.nightly.challenge import LEVEL, Comparison


@dataclass(frozen=True)
class ChampionDecision:
    """What became of a challenge: `version` of the registered `model` challenged, and was promoted or not.

    The scores are shares of the test examples that are right; `champion_score` is the re-evaluated champion's, or the
    baseline's where there was no champion yet. The difference's interval is at 95 %. None: not measured.
    """

    promoted: bool
    reason: str
    challenger_score: float | None
    champion_score: float | None
    difference_low: float | None
    difference_high: float | None
    model: str | None
    version: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a decision from `to_json`'s value."""
        return cls(**value)


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
