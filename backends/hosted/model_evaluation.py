"""`ModelEvaluator`: asks a trained model about the validation set, which most hosts do not do.

The evaluator queries the model for the labels of the validation set, and for the texts that task
metrics measure. It asks a limited number of prompts per call, so that the reader of a run's events
never waits long. The journal keeps every answer, so no prompt is sent twice, even after an
interruption.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.contract import (
    BackendError,
    Failure,
    FailureKind,
    GeneratedText,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.hosted.capabilities import asks_for_labels
from backends.hosted.deployments import Deployments
from backends.hosted.example_format import read_examples
from backends.hosted.journal import run_id
from backends.hosted.model_answers import ModelEvaluation
from backends.hosted.options import HostedOptions
from backends.hosted.prediction import Predictor
from backends.metrics.contract import Scores
from backends.metrics.kept_metric import may_be_measured, missing_kept_metric
from backends.metrics.measurement import Measurement, OpenMetric
from backends.metrics.references import prompt_text, reference_texts
from backends.metrics.requested_metric import are_paid
from backends.metrics.sample import sampled_examples
from backends.metrics.task_measurement import TaskMeasurement

PROMPTS_PER_CALL = 64
"""Prompts to ask before the reader of the events gets its turn again."""

TEXTS_FOLDER = "generated"
"""The folder in that of the journal with all texts of each run, one `GeneratedText` a line."""

_Sample = Sequence[tuple[int, Mapping[str, Any]]]
"""Validation examples, each with its index."""

_log = logging.getLogger(__name__)


@dataclass
class _Progress:
    """What is known of an evaluation that goes on, or has failed and will be tried again."""

    asked: dict[str, int] = field(default_factory=dict)
    label_scores: Mapping[str, float] | None = None
    texts_refused: bool = False
    scores: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


class ModelEvaluator:
    """Evaluates trained models on the validation sets of their requests.

    Task metrics write only below `workspace`, and all generated texts go into a folder of `folder`.
    """

    def __init__(
        self, options: HostedOptions, predictor: Predictor, deployments: Deployments, workspace: Path, folder: Path
    ) -> None:
        self._options, self._predictor, self._deployments = options, predictor, deployments
        self._workspace, self._folder = workspace, folder
        self._progress: dict[str, _Progress] = {}

    def has_questions(self, request: TrainingRequest) -> bool:
        """Return whether the trained model of this request is to answer anything."""
        return bool(request.evaluation.metrics) or self._asks_for_labels(request)

    def _asks_for_labels(self, request: TrainingRequest) -> bool:
        return bool(request.dataset.labels) and asks_for_labels(self._options)

    def evaluate(self, request: TrainingRequest, model: str) -> ModelEvaluation | None:
        """Return what the model's answers show, or None while there are prompts left to ask.

        If the model had to be deployed, the deployment ends with the last prompt. A model that
        cannot be queried, or measured, has been paid for all the same: what is missing is only
        logged. But if it is the task metric by which the request keeps states, then a metric that
        fails is returned as `unmeasured`, and a host that refuses the queries is an error: once its
        cause is gone, a later call goes on with the prompts that are left.

        Raises BackendError, also for a failure that may pass.
        """
        progress = self._progress.setdefault(request.key, _Progress())
        if progress.label_scores is None:
            progress.label_scores = self._label_scores(request, model, progress)
            if progress.label_scores is None or (progress.label_scores and request.evaluation.metrics):
                return None
        texts = None
        if request.evaluation.metrics and not progress.texts_refused:
            sample = _sample(request)
            predictions = self._texts(request, model, sample, progress)
            if predictions is None:
                return None
            if predictions:
                texts = self._measured(request, sample, predictions, progress)
        self._end_deployment(model)
        del self._progress[request.key]
        is_paid = texts is not None and are_paid(request.evaluation.metrics)
        return ModelEvaluation(progress.label_scores, texts, is_paid, _unmeasured(request, texts, progress))

    def _end_deployment(self, model: str) -> None:
        try:
            self._deployments.remove(model)
        except BackendError as error:
            if error.failure.kind.retryable:
                raise
            _log.warning("a deployment of %s may still exist: %s", model, error)

    def _answers(
        self,
        part: str,
        model: str,
        lines: Sequence[Mapping[str, Any]],
        options: PredictOptions,
        progress: _Progress,
    ) -> Sequence[Prediction] | None:
        """Return the answers to all lines, or None if there are lines left to ask."""
        asked = progress.asked.get(part, 0) + PROMPTS_PER_CALL
        predictions = self._predictor.predict(model, lines[:asked], options)
        progress.asked[part] = asked
        return predictions if len(predictions) == len(lines) else None

    # --------------------------------------------------------------------------------------- labels
    def _label_scores(self, request: TrainingRequest, model: str, progress: _Progress) -> Mapping[str, float] | None:
        """Return accuracy and macro-F1 of the model, or None while there are prompts left to ask.

        The scores are empty without labels, and if the host refuses the queries.
        """
        if not self._asks_for_labels(request):
            return {}
        dataset = request.dataset
        options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
        examples = list(read_examples(dataset.valid))
        try:
            predictions = self._answers("labels", model, examples, options, progress)
        except BackendError as error:
            if error.failure.kind.retryable:
                raise
            _log.warning("could not evaluate the model %s on the validation set: %s", model, error)
            return {}
        if predictions is None:
            return None
        truth = [
            example["messages"][-1]["content"] if "messages" in example else example["completion"]
            for example in examples
        ]
        return label_scores(truth, [prediction.text for prediction in predictions], dataset.labels)

    # ---------------------------------------------------------------------------------------- texts
    def _texts(
        self, request: TrainingRequest, model: str, sample: _Sample, progress: _Progress
    ) -> Sequence[Prediction] | None:
        """Return the texts of the sample, or None while there are prompts left to ask.

        There are none if the host refuses the queries.
        """
        lines = [line for _, line in sample]
        options = PredictOptions.generate(request.evaluation.generation_in_use.decoding, request.dataset.stop)
        try:
            return self._answers("texts", model, lines, options, progress)
        except BackendError as error:
            failure, keep_metric = error.failure, request.evaluation.keep_metric
            if failure.kind.retryable:
                raise
            if may_be_measured(keep_metric, request.evaluation.metrics):
                message = f"the trained model {model} cannot be asked, so {keep_metric} has no value: {failure.message}"
                remedy = "The model is kept. Fix the cause, then run the same command again; it asks no prompt twice."
                raise BackendError(Failure(failure.kind, message, f"{failure.detail} {remedy}".strip())) from error
            _log.warning("could not ask the model %s for texts, so it has no task metrics: %s", model, error)
            progress.texts_refused = True
            return ()

    def _measured(
        self, request: TrainingRequest, sample: _Sample, predictions: Sequence[Prediction], progress: _Progress
    ) -> TaskMeasurement:
        """Measure the texts with each metric by itself, so that one that fails spoils no other.

        A metric that has measured does not measure again if a later one fails temporarily.
        """
        stop, requests = request.dataset.stop, request.evaluation.metrics
        lines, texts = [line for _, line in sample], [prediction.text for prediction in predictions]
        for metric in requests:
            if metric.name in progress.scores or metric.name in progress.failures:
                continue
            try:
                opened = OpenMetric.open(metric, self._workspace)
                try:
                    progress.scores[metric.name] = opened.score(opened.answers(texts, lines, stop))
                finally:
                    with contextlib.suppress(BackendError):
                        opened.close()
            except BackendError as error:
                if error.failure.kind.retryable:
                    raise
                progress.failures[metric.name] = error.failure
                _log.warning("trial %s has no value of a task metric: %s", request.key, error)
        measurement = Measurement.of(progress.scores)
        generated = tuple(
            GeneratedText(
                example,
                prompt_text(line),
                _reference(line, stop, requests[0].reference),
                prediction.text,
                prediction.truncated,
                measurement.scores_of(position),
            )
            for position, ((example, line), prediction) in enumerate(zip(sample, predictions, strict=True))
        )
        task_measurement = TaskMeasurement(measurement.evaluation_values, generated, measurement.usd)
        self._write(run_id(request.key), task_measurement)
        return task_measurement

    def _write(self, run: str, measurement: TaskMeasurement) -> None:
        (content,) = measurement.files().values()
        path = self._folder / TEXTS_FOLDER / f"{run}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.part")
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            message = f"cannot write {path}: {error.strerror or error}"
            raise BackendError(Failure(FailureKind.TRANSIENT, message, "Free some space.")) from error


def _sample(request: TrainingRequest) -> _Sample:
    """Return the validation examples to generate for."""
    file, count = request.dataset.valid, request.evaluation.generation_in_use.examples
    lines = list(read_examples(file))
    return [(index, lines[index]) for index in sampled_examples(len(lines), count, file.sha256)]


def _reference(line: Mapping[str, Any], stop: str, column: str | None) -> str:
    """Return the text to show beside a generated one; empty if there is none to compare with."""
    try:
        return reference_texts(line, stop, column)[0]
    except BackendError:  # each metric that needs one has reported it
        return ""


def _unmeasured(request: TrainingRequest, texts: TaskMeasurement | None, progress: _Progress) -> Failure | None:
    """Return why the task metric by which the request keeps states has no value, or None."""
    if texts is None:
        return None
    evaluation = request.evaluation
    missing = missing_kept_metric(evaluation, texts.values)
    if missing is None:
        return None
    failed = (metric for metric in evaluation.metrics if metric.name in progress.failures)
    of_metric = (
        progress.failures[metric.name] for metric in failed if may_be_measured(evaluation.keep_metric, [metric])
    )
    return next(of_metric, missing)


def label_scores(truth: Sequence[str], answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return the accuracy, and the mean F1 over all labels of the data set.

    A label that no example has and no answer names counts as 0, as with the local backend. An
    answer that is no label is wrong.
    """
    f1_scores = []
    for label in labels:
        hits = sum(true == answer == label for true, answer in zip(truth, answers, strict=True))
        f1_scores.append(2 * hits / max(1, truth.count(label) + answers.count(label)))
    correct = sum(true == answer for true, answer in zip(truth, answers, strict=True))
    return {"valid_accuracy": correct / len(truth), "valid_macro_f1": sum(f1_scores) / len(f1_scores)}
