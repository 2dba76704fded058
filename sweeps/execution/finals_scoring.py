"""Scores models on held-out examples: finalists on validation, the winner on the test split."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends import codec
from backends.contract import Backend, BackendError, Decoding, FailureKind
from sweeps.champions.answer_scoring import AnswerScores, AnswerScoring, opened_scoring
from sweeps.champions.comparison import compare
from sweeps.data.store import read_lines
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.finals import FinalsCandidate, FinalsResult, interval_of_means, mean_interval, rank
from sweeps.trials.trial import Trial
from sweeps.workspace import write_text

TOLERANCE = 0.01
"""How far a model's mean score may differ from the value measured during training: rounding changes
a few answers."""


def score_finals(
    plan: SweepPlan, searched: Sequence[Trial], repeats: Sequence[Trial], backend: Backend
) -> FinalsResult | None:
    """Rank the candidates by their repetitions, and score the winner on the test split.

    `searched` are the trials of the search, `repeats` those of the finals. Repetitions without a
    value do not count; returns None if no repetition has one. With several decodings to try, the
    winner's models answer the validation examples with each of them. Nothing reads the test split
    before this function.

    The folder of the sweep keeps the answers and their scores. So a model answers only once, and
    the finals can be decided again after it is deleted. Raises BackendError if a backend that can
    predict fails to.
    """
    with opened_scoring(plan) as scoring:
        if scoring is None or not plan.spec.capabilities.can_predict:
            return _ranked(plan, searched, repeats, None)
        models = _ScoredModels(plan, scoring, backend)
        result = _ranked(plan, searched, repeats, models)
        if result is None:
            return None
        winners = [repeat for repeat in _measured(repeats) if repeat.repeat_of == result.winner]
        result, decoding = _with_decoding(plan, result, winners, models)
        return _tested(plan, result, winners, models, decoding)


def _ranked(
    plan: SweepPlan, searched: Sequence[Trial], repeats: Sequence[Trial], models: _ScoredModels | None
) -> FinalsResult | None:
    objective = plan.spec.objective
    candidates = []
    for original in searched:
        repetitions = [repeat for repeat in _measured(repeats) if repeat.repeat_of == original.number]
        if not repetitions:
            continue
        values = tuple(repeat.values[0] for repeat in repetitions if repeat.values is not None)
        scores = None
        if models is not None and models.scoring.measured_as == objective.metric:
            scores = models.example_scores(repetitions, "valid")
        if scores is not None and not np.allclose(scores.mean(axis=1), values, rtol=0.0, atol=TOLERANCE):
            # The models of the service answer differently from its measurements: resample seeds
            # only.
            scores = None
        candidates.append(FinalsCandidate(original.number, values, _cost(repetitions), scores))
    if not candidates:
        return None
    search_values = {trial.number: trial.values[0] for trial in searched if trial.values is not None}
    result = rank(candidates, objective, search_values, plan.spec.search.seed, objective_bounds(plan))
    return replace(result, untested="this backend or this data does not score answers")


def _with_decoding(
    plan: SweepPlan, result: FinalsResult, winners: Sequence[Trial], models: _ScoredModels
) -> tuple[FinalsResult, Decoding | None]:
    """Try the decodings of the file with the winner's models on the validation examples.

    Another decoding replaces that of the evaluations only if it is better beyond chance, because
    the best of several owes a part of its lead to chance. Without values for the examples the best
    mean decides.
    """
    if plan.spec.decoding is None or not plan.spec.task_metrics:
        return result, None
    default, *others = plan.spec.decoding.settings(plan.spec.evaluation.generate.decoding)
    seed, maximize = plan.spec.search.seed, models.scoring.maximize
    chosen, chosen_scores = default, models.scores(winners, "valid", default)
    if not chosen_scores:
        return result, None
    tried = [(default, _mean(chosen_scores))]
    for decoding in others:
        scores = models.scores(winners, "valid", decoding)
        if len(scores) != len(chosen_scores):
            continue
        tried.append((decoding, _mean(scores)))
        old, new = _example_means(chosen_scores), _example_means(scores)
        if old is not None and new is not None:
            is_better = compare(new, old, seed, maximize=maximize).difference_low > 0
        else:
            is_better = (_mean(scores) > _mean(chosen_scores)) == maximize and _mean(scores) != _mean(chosen_scores)
        if is_better:
            chosen, chosen_scores = decoding, scores
    ordered = sorted(tried, key=lambda pair: pair[0] != chosen)
    return replace(result, decodings=tuple(ordered)), chosen


def _tested(
    plan: SweepPlan,
    result: FinalsResult,
    winners: Sequence[Trial],
    models: _ScoredModels,
    decoding: Decoding | None,
) -> FinalsResult:
    if plan.data.test is None:
        return replace(result, untested="there is no test split")
    scores = models.scores(winners, "test", decoding)
    if not scores:
        return replace(result, untested="no model of the winner was kept")
    seed, by_example = plan.spec.search.seed, [score.per_example for score in scores]
    known = [row for row in by_example if row is not None]
    if len(known) == len(scores):
        test = mean_interval(np.stack(known), seed)
    else:
        test = interval_of_means([score.value for score in scores], seed)
    return replace(result, test=test, untested="", test_metric=models.scoring.name)


class _ScoredModels:
    """The scores of the models of trials, kept in the folder of the sweep."""

    def __init__(self, plan: SweepPlan, scoring: AnswerScoring, backend: Backend) -> None:
        self.scoring = scoring
        self._plan = plan
        self._backend = backend

    def example_scores(self, trials: Sequence[Trial], part: str) -> NDArray[np.float64] | None:
        """Return the scores (trials, examples); None unless those of every trial are known."""
        rows = [scores.per_example for scores in self.scores(trials, part)]
        known = [row for row in rows if row is not None]
        return np.stack(known) if len(known) == len(trials) else None

    def scores(self, trials: Sequence[Trial], part: str, decoding: Decoding | None = None) -> list[AnswerScores]:
        """Return the scores of the models that are known or still there, in the order of trials."""
        found = (self._stored_or_scored(trial, part, decoding) for trial in trials)
        return [scores for scores in found if scores is not None]

    def _stored_or_scored(self, trial: Trial, part: str, decoding: Decoding | None) -> AnswerScores | None:
        """Return the scores of a model on a part of the data.

        Returns None if there is neither a stored answer nor a model, also if the model is gone.
        """
        folder = self._plan.folder / "finals"
        earlier = folder / f"{trial.key}-{part}.npy"  # as version 0.2 stored which answers are right
        if self.scoring.name == "accuracy" and earlier.exists():
            correct = np.load(earlier).astype(np.float64)
            return AnswerScores(float(correct.mean()), correct)
        options = self.scoring.options(decoding)
        identity = json.dumps([self.scoring.name, codec.to_json(options)], sort_keys=True)
        file = folder / f"{trial.key}-{part}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"
        if not file.exists():
            if not trial.model:
                return None
            lines = self._lines(part)
            try:
                answers = [prediction.text for prediction in self._backend.predict(trial.model, lines, options)]
            except BackendError as error:
                if error.failure.kind is FailureKind.LOST:
                    return None
                raise
            scores = self.scoring.score(answers, lines)
            stored = _StoredScores(
                self.scoring.name,
                scores.value,
                None if scores.per_example is None else tuple(float(score) for score in scores.per_example),
                tuple(answers),
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(codec.to_json(stored), ensure_ascii=False))
        kept = codec.from_json(_StoredScores, json.loads(file.read_text(encoding="utf-8")))
        return AnswerScores(kept.value, None if kept.scores is None else np.array(kept.scores, dtype=np.float64))

    def _lines(self, part: str) -> Sequence[Mapping[str, Any]]:
        if part == "valid":
            return self.scoring.validation_lines()
        assert self._plan.data.test is not None
        return read_lines(self._plan.data.test)


@dataclass(frozen=True)
class _StoredScores:
    """The answers of a model to a part of the data, and their scores."""

    metric: str
    value: float
    scores: tuple[float, ...] | None
    answers: tuple[str, ...]


def objective_bounds(plan: SweepPlan) -> tuple[float, float]:
    """Return the lowest and the highest value that the objective can have."""
    if (metric := plan.spec.objective_metric) is not None:
        low, high = metric.declaration.low, metric.declaration.high
        return -math.inf if low is None else low, math.inf if high is None else high
    return (0.0, 1.0) if plan.spec.objective.metric in plan.spec.capabilities.label_metrics else (-math.inf, math.inf)


def _measured(repeats: Sequence[Trial]) -> list[Trial]:
    return [repeat for repeat in repeats if repeat.values is not None]


def _mean(scores: Sequence[AnswerScores]) -> float:
    return sum(score.value for score in scores) / len(scores)


def _example_means(scores: Sequence[AnswerScores]) -> NDArray[np.float64] | None:
    """Return the mean of each example over the models."""
    rows = [score.per_example for score in scores]
    known = [row for row in rows if row is not None]
    return np.stack(known).mean(axis=0) if len(known) == len(rows) else None


def _cost(repetitions: Sequence[Trial]) -> float:
    """Return the mean cost of a repetition: in dollars if all prices are known, else in tokens."""
    usd = [repeat.spend.usd for repeat in repetitions if repeat.spend.usd is not None]
    if len(usd) == len(repetitions):
        return sum(usd) / len(repetitions)
    return sum(repeat.spend.tokens for repeat in repetitions) / len(repetitions)
