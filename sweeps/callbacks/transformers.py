"""Stop a Hugging Face Trainer by the verdict on its learning curve.

from sweeps.callbacks.transformers import StopByVerdict

callback = StopByVerdict()
Trainer(..., callbacks=[callback]).train()
callback.verdict, callback.best_checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from backends.training_logs import RunDetails
from sweeps.callbacks.running_history import RunningHistory
from sweeps.verdicts.verdict import FitVerdict


class StopByVerdict(TrainerCallback):  # type: ignore[misc]
    """Ends training once the run has diverged or surely overfits.

    After each evaluation, `verdict` is the verdict so far. `stopped_by` is the verdict that ended
    the training, None if nothing did. `best_checkpoint` is the checkpoint to keep, None if the
    Trainer saved none there: save and evaluate at the same steps. Works beside
    `load_best_model_at_end`, which then loads the Trainer's own choice.
    """

    def __init__(self, details: RunDetails | None = None, *, stop: bool = True) -> None:
        """`details` says what the log does not, such as the metric. Unless `stop`, only watch."""
        self.stopped_by: FitVerdict | None = None
        self.best_checkpoint: Path | None = None
        self._stop = stop
        self._history = RunningHistory("trainer", details or RunDetails())

    @property
    def verdict(self) -> FitVerdict:
        """The verdict on the run so far."""
        return self._history.verdict

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._take(state)
        found = self._history.early_stop_verdict
        if self._stop and found is not None and control.should_training_stop is False:
            self.stopped_by = found
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._take(state)
        keep = self.verdict.keep_epoch
        steps = [
            entry["step"]
            for entry in state.log_history
            if keep is not None and entry.get("epoch") == keep and any(key.startswith("eval_") for key in entry)
        ]
        folder = Path(str(args.output_dir)) / f"checkpoint-{steps[0]}" if steps else None
        self.best_checkpoint = folder if folder is not None and folder.is_dir() else None

    def _take(self, state: TrainerState) -> None:
        self._history.replace_by([entry for entry in state.log_history if "train_runtime" not in entry])
