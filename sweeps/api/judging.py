"""`judge` and `judge_all`: verdicts on training histories, whoever trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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

History: TypeAlias = "LearningCurve | str | Path | bytes | pandas.DataFrame | Mapping[str, Any] | Sequence[Any] | Any"
"""A learning curve, a file, `mlflow:RUN_ID`, a file's bytes, a table, JSON values, a Trainer of
Hugging Face, or the History of a Keras model."""


def judge(
    history: History | None = None,
    *,
    details: RunDetails | None = None,
    root: str | Path | None = None,
    **columns: Iterable[float | None],
) -> FitVerdict:
    """Judge one training history and return its verdict, with the evidence and the advice.

    `history` is a LearningCurve; the path of a file in any format that `sweep fit` reads;
    `mlflow:RUN_ID`; the bytes of a file; a pandas DataFrame with one row per evaluation; the JSON
    values of a history; a Hugging Face Trainer; or the History that Keras returns. Instead of it,
    `columns` are lists of numbers: `judge(valid_loss=[...], train_loss=[...])`.

    `details` says what the history does not: its metric, the sizes of its data sets, the scores of
    the base model. `root` is the workspace whose MLflow database is read for `mlflow:` (default:
    MLFLOW_TRACKING_URI, SWEEP_ROOT, else `.sweep`).

    Raises UserInputError if it cannot be read, or if it holds several curves; see `judge_all`.
    """
    if (history is None) is not bool(columns):
        problem = Problem("judge", "there is no history" if history is None else "there are two histories")
        raise UserInputError([replace(problem, hint="Give one: a file, a table, or lists such as valid_loss=[...].")])
    if history is None:
        history = {name: _as_list(name, values) for name, values in columns.items()}
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


def _as_bytes(history: Any) -> bytes:
    """Return a history as the bytes of a log."""
    if isinstance(history, bytes):
        return history
    log_history = getattr(getattr(history, "state", None), "log_history", None)
    if log_history is not None:  # a Trainer of Hugging Face
        return json.dumps({"log_history": log_history}, default=_json_value).encode()
    if isinstance(getattr(history, "history", None), Mapping):  # what `fit` of Keras returns
        history = history.history
    if isinstance(history, Mapping) or (isinstance(history, Sequence) and not _are_numbers(history)):
        try:
            return json.dumps(history, default=_json_value).encode()
        except (TypeError, ValueError) as error:
            problem = Problem("history", f"it holds something that is no number: {error}", "Give numbers.")
            raise UserInputError([problem]) from None
    if hasattr(history, "columns") and hasattr(history, "to_csv"):
        named = [name for name in history.index.names if name is not None]
        return bytes(history.to_csv(index=bool(named) and not set(named) & set(history.columns)).encode())
    if isinstance(history, Iterable):
        message, hint = "these values do not say what they measure", "Name them: judge(valid_loss=[...])."
    else:
        message = f"an object of the type {type(history).__name__} is no training history"
        hint = "Give a file, a table or lists."
    raise UserInputError([Problem("history", message, hint)])


def _are_numbers(history: Sequence[Any]) -> bool:
    return bool(history) and all(isinstance(value, int | float) or value is None for value in history)


def _as_list(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        problem = Problem("judge", f"{name} is no list of numbers", f"Give a list: judge({name}=[...]).")
        raise UserInputError([problem])
    return list(values)


def _json_value(value: Any) -> Any:
    """Return an array, a Series or a tensor as a list, and a number of any library as a float."""
    return value.tolist() if hasattr(value, "tolist") else float(value)
