"""The host's objects as plain values: files, jobs, log events, checkpoints.

The functions read them from the objects of the `openai` package, which may lack fields or hold
values of other types than the protocol says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RemoteFile:
    """A file at the host."""

    id: str
    filename: str
    bytes: int | None
    status: str
    status_details: str
    created_at: float


@dataclass(frozen=True)
class RemoteJob:
    """A job at the host.

    `hyperparameters` are the values in use, as far as the host reports them, without "auto".
    `files` are the ids of its training and validation file.
    """

    id: str
    status: str
    created_at: float
    base_model: str
    model: str | None
    hyperparameters: Mapping[str, Any]
    trained_tokens: int | None
    error_code: str | None
    error_message: str | None
    result_files: tuple[str, ...]
    metadata: Mapping[str, str]
    suffix: str | None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteEvent:
    """An entry of a job's log. `data` holds the measurements of a metrics event."""

    id: str
    created_at: float
    level: str
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A model after some step of a job, with the measurements of that step."""

    id: str
    step: int
    model: str
    metrics: Mapping[str, Any]


def read_file(answer: Any) -> RemoteFile:
    """Return a file."""
    size = getattr(answer, "bytes", None)
    return RemoteFile(
        id=answer.id,
        filename=str(getattr(answer, "filename", "") or ""),
        bytes=size if isinstance(size, int) else None,
        status=str(getattr(answer, "status", "") or ""),
        status_details=str(getattr(answer, "status_details", "") or ""),
        created_at=_number(getattr(answer, "created_at", None)),
    )


def read_job(answer: Any) -> RemoteJob:
    """Return a job. Hyperparameters may stand in `method` or in the older field beside it."""
    error = getattr(answer, "error", None)  # some hosts send an empty object where there is no error
    tokens = getattr(answer, "trained_tokens", None)
    fields = answer.to_dict()
    method = fields.get("method") or {}
    method_fields = method.get(str(method.get("type"))) or {}
    used = {**(fields.get("hyperparameters") or {}), **(method_fields.get("hyperparameters") or {})}
    return RemoteJob(
        id=answer.id,
        status=str(getattr(answer, "status", "") or ""),
        created_at=_number(getattr(answer, "created_at", None)),
        base_model=str(getattr(answer, "model", "") or ""),
        model=getattr(answer, "fine_tuned_model", None) or None,
        hyperparameters={name: value for name, value in used.items() if _is_scalar(value) and value != "auto"},
        trained_tokens=tokens if isinstance(tokens, int) else None,
        error_code=_text(error, "code"),
        error_message=_text(error, "message"),
        result_files=tuple(str(file) for file in getattr(answer, "result_files", None) or ()),
        metadata={str(name): str(value) for name, value in (getattr(answer, "metadata", None) or {}).items()},
        suffix=str(fields.get("user_provided_suffix") or fields.get("suffix") or "") or None,
        files=tuple(str(file) for name in ("training_file", "validation_file") if (file := fields.get(name))),
    )


def read_event(answer: Any) -> RemoteEvent:
    """Return an entry of a job's log."""
    data = answer.to_dict().get("data")
    return RemoteEvent(
        id=answer.id,
        created_at=_number(getattr(answer, "created_at", None)),
        level=str(getattr(answer, "level", "") or ""),
        message=str(getattr(answer, "message", "") or ""),
        data=data if isinstance(data, Mapping) else {},
    )


def read_checkpoint(answer: Any) -> RemoteCheckpoint:
    """Return a checkpoint."""
    metrics = answer.to_dict().get("metrics")
    return RemoteCheckpoint(
        id=answer.id,
        step=int(_number(getattr(answer, "step_number", None))),
        model=str(getattr(answer, "fine_tuned_model_checkpoint", "") or ""),
        metrics=metrics if isinstance(metrics, Mapping) else {},
    )


def _text(value: Any, name: str) -> str | None:
    text = getattr(value, name, None)
    return str(text) if text else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)
