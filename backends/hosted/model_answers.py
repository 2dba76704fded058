"""What the answers of a trained model to the validation set show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.contract import Failure
from backends.metrics.task_measurement import TaskMeasurement


@dataclass(frozen=True)
class ModelEvaluation:
    """What the answers of a trained model show; by default it was asked nothing.

    - `label_scores`: by the names of evaluations.
    - `texts`: the task metrics and their texts. None if the request has no such metrics, or the
      host refused to generate.
    - `is_paid`: measuring costs money.
    - `unmeasured`: why there is no value of the task metric by which the request keeps states.
    """

    label_scores: Mapping[str, float] = field(default_factory=dict)
    texts: TaskMeasurement | None = None
    is_paid: bool = False
    unmeasured: Failure | None = None

    @property
    def values(self) -> dict[str, float]:
        """All values by the names of evaluations."""
        return {**self.label_scores, **({} if self.texts is None else self.texts.values)}
