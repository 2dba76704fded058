"""`ModelEvaluator`: label accuracy of a trained model, which most hosts do not compute.

The evaluator queries the model with the validation set. It asks a limited number of prompts per
call, so that the reader of a run's events never waits long. The journal keeps every answer, so no
prompt is sent twice, even after an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.contract import PredictOptions, TrainingRequest
from backends.hosted.deployments import Deployments
from backends.hosted.example_format import read_examples
from backends.hosted.prediction import Predictor

PROMPTS_PER_CALL = 64
"""Prompts to ask before the reader of the events gets its turn again."""


class ModelEvaluator:
    """Evaluates trained models on the validation sets of their requests."""

    def __init__(self, predictor: Predictor, deployments: Deployments) -> None:
        self._predictor, self._deployments = predictor, deployments
        self._prompts_asked: dict[str, int] = {}

    def scores(self, request: TrainingRequest, model: str) -> Mapping[str, float] | None:
        """Return accuracy and macro-F1 of the model, or None while there are prompts left to ask.

        If the model had to be deployed, the deployment ends with the last prompt. Raises
        BackendError.
        """
        dataset = request.dataset
        options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
        examples = list(read_examples(dataset.valid))
        prompts_asked = self._prompts_asked.get(model, 0) + PROMPTS_PER_CALL
        predictions = self._predictor.predict(model, examples[:prompts_asked], options)
        self._prompts_asked[model] = prompts_asked
        if len(predictions) < len(examples):
            return None
        self._deployments.remove(model)
        del self._prompts_asked[model]
        truth = [
            example["messages"][-1]["content"] if "messages" in example else example["completion"]
            for example in examples
        ]
        return label_scores(truth, [prediction.text for prediction in predictions])


def label_scores(truth: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Return the accuracy, and the mean F1 over the labels that occur in the truth or the answers.

    An answer that is no label is wrong, and counts as a label of its own.
    """
    f1_scores = []
    for label in sorted({*truth, *answers}):
        hits = sum(true == answer == label for true, answer in zip(truth, answers, strict=True))
        f1_scores.append(2 * hits / (truth.count(label) + answers.count(label)))
    correct = sum(true == answer for true, answer in zip(truth, answers, strict=True))
    return {"valid_accuracy": correct / len(truth), "valid_macro_f1": sum(f1_scores) / len(f1_scores)}
