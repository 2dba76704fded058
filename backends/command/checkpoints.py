"""The checkpoints that a program writes: which one is the best, and which ones can go."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.contract import EvaluationSettings, Measured

_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class Checkpoint:
    """A file or folder of the program, and the number in its name: a step or an epoch."""

    path: Path
    number: int


def checkpoints_of(pattern: str) -> list[Checkpoint]:
    """Return the checkpoints that a pattern finds, by their numbers."""
    found = []
    for name in glob.iglob(pattern, recursive=True):
        number = _LAST_NUMBER.search(Path(name).stem)
        if number is not None:
            found.append(Checkpoint(Path(name), int(number[1])))
    return sorted(found, key=lambda checkpoint: (checkpoint.number, str(checkpoint.path)))


def evaluation_of(checkpoint: Checkpoint, evaluations: Sequence[Measured]) -> Measured | None:
    """Return the evaluation of a checkpoint: the one of its step, or else of its epoch."""
    by_step = {evaluation.step: evaluation for evaluation in evaluations}
    by_epoch = {evaluation.epoch: evaluation for evaluation in evaluations}
    return by_step.get(checkpoint.number) or by_epoch.get(float(checkpoint.number))


def best_evaluation(evaluations: Sequence[Measured], settings: EvaluationSettings) -> Measured | None:
    """Return the evaluation with the best `keep_metric`, the earlier one on a tie.

    None if no evaluation has it.
    """
    sign = 1.0 if settings.keep_maximum else -1.0
    scored = [evaluation for evaluation in evaluations if (value := _kept(evaluation, settings)) == value]
    return max(scored, key=lambda evaluation: (sign * _kept(evaluation, settings), -evaluation.step), default=None)


def best_checkpoint(
    checkpoints: Sequence[Checkpoint], evaluations: Sequence[Measured], settings: EvaluationSettings
) -> Checkpoint | None:
    """Return the checkpoint whose evaluation is the best; the newest one if none was evaluated."""
    evaluated = {
        evaluation.step: checkpoint
        for checkpoint in checkpoints
        if (evaluation := evaluation_of(checkpoint, evaluations)) is not None
    }
    best = best_evaluation([evaluation for evaluation in evaluations if evaluation.step in evaluated], settings)
    return evaluated[best.step] if best is not None else (checkpoints[-1] if checkpoints else None)


def delete_others(pattern: str, output: Path, evaluations: Sequence[Measured], settings: EvaluationSettings) -> None:
    """Delete the checkpoints that are neither the best nor the newest, nor still to be evaluated.

    Deletes only below `output`, and follows no link.
    """
    checkpoints = checkpoints_of(pattern)
    best = best_checkpoint(checkpoints, evaluations, settings)
    for checkpoint in checkpoints[:-1]:
        is_inside = checkpoint.path.absolute().is_relative_to(output.absolute())
        if checkpoint == best or not is_inside or evaluation_of(checkpoint, evaluations) is None:
            continue
        if checkpoint.path.is_dir() and not checkpoint.path.is_symlink():
            shutil.rmtree(checkpoint.path, ignore_errors=True)
        else:
            checkpoint.path.unlink(missing_ok=True)


def _kept(evaluation: Measured, settings: EvaluationSettings) -> float:
    return evaluation.values.get(settings.keep_metric, float("nan"))
