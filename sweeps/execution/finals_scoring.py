"""Scores models on held-out examples: finalists on validation, the winner on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, BackendError, DataFile, Dataset, FailureKind, PredictOptions
from sweeps.data.store import read_lines
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.finals import FinalsCandidate, FinalsResult, accuracy_interval, rank
from sweeps.trials.trial import Trial

ACCURACY = "valid_accuracy"
"""The objective that is a mean over examples, so its bootstrap can also resample examples."""

ACCURACY_TOLERANCE = 0.01
"""How far a model's accuracy may differ from the value measured during training: rounding changes a
few answers."""


def score_finals(
    plan: SweepPlan, searched: Sequence[Trial], repeats: Sequence[Trial], backend: Backend
) -> FinalsResult | None:
    """Rank the candidates by their repetitions, and score the winner on the test split.

    `searched` are the trials of the search, `repeats` those of the finals. Repetitions without a
    value do not count; returns None if no repetition has one. Nothing reads the test split before
    this function.

    The folder of the sweep keeps which examples each model got right. So a model answers only once,
    and the finals can be decided again after it is deleted. Raises BackendError if a backend that
    can predict fails to.
    """
    data, objective, seed = plan.data, plan.spec.objective, plan.spec.search.seed
    scored = [repeat for repeat in repeats if repeat.values is not None]
    predicts = plan.spec.capabilities.can_predict and bool(data.dataset.labels)
    candidates = []
    for original in searched:
        repetitions = [repeat for repeat in scored if repeat.repeat_of == original.number]
        if not repetitions:
            continue
        values = tuple(repeat.values[0] for repeat in repetitions if repeat.values is not None)
        correct = None
        if predicts and objective.metric == ACCURACY:
            correct = _correct_by_seed(plan, repetitions, backend)
        if correct is not None and not np.allclose(correct.mean(axis=1), values, rtol=0.0, atol=ACCURACY_TOLERANCE):
            # The models of the service answer differently from its measurements: resample seeds
            # only.
            correct = None
        candidates.append(FinalsCandidate(original.number, values, _cost(repetitions), correct))
    if not candidates:
        return None
    search_values = {trial.number: trial.values[0] for trial in searched if trial.values is not None}
    result = rank(candidates, objective, search_values, seed)
    if data.test is None or not predicts:
        why = "there is no test split" if data.test is None else "this backend or this data does not score labels"
        return replace(result, untested=why)
    winners = [repeat for repeat in scored if repeat.repeat_of == result.winner]
    tested = [_stored_or_scored(plan, repeat, "test", data.test, backend) for repeat in winners]
    known = [row for row in tested if row is not None]
    if not known:
        return replace(result, untested="no model of the winner was kept")
    return replace(result, test=accuracy_interval(np.stack(known), seed))


def correct_answers(backend: Backend, models: Sequence[str], file: DataFile, dataset: Dataset) -> NDArray[np.bool_]:
    """Return an array (models, examples): whether a model's most probable label is correct."""
    lines = read_lines(file)
    truth = [line["messages"][-1]["content"] if dataset.layout == "chat" else line["completion"] for line in lines]
    options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
    rows = []
    for model in models:
        answers = backend.predict(model, lines, options)
        rows.append([answer.text == label for answer, label in zip(answers, truth, strict=True)])
    return np.array(rows, dtype=np.bool_)


def _correct_by_seed(plan: SweepPlan, repetitions: Sequence[Trial], backend: Backend) -> NDArray[np.bool_] | None:
    """Return an array (seeds, validation examples) of correct answers.

    Returns None unless the answers of every repetition are known.
    """
    rows = [_stored_or_scored(plan, repeat, "valid", plan.data.dataset.valid, backend) for repeat in repetitions]
    known = [row for row in rows if row is not None]
    return np.stack(known) if len(known) == len(rows) else None


def _cost(repetitions: Sequence[Trial]) -> float:
    """Return the mean cost of a repetition: in dollars if all prices are known, else in tokens."""
    usd = [repeat.spend.usd for repeat in repetitions if repeat.spend.usd is not None]
    if len(usd) == len(repetitions):
        return sum(usd) / len(repetitions)
    return sum(repeat.spend.tokens for repeat in repetitions) / len(repetitions)


def _stored_or_scored(
    plan: SweepPlan, trial: Trial, part: str, file: DataFile, backend: Backend
) -> NDArray[np.bool_] | None:
    """Return which examples of `file` the trial's model gets right.

    The answers are stored in the folder of the sweep. A stored answer is used instead of the model.
    Returns None if there is neither a stored answer nor a model, also if the model is gone.
    """
    stored_file = plan.folder / "finals" / f"{trial.key}-{part}.npy"
    if not stored_file.exists():
        if not trial.model:
            return None
        try:
            answers = correct_answers(backend, [trial.model], file, plan.data.dataset)[0]
        except BackendError as error:
            if error.failure.kind is FailureKind.LOST:
                return None
            raise
        stored_file.parent.mkdir(parents=True, exist_ok=True)
        partial = stored_file.with_suffix(".tmp")
        with partial.open("wb") as stream:
            np.save(stream, answers)
        partial.replace(stored_file)
    correct: NDArray[np.bool_] = np.load(stored_file)
    return correct
