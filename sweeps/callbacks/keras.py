"""Stop the training of a Keras model by the verdict on its learning curve.

from sweeps.callbacks.keras import StopByVerdict

callback = StopByVerdict(restore_best_weights=True)
model.fit(..., validation_data=..., callbacks=[callback])
callback.verdict
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from backends.training_logs import RunDetails
from sweeps.callbacks.running_history import RunningHistory
from sweeps.verdicts.verdict import FitVerdict


class StopByVerdict(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training once the run has diverged or surely overfits.

    `verdict` is the verdict so far, and `stopped_by` the one that ended the training, None if
    nothing did. With `restore_best_weights`, the model ends with the weights of `kept_epoch`, the
    epoch with the best validation, counted from 1; they take the memory of a second model.
    """

    def __init__(
        self, details: RunDetails | None = None, *, stop: bool = True, restore_best_weights: bool = False
    ) -> None:
        """`details` says what the log does not, such as the metric. Unless `stop`, only watch."""
        super().__init__()
        self.stopped_by: FitVerdict | None = None
        self.kept_epoch: int | None = None
        self._stop, self._restores = stop, restore_best_weights
        self._weights: Any = None
        self._history = RunningHistory("keras", details or RunDetails())

    @property
    def verdict(self) -> FitVerdict:
        """The verdict on the run so far."""
        return self._history.verdict

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._history.add({"epoch": epoch + 1, **(logs or {})})
        if self.verdict.keep_epoch == epoch + 1:
            self.kept_epoch = epoch + 1
            self._weights = self.model.get_weights() if self._restores else None
        found = self._history.early_stop_verdict
        if self._stop and found is not None:
            self.stopped_by = found
            self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._weights is not None:
            self.model.set_weights(self._weights)
