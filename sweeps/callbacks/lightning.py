"""Stop a Lightning Trainer by the verdict on its learning curve.

    from sweeps.callbacks.lightning import StopByVerdict

    callback = StopByVerdict()
    Trainer(..., callbacks=[callback]).fit(...)
    callback.verdict

The module logs its losses per epoch: `self.log("val_loss", loss)` and `self.log("train_loss", loss,
on_step=False, on_epoch=True)`.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from backends.training_logs import RunDetails
from sweeps.callbacks.running_history import RunningHistory
from sweeps.verdicts.verdict import FitVerdict


class StopByVerdict(Callback):  # type: ignore[misc]
    """Ends training once the run has diverged or surely overfits.

    `verdict` is the verdict so far, and `stopped_by` the one that ended the training, None if
    nothing did. `kept_epoch` is the epoch with the best validation, counted from 1: a
    ModelCheckpoint with `save_top_k=-1` or the same `monitor` has its weights.
    """

    def __init__(self, details: RunDetails | None = None, *, stop: bool = True) -> None:
        """`details` says what the log does not, such as the metric. Unless `stop`, only watch."""
        self.stopped_by: FitVerdict | None = None
        self._stop = stop
        self._history = RunningHistory("lightning", details or RunDetails())

    @property
    def verdict(self) -> FitVerdict:
        """The verdict on the run so far."""
        return self._history.verdict

    @property
    def kept_epoch(self) -> int | None:
        """The epoch with the best validation so far, counted from 1."""
        keep = self.verdict.keep_epoch
        return None if keep is None else round(keep)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the curve: Lightning has validated by now, and knows the means of the epoch."""
        if trainer.sanity_checking:
            return
        self._history.add({"epoch": trainer.current_epoch + 1, **trainer.callback_metrics})
        found = self._history.early_stop_verdict
        if self._stop and found is not None:
            self.stopped_by = found
            trainer.should_stop = True
