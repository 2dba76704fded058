"""The texts that a simulated run pretends to generate, and the task metrics that measure them.

An example is answered as its reference says once the skill of the run exceeds the example's
difficulty, a number between 0 and 1 that depends only on the data. Before that the answer is a
pretence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import GENERATED_SAMPLE, Generated, GeneratedText, TrainingRequest
from backends.metrics.measurement import MetricSet
from backends.metrics.references import prompt_text, reference_texts
from backends.metrics.sample import sampled_examples


@dataclass(frozen=True)
class TextEvaluation:
    """The texts of one evaluation, and the values of the task metrics by their reported names."""

    generated: Generated
    values: dict[str, float]


def text_evaluations(
    request: TrainingRequest, n_epochs: int, steps_per_epoch: int, skill: Callable[[float], float], workspace: Path
) -> tuple[TextEvaluation, ...]:
    """Measure what a run generates at its evaluations; empty without task metrics.

    `skill` is a share by epoch. Raises BackendError if a metric fails.
    """
    evaluation = request.evaluation
    if not evaluation.metrics or evaluation.generation is None:
        return ()
    file, stop = request.dataset.valid, request.dataset.stop
    lines = [json.loads(line) for line in Path(file.path).read_text(encoding="utf-8").split("\n") if line]
    examples = sampled_examples(len(lines), evaluation.generation.examples, file.sha256)
    sample = [lines[example] for example in examples]
    difficulty = [random.Random(f"{file.sha256}:{example}").random() for example in examples]
    per_epoch = evaluation.generation.per_epoch
    measured = []
    with MetricSet.open(evaluation.metrics, workspace) as metrics:
        for n in range(n_epochs * per_epoch + 1):
            epoch = n / per_epoch
            level = skill(epoch)
            answers = [
                _answer(line, stop) if level > hard else "pretence"
                for line, hard in zip(sample, difficulty, strict=True)
            ]
            measurement = metrics.measure(answers, sample, stop)
            texts = tuple(
                GeneratedText(
                    example, prompt_text(line), _answer(line, stop), answer, False, measurement.scores_of(position)
                )
                for position, (example, line, answer) in enumerate(zip(examples, sample, answers, strict=True))
            )
            generated = Generated(round(epoch * steps_per_epoch), epoch, texts[:GENERATED_SAMPLE], len(texts))
            measured.append(TextEvaluation(generated, measurement.evaluation_values))
    return tuple(measured)


def _answer(line: dict[str, Any], stop: str) -> str:
    return reference_texts(line, stop, None)[0]
