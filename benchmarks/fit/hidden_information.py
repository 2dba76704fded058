"""Hiding of information from a curve.

Real histories lack sizes, the base model's score, metrics or losses.
"""

from __future__ import annotations

import dataclasses
import random

from backends.training_logs.learning_curve import CurvePoint, LearningCurve

COMPLETE_SHARE = 0.4
"""The share of histories that stay complete."""

BY_LOSS, BY_LOSS_OVERFIT = 0.2, 0.5
"""The share of sweeps whose objective is the validation loss although a metric is known.

The share is larger for over-fitted runs, because a rising loss is no over-fitting while the metric,
as the objective, rises too.
"""


def hide_information(curve: LearningCurve, cause: str, detail: str, seed: int) -> LearningCurve:
    """Hide a random part, chosen by the seed, but never a part without which the cause is
    invisible.
    """
    rng = random.Random(f"shown {seed}")
    if detail == "no validation":
        return _without(_hide_random_parts(curve, rng, keep=set()), "valid_loss", "valid_metric")
    if rng.random() < (BY_LOSS_OVERFIT if cause == "overfit" else BY_LOSS):
        curve = dataclasses.replace(curve, best_by="loss")
    if rng.random() < COMPLETE_SHARE:
        return curve
    keep: set[str] = set()
    if cause == "diverged":
        keep = {"train_loss", "baseline"}
    elif cause == "overfit":
        keep = {"train_loss", "train_metric"}
    elif cause == "underfit":
        keep = {"baseline", "chance", "valid_loss"}
    elif detail in {"within the noise of few examples", "few examples, about to turn"}:
        keep = {"sizes", "valid_loss"}
    return _hide_random_parts(curve, rng, keep)


def _hide_random_parts(curve: LearningCurve, rng: random.Random, keep: set[str]) -> LearningCurve:
    if "baseline" not in keep and rng.random() < 0.5:
        curve = dataclasses.replace(curve, baseline=None)
    if "sizes" not in keep and rng.random() < 0.25:
        curve = dataclasses.replace(curve, train_examples=None, valid_examples=None)
    if "chance" not in keep and rng.random() < 0.4:
        curve = dataclasses.replace(curve, chance=None, classes=rng.choice([None, curve.classes]))
    draw = rng.random()
    if curve.metric is None:
        return curve
    if draw < 0.25:
        return dataclasses.replace(
            _without(curve, "train_metric", "valid_metric"), metric=None, classes=None, chance=None, best_by="loss"
        )
    if draw < 0.45 and "train_metric" not in keep:
        return _without(curve, "train_metric")
    if draw < 0.6 and not {"valid_loss", "train_loss"} & keep:
        return _without(curve, "train_loss", "valid_loss")
    if draw < 0.65 and "train_loss" not in keep:
        return _without(curve, "train_loss")
    return curve


def _without(curve: LearningCurve, *names: str) -> LearningCurve:
    def cut(point: CurvePoint) -> CurvePoint:
        return dataclasses.replace(point, **dict.fromkeys(names))

    return dataclasses.replace(
        curve, points=tuple(map(cut, curve.points)), baseline=curve.baseline and cut(curve.baseline)
    )
