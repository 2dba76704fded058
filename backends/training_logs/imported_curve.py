"""A learning curve read from a log, and the details that a caller adds to a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from backends.training_logs.learning_curve import LearningCurve


@dataclass(frozen=True)
class RunDetails:
    """Facts about a run that its log does not contain. None means unknown.

    `metric` names the metric to judge by. `train_examples` and `valid_examples` are the sizes of
    the training and the validation set, and `classes` is the number of labels. The baselines are
    the validation loss and the validation metric before training. `columns` maps our names, such as
    `valid_loss`, to the columns of the log that hold them; they go before what the names reveal.
    """

    metric: str | None = None
    train_examples: int | None = None
    valid_examples: int | None = None
    classes: int | None = None
    baseline_loss: float | None = None
    baseline_metric: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportedCurve:
    """A learning curve and its origin.

    `name` is the name of the source, and `format` the format of the log, in words.

    `axis` says what the points' `epoch` counts: epochs, or steps if the log does not reveal the
    epochs. `notes` list every assumption of the reader and every row that it left out. `ignored`
    are the columns that it did not use. `scope` is the scope of the recommendation catalogue that
    fits the run, None if none does. A log of several runs, or of several validation sets, gives a
    curve for each: `run` and `evaluation_set` are their names in the log. `values_read` counts the
    numbers of the log that the curve uses, and `left_out` says in words which others it does not
    use, such as "3 evaluations of the test set".
    """

    name: str
    format: str
    curve: LearningCurve
    axis: Literal["epoch", "step"] = "epoch"
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    scope: str | None = None
    run: str | None = None
    evaluation_set: str | None = None
    values_read: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the source, with the run and the validation set where there are several."""
        parts = (self.name, self.run and f"run {self.run}", self.evaluation_set and f"on {self.evaluation_set}")
        return ", ".join(part for part in parts if part)
