"""Stop a Lightning Trainer by the verdict on its learning curve.

    from sweeps.callbacks.lightning import StopByVerdict

    callback = StopByVerdict()
    Trainer(..., callbacks=[callback]).fit(...)
    callback.verdict, callback.best_checkpoint

The module logs its losses per epoch: `self.log("val_loss", loss)` and `self.log("train_loss", loss,
on_step=False, on_epoch=True)`.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from backends.training_logs import RunDetails
from sweeps.callbacks.running_history import RunningHistory
from sweeps.verdicts.verdict import FitVerdict

_EPOCH = re.compile(r"epoch=(\d+)")


class StopByVerdict(Callback):  # type: ignore[misc]
    """Ends training once the run has diverged or surely overfits.

    `verdict` is the verdict so far, and `stopped_by` the one that ended the training, None if
    nothing did. `kept_epoch` is the epoch with the best validation, counted from 1.
    `best_checkpoint` is the file of that epoch: a ModelCheckpoint with the same `monitor`, or with
    `save_top_k=-1`, has kept it.
    """

    def __init__(self, details: RunDetails | None = None, *, stop: bool = True) -> None:
        """`details` says what the log does not, such as the metric. Unless `stop`, only watch."""
        self.stopped_by: FitVerdict | None = None
        self._stop = stop
        self._folders: list[Path] = []
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

    @property
    def best_checkpoint(self) -> Path | None:
        """The saved checkpoint of the epoch to keep.

        None if there is none, or if the names of the files do not tell the epoch: Lightning's own
        names begin with `epoch=0-`, counted from 0. An earlier run in the same folder does not
        count: of several files of the epoch, the newest is meant.
        """
        wanted = None if self.kept_epoch is None else self.kept_epoch - 1
        files = [path for folder in self._folders for path in folder.glob("*.ckpt")]
        of_epoch = [path for path in files if (name := _EPOCH.search(path.name)) and int(name[1]) == wanted]
        return max(of_epoch, key=lambda path: path.stat().st_mtime, default=None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the curve: Lightning has validated by now, and knows the means of the epoch."""
        if trainer.sanity_checking:
            return
        self._folders = [Path(saver.dirpath) for saver in trainer.checkpoint_callbacks if saver.dirpath]
        self._history.add({"epoch": trainer.current_epoch + 1, **trainer.callback_metrics})
        found = self._history.early_stop_verdict
        if self._stop and found is not None:
            self.stopped_by = found
            trainer.should_stop = True
