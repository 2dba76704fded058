"""The tables of a sweep as pandas DataFrames: one row per trial, or one row per measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.contract import Scalar
from sweeps.trials.trial import Trial

if TYPE_CHECKING:
    import pandas

TRIAL_COLUMNS: Mapping[str, tuple[str, Callable[[Trial], Any]]] = {
    "trial": ("int64", lambda trial: trial.number),
    "repeat_of": ("Int64", lambda trial: trial.repeat_of),
    "verdict": ("string", lambda trial: trial.verdict.kind.value if trial.verdict else None),
    "best_epoch": ("Float64", lambda trial: trial.best_epoch),
    "trained_epochs": ("Float64", lambda trial: trial.trained_epochs),
    "seconds": ("Float64", lambda trial: trial.spend.seconds),
    "tokens": ("Int64", lambda trial: trial.spend.tokens),
    "usd": ("Float64", lambda trial: trial.spend.usd),
    "seed": ("Int64", lambda trial: trial.seed),
    "base_model": ("string", lambda trial: trial.base_model),
    "stopped_by": ("string", lambda trial: trial.stopped_by.value if trial.stopped_by else None),
    "reason": ("string", lambda trial: trial.reason),
    "evidence": ("string", lambda trial: trial.verdict.evidence if trial.verdict else None),
    "advice": ("string", lambda trial: trial.verdict.advice if trial.verdict else None),
    "model": ("string", lambda trial: trial.model),
    "started_at": ("datetime64[ns, UTC]", lambda trial: trial.started_at),
    "ended_at": ("datetime64[ns, UTC]", lambda trial: trial.ended_at),
}
"""The columns that the trials of every sweep have, with their types and where they come from."""

FIRST_COLUMNS = ("trial", "repeat_of", "state", "verdict")


def trials_table(
    trials: Sequence[Trial], metrics: Sequence[str], state_name: Callable[[Trial], str]
) -> pandas.DataFrame:
    """Return one row per trial, in the given order.

    `metrics` names the objectives in the order of `Trial.values`. A metric that is also a fixed
    column (`usd`, `tokens`, `seconds`) appears once. A hyperparameter whose name is taken by
    another column has the prefix `hyperparameters.`.
    """
    import pandas

    columns = {name: _column([read(trial) for trial in trials], dtype) for name, (dtype, read) in TRIAL_COLUMNS.items()}
    columns["state"] = _column([state_name(trial) for trial in trials], "string")
    for index, metric in enumerate(metrics):
        objective_values = [trial.values[index] if trial.values is not None else None for trial in trials]
        columns.setdefault(metric, _column(objective_values, "Float64"))
    taken = frozenset(columns)
    for name in dict.fromkeys(name for trial in trials for name in trial.hyperparameters):
        values = [trial.hyperparameters.get(name) for trial in trials]
        columns[f"hyperparameters.{name}" if name in taken else name] = _column(values, _scalar_dtype(values))
    order = dict.fromkeys(
        (*FIRST_COLUMNS, *metrics, *(name for name in columns if name not in TRIAL_COLUMNS), *columns)
    )
    return pandas.DataFrame(columns)[list(order)]


def curves_table(trials: Sequence[Trial]) -> pandas.DataFrame:
    """Return one row per measurement, in the order of the trials and of the optimizer steps.

    Every metric that some trial measured is a column.
    """
    import pandas

    rows = [
        (trial.number, measured)
        for trial in trials
        for measured in sorted((*trial.curve, *trial.loop_reports), key=lambda measured: measured.step)
    ]
    columns = {
        "trial": _column([number for number, _ in rows], "int64"),
        "scope": _column([measured.scope for _, measured in rows], "string"),
        "epoch": _column([measured.epoch for _, measured in rows], "float64"),
        "step": _column([measured.step for _, measured in rows], "int64"),
    }
    for metric in sorted({metric for _, measured in rows for metric in measured.values}):
        columns[metric] = _column([measured.values.get(metric) for _, measured in rows], "Float64")
    return pandas.DataFrame(columns)


def _column(values: Sequence[Any], dtype: str) -> Any:
    import pandas

    if dtype.startswith("datetime64"):
        seconds = pandas.Series(values, dtype="float64")
        return pandas.to_datetime(seconds, unit="s", utc=True).dt.as_unit("ns")
    column: Any = pandas.Series
    return column(values, dtype=dtype)


def _scalar_dtype(values: Sequence[Scalar | None]) -> str:
    """Return the pandas type that holds these hyperparameter values without changing them."""
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return "boolean"
    if types == {int}:
        return "Int64"
    if types and types <= {int, float}:
        return "Float64"
    return "string" if types == {str} else "object"
