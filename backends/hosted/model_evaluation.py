"""Measuring a trained model by what it answers: label accuracy on the validation set, which most hosts do not score.

The questions are asked a portion at a time, so that whoever waits for a run's events is not kept long; each answer is
kept in the journal, so that none is asked for twice, whoever asks and however often it breaks off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.contract import PredictOptions, TrainingRequest
from backends.hosted.deployments import Deployments
from backends.hosted.examples import lines
from backends.hosted.prediction import Predictor

PORTION = 64
"""Questions that are asked before the events' reader has its turn again."""


class Examination:
    """Asks trained models the validation set."""

    def __init__(self, predictor: Predictor, deployments: Deployments) -> None:
        self._predictor, self._deployments = predictor, deployments
        self._asked: dict[str, int] = {}

    def scores(self, request: TrainingRequest, model: str) -> Mapping[str, float] | None:
        """Return accuracy and macro-F1 of the model's answers; None while there are questions left.

        Where the model had to be deployed, its deployment is ended with the last question. Raises BackendError.
        """
        dataset = request.dataset
        options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
        examples = list(lines(dataset.valid))
        until = self._asked.get(model, 0) + PORTION
        answered = self._predictor.predict(model, examples[:until], options)
        self._asked[model] = until
        if len(answered) < len(examples):
            return None
        self._deployments.remove(model)
        del self._asked[model]
        truth = [each["messages"][-1]["content"] if "messages" in each else each["completion"] for each in examples]
        return label_scores(truth, [each.text for each in answered])


def label_scores(truth: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Return the share of right answers, and the mean F1 of the labels that occur as the truth or as an answer.

    An answer that is no label is a wrong one, and counts as a label of its own.
    """
    f1 = []
    for label in sorted({*truth, *answers}):
        hits = sum(right == answer == label for right, answer in zip(truth, answers, strict=True))
        f1.append(2 * hits / (truth.count(label) + answers.count(label)))
    right = sum(one == other for one, other in zip(truth, answers, strict=True))
    return {"valid_accuracy": right / len(truth), "valid_macro_f1": sum(f1) / len(f1)}
