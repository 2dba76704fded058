"""The challenge: registers the winner of a sweep, compares it with the champion, and decides.

The registry holds the decision before the alias moves. So if the process dies in between, the next
one finishes its work: a trial is registered once and decided once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from backends import codec
from backends.contract import Backend
from sweeps.champions import history
from sweeps.champions.answer_scoring import AnswerScoring, opened_scoring
from sweeps.champions.comparison import compare
from sweeps.champions.decision import decide, keep_champion
from sweeps.champions.guards import broken_guards, recall_by_class
from sweeps.champions.scoring import Opponent, TestExamples, baseline, measure_latency_ms, version_scores
from sweeps.champions.winner import TAG_PREFIX, SweepWinner, find_version, register
from sweeps.errors import SweepError
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking.registry import RegisteredVersion, Registry

MAX_ATTEMPTS = 3
"""How often a challenge is decided if other sweeps move the alias in the meantime."""


def run_challenge(
    winner: SweepWinner,
    backend: Backend,
    registry: Registry,
    say: Callable[[str], None],
    now: Callable[[], float] = time.time,
) -> ChampionDecision:
    """Register the winner and decide whether it becomes the champion.

    A trial that was decided before keeps its decision, unless it won, its process died before the
    alias moved, and another version has become the champion since. `say` receives progress
    messages. `now` returns the time in seconds since 1970. Raises SweepError if the model or the
    registry is not available; the same call then continues where it stopped.
    """
    version = find_version(winner, registry)
    if version is not None and (entry := history.challenge_entry(version)) is not None:
        assert entry.decision is not None
        if not entry.decision.promoted or history.PROMOTED_TAG in version.tags:
            return entry.decision
        if _complete_promotion(registry, version, entry):
            return entry.decision
        say(f"version {version.number} of {winner.model_name} is compared again: the champion has changed since")
    if version is None:
        say(f"registering the winner as a version of {winner.model_name}")
        version = register(winner, backend, registry)
    say(f"version {version.number} of {winner.model_name} predicts the test examples")
    with opened_scoring(winner.plan) as scoring:
        assert scoring is not None  # the plan has made sure
        challenge = _measure(winner, version, backend, registry, scoring, say)
        champion, decision = _decide(challenge)
    entry = history.HistoryEntry(
        at=datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds"),
        version=version.number,
        before=champion.number if champion is not None else None,
        decision=decision,
    )
    decision_json = json.dumps(codec.to_json(entry), ensure_ascii=False)
    registry.tag_version(version, {**challenge.measurement_tags, history.DECISION_TAG: decision_json})
    registry.describe_version(version, decision.reason)
    if decision.promoted:
        _promote(registry, version)
    return decision


def _promote(registry: Registry, version: RegisteredVersion) -> None:
    registry.promote(version)
    registry.tag_version(version, {history.PROMOTED_TAG: "1"})


def _complete_promotion(registry: Registry, version: RegisteredVersion, entry: history.HistoryEntry) -> bool:
    """Complete the promotion of a process that died. Returns False if it has been overtaken."""
    champion = registry.champion(version.model)
    entries = history.read(registry, version.model)
    match history.pending_promotion(entries, entry, champion.number if champion is not None else None):
        case "made":
            registry.tag_version(version, {history.PROMOTED_TAG: "1"})
        case "due":
            _promote(registry, version)
        case "overtaken":
            return False
    return True


@dataclass(frozen=True)
class _Challenge:
    """A registered winner with everything that was measured about it."""

    winner: SweepWinner
    version: RegisteredVersion
    backend: Backend
    registry: Registry
    say: Callable[[str], None]
    scoring: AnswerScoring
    examples: TestExamples
    scores: NDArray[np.float64]
    latency_ms: float

    @property
    def recall(self) -> dict[str, float]:
        """The recall of each class; empty without labels."""
        return recall_by_class(self.examples.label_names, self.scores)

    @property
    def broken_guards(self) -> tuple[str, ...]:
        guards = self.winner.plan.spec.champion
        assert guards is not None
        return broken_guards(guards, self.recall, self.latency_ms, self.winner.trial.spend.usd)

    @property
    def measurement_tags(self) -> dict[str, str]:
        tags = {
            f"{TAG_PREFIX}test_{self.scoring.name}": f"{self.scores.mean():.6g}",
            f"{TAG_PREFIX}latency_ms": f"{self.latency_ms:.6g}",
        }
        if recall := self.recall:
            tags[f"{TAG_PREFIX}recall"] = ", ".join(f"{name} {value:.3g}" for name, value in recall.items())
        return tags

    def decide_against(self, champion: RegisteredVersion | None) -> ChampionDecision:
        """Compare the winner with the champion, or with the baseline if there is no champion."""
        model, number = self.version.model, self.version.number
        if champion is None:
            opponent = baseline(self.winner, self.backend, self.examples, self.scoring)
        else:
            name = f"the champion (version {champion.number})"
            self.say(f"{name} predicts the same examples")
            try:
                opponent = Opponent(name, version_scores(self.registry.load(champion), self.examples, self.scoring))
            except SweepError as error:
                remedy = f"`sweep champion rollback {model} --to VERSION` makes another version the champion"
                reason = f"{name} could not predict the test examples: {error.message}. {remedy}"
                return keep_champion(model, number, float(self.scores.mean()), reason)
        seed, scoring = self.winner.plan.spec.search.seed, self.scoring
        comparison = compare(self.scores, opponent.scores, seed, maximize=scoring.maximize)
        return decide(model, number, opponent.name, comparison, self.broken_guards, scoring.name)


def _measure(
    winner: SweepWinner,
    version: RegisteredVersion,
    backend: Backend,
    registry: Registry,
    scoring: AnswerScoring,
    say: Callable[[str], None],
) -> _Challenge:
    # The loaded model goes out of scope here: memory may not hold the challenger and the champion.
    examples, loaded = TestExamples.of(winner), registry.load(version)
    scores = version_scores(loaded, examples, scoring)
    latency_ms = measure_latency_ms(loaded, examples.rows)
    return _Challenge(winner, version, backend, registry, say, scoring, examples, scores, latency_ms)


def _decide(challenge: _Challenge) -> tuple[RegisteredVersion | None, ChampionDecision]:
    """Return the decision and the champion that it was made against.

    If another sweep moves the alias in the meantime, decides again against the new champion.
    Raises SweepError after `MAX_ATTEMPTS`.
    """
    registry, model = challenge.registry, challenge.winner.model_name
    for _ in range(MAX_ATTEMPTS):
        champion = registry.champion(model)
        decision = challenge.decide_against(champion)
        champion_now = registry.champion(model)
        if (champion_now and champion_now.number) == (champion and champion.number):
            return champion, decision
    raise SweepError(
        f"other sweeps moved the champion of {model} {MAX_ATTEMPTS} times during the challenge",
        "Run the same command again when they have ended.",
    )
