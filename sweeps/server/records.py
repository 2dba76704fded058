"""What the server remembers: files, uploads, jobs with their states, events, checkpoints, models."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from backends.contract import Scalar


class Status(StrEnum):
    """The states of a job, in the protocol's words."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

COMES_FROM: Mapping[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset(),
    Status.QUEUED: frozenset({Status.VALIDATING, Status.PAUSED}),
    Status.RUNNING: frozenset({Status.QUEUED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.RUNNING}),
    Status.SUCCEEDED: frozenset({Status.RUNNING, Status.PAUSED}),
    Status.FAILED: frozenset({Status.VALIDATING, Status.QUEUED, Status.RUNNING, Status.PAUSED}),
    Status.CANCELLED: frozenset({Status.VALIDATING, Status.QUEUED, Status.RUNNING, Status.PAUSED}),
}
"""The only transitions there are: which states each state is reached from."""


def new_id(prefix: str) -> str:
    """Return an identifier that nobody has used: `prefix` and 24 random characters."""
    return f"{prefix}{secrets.token_hex(12)}"


@dataclass(frozen=True)
class StoredFile:
    """An uploaded or produced file; its content lies in the server's folder under its id."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    sha256: str
    expires_at: int | None = None


@dataclass(frozen=True)
class Upload:
    """A file that arrives in parts."""

    id: str
    filename: str
    purpose: str
    bytes: int
    mime_type: str
    created_at: int
    expires_at: int
    status: str = "pending"
    file_id: str | None = None
    file_expires_after_s: int | None = None


@dataclass(frozen=True)
class Part:
    """A part of an upload; its content lies in the server's folder under its id."""

    id: str
    upload_id: str
    bytes: int
    created_at: int


@dataclass(frozen=True)
class Task:
    """What the protocol has no words for: the extension `task` of a job; the defaults are a plain job's.

    `labels` as in `backends.contract.Dataset`, or `"auto"`: the distinct completions of the training file. The rest is
    `backends.contract.Evaluation`.
    """

    labels: tuple[str, ...] | str = ()
    stop: str = ""
    per_epoch: int = 1
    train_examples: int = 256
    keep_metric: str = "valid_loss"
    keep_maximum: bool = False


@dataclass(frozen=True)
class Job:
    """A fine-tuning job. `hyperparameters` are those that were given, "auto" left out; `resolved` those in use."""

    id: str
    created_at: int
    model: str
    base_model: str
    training_file: str
    validation_file: str | None
    seed: int
    suffix: str | None
    metadata: Mapping[str, str] | None
    hyperparameters: Mapping[str, Scalar]
    task: Task
    resume_from: str | None = None
    status: Status = Status.VALIDATING
    resolved: Mapping[str, Scalar] = field(default_factory=dict)
    finished_at: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    error: Mapping[str, Any] | None = None
    result_files: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    handle: Mapping[str, str] | None = None


@dataclass(frozen=True)
class JobEvent:
    """A line of a job's log. `data` is that of a metrics event."""

    id: str
    job_id: str
    created_at: int
    level: str
    message: str
    type: str
    data: Mapping[str, Any] | None


@dataclass(frozen=True)
class Checkpoint:
    """A model of a moment in a job."""

    id: str
    job_id: str
    created_at: int
    step: int
    model: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class TunedModel:
    """A model that a job has made: its public name, and what the backend calls it (`target`).

    `copied`: the target is the server's own copy of a checkpoint, which it deletes itself.
    """

    name: str
    job_id: str
    base: str
    target: str
    created_at: int
    copied: bool = False
