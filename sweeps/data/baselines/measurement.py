"""Measure the baselines of a data set: learn from train, answer validation and test, score."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.contract import BackendError, MetricRequest
from backends.metrics import registry
from backends.metrics.built_in import BuiltInMetric
from backends.metrics.measurement import MetricSet
from backends.metrics.python_function import PythonFunction
from backends.metrics.references import compared_text
from sweeps.data.baselines.baseline import Baseline, BaselineKind, Baselines, MetricRange
from sweeps.data.baselines.label_model import predicted_labels
from sweeps.data.baselines.nearest import nearest_examples
from sweeps.data.baselines.sampling import sample
from sweeps.data.checks.view import DataView
from sweeps.data.examples import Example, PairRecipe

MAX_TRAINING = 20_000
"""Training examples that a baseline learns from; of more it takes a sample."""

MAX_TRAINING_TIMES_LABELS = 400_000
"""With many labels fewer: the time grows with both."""

MAX_MEASURED, MAX_MEASURED_TEXTS = 5_000, 500
"""Examples of a part that are measured, by labels and as texts. 5,000 leave an error of at most
1.4 points."""

MAX_FIELDS = 5
"""Fields of the prompt template that are tried alone, the first ones."""

Predictions = Mapping[str, Sequence[str]]

_EXACT = MetricRequest("exact_match", "exact_match")


def measure(view: DataView, requests: Sequence[MetricRequest] = ()) -> Baselines:
    """Measure all baselines of a data set. Deterministic; the time is bounded for any size.

    Classifications are scored by accuracy and macro-F1, free text by exact match and those metrics
    of `requests` that cost neither money nor a process.
    """
    if view.labels:
        limit = min(MAX_TRAINING, MAX_TRAINING_TIMES_LABELS // len(view.labels))
        return _label_baselines(view, _sampled(view, limit, MAX_MEASURED))
    return _text_baselines(view, _sampled(view, MAX_TRAINING, MAX_MEASURED_TEXTS), requests)


def _sampled(view: DataView, training: int, measured: int) -> dict[str, list[Example]]:
    return {
        part: sample(examples, training if part == "train" else measured, view.seed)
        for part, examples in view.parts.items()
        if examples
    }


def _baselines(
    view: DataView,
    parts: Mapping[str, Sequence[Example]],
    models: Sequence[Baseline],
    ranges: Mapping[str, MetricRange],
) -> Baselines:
    counts = {part: len(examples) for part, examples in parts.items()}
    return Baselines(tuple(models), counts, {part: len(view.parts[part]) for part in parts}, dict(ranges))


# ------------------------------------------------------------------------------------------ labels
def _label_baselines(view: DataView, parts: Mapping[str, Sequence[Example]]) -> Baselines:
    train, asked = parts["train"], {part: parts[part] for part in parts if part != "train"}
    truth = {part: [example.completion for example in examples] for part, examples in asked.items()}
    labels = [example.completion for example in train]
    commonest = max(view.labels, key=Counter(labels).__getitem__)
    constant = {part: [commonest] * len(examples) for part, examples in asked.items()}
    fields = _fields(view)
    together, alone = predicted_labels(
        _columns(train, fields), labels, {part: _columns(examples, fields) for part, examples in asked.items()}
    )
    models = [
        Baseline("most-frequent", _scored(truth, constant, view.labels), answer=_shown(commonest, view)),
        Baseline("tfidf", _scored(truth, together, view.labels)),
    ]
    for name, predictions in zip(fields, alone, strict=False):
        models.append(Baseline("tfidf-field", _scored(truth, predictions, view.labels), field=name))
    measured = _baselines(view, parts, models, {"accuracy": MetricRange(), "macro_f1": MetricRange()})
    return replace(measured, balanced={part: _balanced_examples(labels) for part, labels in truth.items()})


def _balanced_examples(truth: Sequence[str]) -> int:
    """Return the size of a balanced set whose macro-F1 is as certain as that of these labels.

    The F1 of a label with n examples has a variance of about p (1 - p) / n, and their mean over K
    labels one of p (1 - p) / K^2 times the sum of all 1 / n.
    """
    counts = Counter(truth).values()
    return max(1, round(len(counts) ** 2 / sum(1 / count for count in counts)))


def _columns(examples: Sequence[Example], fields: Sequence[str]) -> list[list[str]]:
    """Return the texts of the prompts field by field, those beyond the named ones as one more."""
    columns = [[example.segments[number] for example in examples] for number in range(len(fields))]
    if not fields or len(examples[0].segments) > len(fields):
        columns.append(["\n".join(example.segments[len(fields) :]) for example in examples])
    return columns


def _fields(view: DataView) -> Sequence[str]:
    """Return the fields of the prompt template, if it has several: those to try alone."""
    if not isinstance(view.recipe, PairRecipe) or len(view.recipe.prompt.fields) < 2:
        return ()
    return view.recipe.prompt.fields[:MAX_FIELDS]


def _scored(truth: Predictions, predictions: Predictions, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    return {part: label_scores(truth[part], predictions[part], labels) for part in truth}


def label_scores(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return accuracy and macro-F1 as the backends define them, of at least one example.

    A label that no example has and no prediction names counts as 0.
    """
    pairs = Counter(zip(truth, predicted, strict=True))
    true_counts, predicted_counts = Counter(truth), Counter(predicted)
    f1_scores = [2 * pairs[label, label] / max(1, true_counts[label] + predicted_counts[label]) for label in labels]
    correct = sum(count for (true, answer), count in pairs.items() if true == answer)
    return {"accuracy": correct / len(truth), "macro_f1": sum(f1_scores) / len(f1_scores)}


def _shown(completion: str, view: DataView) -> str:
    return completion.removesuffix(view.recipe.stop).strip()


# --------------------------------------------------------------------------------------- free text
def _text_baselines(
    view: DataView, parts: Mapping[str, Sequence[Example]], requests: Sequence[MetricRequest]
) -> Baselines:
    train, asked = parts["train"], {part: parts[part] for part in parts if part != "train"}
    commonest = Counter(example.completion for example in train).most_common(1)[0][0]
    nearest = nearest_examples(
        [_question(example) for example in train],
        {part: [_question(example) for example in examples] for part, examples in asked.items()},
    )
    answers: list[tuple[BaselineKind, Predictions, str | None]] = [
        ("most-frequent", {part: [commonest] * len(examples) for part, examples in asked.items()}, commonest),
        (
            "nearest",
            {
                part: [commonest if index is None else train[index].completion for index in indices]
                for part, indices in nearest.items()
            },
            None,
        ),
        ("copy", {part: [_last(example) for example in examples] for part, examples in asked.items()}, None),
    ]
    usable = [request for request in requests if _is_cheap(request)]
    if all(request.name != _EXACT.name for request in usable):
        usable = [_EXACT, *usable]
    lines = {
        part: [json.loads(example.to_line(with_row=True)) for example in examples] for part, examples in asked.items()
    }
    models, ranges = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, predictions, answer in answers:
            values: dict[str, dict[str, float]] = {part: {} for part in asked}
            for request in usable:
                for part in asked:
                    scored = _score(request, predictions[part], lines[part], view.recipe.stop, Path(scratch))
                    if scored is not None:
                        values[part][request.name], ranges[request.name] = scored
            scores_nothing = all(
                value == ranges[name].worst for part in values.values() for name, value in part.items()
            )
            if kind == "copy" and scores_nothing:
                continue
            shown = None if answer is None else _shown(answer, view)
            models.append(Baseline(kind, values, answer=shown))
    return _baselines(view, parts, models, ranges)


def _question(example: Example) -> str:
    return "\n".join(example.segments)


def _last(example: Example) -> str:
    """Return the text of a prompt that an answer would copy: its last field, or message."""
    return example.segments[-1] if example.segments else ""


def _is_cheap(request: MetricRequest) -> bool:
    try:
        metric = registry.load(request.type)
    except registry.RegistryError:
        return False
    return issubclass(metric, BuiltInMetric) and not issubclass(metric, PythonFunction)


def _score(
    request: MetricRequest, predictions: Sequence[str], lines: Sequence[Mapping[str, Any]], stop: str, scratch: Path
) -> tuple[float, MetricRange] | None:
    """Return the value of one metric and its range; None if it cannot score this data.

    Planning reports such a metric with its reason.
    """
    try:
        with MetricSet.open([request], scratch) as metrics:
            declaration = metrics.declarations[request.name]
            value = metrics.measure([compared_text(text, stop) for text in predictions], lines, stop).values[
                request.name
            ]
    except BackendError:
        return None
    ends = (declaration.low, declaration.high)
    return value, MetricRange(*(ends if declaration.direction == "maximize" else reversed(ends)))
