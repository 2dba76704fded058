"""Choose the model of a run: the training state with the best value of the request's metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backends.contract import EvaluationSettings, Event, Measured


def steps_per_epoch(events: Sequence[Event]) -> float | None:
    """Return the number of steps per epoch according to a run's events, or None if unknown."""
    measurements = [event for event in events if isinstance(event, Measured) and event.epoch > 0]
    return measurements[-1].step / measurements[-1].epoch if measurements else None


def keep_metric_by_step(events: Sequence[Event], evaluation: EvaluationSettings) -> dict[int, float]:
    """Return the values, by step, of the metric that decides which state to keep."""
    metric = evaluation.keep_metric
    return {
        event.step: event.values[metric]
        for event in events
        if isinstance(event, Measured) and event.scope == "evaluation" and metric in event.values
    }


def best_model(models: Mapping[int, str], values: Mapping[int, float], evaluation: EvaluationSettings) -> str | None:
    """Return the model of the step with the best value, the earlier one on a tie.

    Both mappings are by step. Returns None if no model has a finite value.
    """
    sign = -1 if evaluation.keep_maximum else 1
    scores = [(sign * values[step], step) for step in models if math.isfinite(values.get(step, math.nan))]
    return models[min(scores)[1]] if scores else None
