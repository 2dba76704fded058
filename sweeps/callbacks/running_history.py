"""The history of a training run while it trains: rows as the library logs them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, curves_of
from backends.training_logs.log_table import LogRow, LogTable
from sweeps.reports.judged_histories import Fitted, judge_curves
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import early_stop_verdict
from sweeps.verdicts.verdict import FitVerdict, VerdictKind


class RunningHistory:
    """The rows of a run so far. `name` stands for it in messages."""

    def __init__(self, name: str, details: RunDetails) -> None:
        self._name, self._details = name, details
        self._rows: list[LogRow] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, of which only the numbers count."""
        numbers = {key: float(value) for key, value in row.items() if _is_number(value)}
        self._rows.append(LogRow(f"{self._name}: row {len(self._rows) + 1}", numbers))

    def replace_by(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take these rows instead of all earlier ones."""
        self._rows.clear()
        for row in rows:
            self.add(row)

    @property
    def early_stop_verdict(self) -> FitVerdict | None:
        """The verdict if more training will surely not help; see `judge.early_stop_verdict`."""
        curve = self._curve()
        return None if curve is None else early_stop_verdict(curve.curve, Advice())

    @property
    def fitted(self) -> Fitted | None:
        """The curve so far with its verdict; None before anything was measured."""
        curve = self._curve()
        return None if curve is None else judge_curves([curve])[0]

    @property
    def verdict(self) -> FitVerdict:
        """The verdict on the run so far."""
        fitted = self.fitted
        return FitVerdict(VerdictKind.UNSETTLED, "nothing was measured") if fitted is None else fitted.verdict

    def _curve(self) -> ImportedCurve | None:
        """Return the curve; of several validation sets, the first one counts."""
        if not self._rows:
            return None
        try:
            return curves_of(LogTable(self._name, "running", tuple(self._rows)), self._details)[0]
        except TrainingLogError:
            return None


def _is_number(value: Any) -> bool:
    """Say whether `float` takes it: NaN counts, and so does a tensor with one value."""
    if isinstance(value, bool | str):
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with several values
        return False
    return True
