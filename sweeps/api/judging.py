"""`judge` and `judge_all`: verdicts on training histories, whoever trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from backends.training_logs import RunDetails, TrainingLogError, read
from backends.training_logs.learning_curve import LearningCurve
from sweeps.api.environment import open_workspace, tracking_uri
from sweeps.errors import Problem, UserInputError
from sweeps.reports.judged_histories import judge_curves, judged
from sweeps.tracking.run_curves import PREFIX
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge as judge_curve
from sweeps.verdicts.verdict import FitVerdict

if TYPE_CHECKING:
    import pandas

History: TypeAlias = "LearningCurve | str | Path | bytes | pandas.DataFrame | Mapping[str, Any] | Sequence[Any]"
"""A learning curve, a file, `mlflow:RUN_ID`, a file's bytes, a table, or JSON values."""


def judge(history: History, *, details: RunDetails | None = None, root: str | Path | None = None) -> FitVerdict:
    """Judge one training history and return its verdict, with the evidence and the advice.

    `history` is a LearningCurve; the path of a CSV or JSON file in any format that `sweep fit`
    reads; `mlflow:RUN_ID`; the bytes of a file; a pandas DataFrame with one row per evaluation; or
    the JSON values of a history. `details` says what the history does not: its metric, the sizes of
    its data sets, the scores of the base model. `root` is the workspace whose MLflow database is
    read for `mlflow:` (default: MLFLOW_TRACKING_URI, SWEEP_ROOT, else `.sweep`).

    Raises UserInputError if it cannot be read, or if it holds several curves; see `judge_all`.
    """
    if isinstance(history, LearningCurve):
        return judge_curve(history, Advice())
    verdicts = judge_all(history, details=details, root=root)
    if len(verdicts) != 1:
        problem = Problem(str(next(iter(verdicts))), f"the history holds {len(verdicts)} curves", "Use judge_all.")
        raise UserInputError([problem])
    return next(iter(verdicts.values()))


def judge_all(
    history: History, *, details: RunDetails | None = None, root: str | Path | None = None
) -> Mapping[str, FitVerdict]:
    """Judge every curve in a history, such as all trials in the output of `sweep status NAME
    --json`.

    Returns the verdicts by the names of the curves, in their order. The arguments and errors are
    those of `judge`.
    """
    details = details or RunDetails()
    if isinstance(history, LearningCurve):
        return {"curve": judge_curve(history, Advice())}
    if isinstance(history, str | Path):
        uri = tracking_uri(open_workspace(root)) if str(history).startswith(PREFIX) else ""
        return {one.history.title: one.verdict for one in judged([str(history)], uri, details).fitted}
    try:
        curves = read(_as_bytes(history), details)
    except TrainingLogError as error:
        raise UserInputError([Problem(error.place, error.message, error.hint)]) from None
    return {one.history.title: one.verdict for one in judge_curves(curves)}


def _as_bytes(history: bytes | pandas.DataFrame | Mapping[str, Any] | Sequence[Any]) -> bytes:
    if isinstance(history, bytes):
        return history
    if isinstance(history, Mapping | Sequence):
        return json.dumps(history).encode()
    return history.to_csv(index=False).encode()
