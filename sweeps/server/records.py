"""The records that the server stores: files, uploads, jobs, checkpoints, models, deliveries."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from backends.contract import Dataset, Handle, Scalar


class JobStatus(StrEnum):
    """The status of a job, in the words of the protocol."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

PREVIOUS_STATUSES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING: frozenset(),
    JobStatus.QUEUED: frozenset({JobStatus.VALIDATING, JobStatus.PAUSED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.RUNNING}),
    # queued: its run ended while the job was paused, and a client resumed the job
    JobStatus.SUCCEEDED: frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}),
    JobStatus.FAILED: frozenset({JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}),
    JobStatus.CANCELLED: frozenset({JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}),
}
"""Every allowed transition: a status -> the statuses from which a job can reach it."""


def new_id(prefix: str) -> str:
    """Return a fresh identifier: `prefix` and 24 random hexadecimal digits."""
    return f"{prefix}{secrets.token_hex(12)}"


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file, or a result file. The server's folder holds its content under its id."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    sha256: str
    expires_at: int | None = None


@dataclass(frozen=True)
class Upload:
    """A file that a client uploads in parts."""

    id: str
    filename: str
    purpose: str
    bytes: int
    mime_type: str
    created_at: int
    expires_at: int
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    file_id: str | None = None
    file_expires_after_s: int | None = None


@dataclass(frozen=True)
class StoredPart:
    """A part of an upload. The server's folder holds its content under its id."""

    id: str
    upload_id: str
    bytes: int
    created_at: int


@dataclass(frozen=True)
class Task:
    """The field `task` of a job, an extension of the protocol.

    The defaults describe a job without it. `labels` and `stop` are as in
    `backends.contract.Dataset`; the labels `"auto"` are the distinct completions of the training
    file. The other fields are those of `backends.contract.EvaluationSettings`.
    """

    labels: tuple[str, ...] | Literal["auto"] = ()
    stop: str = ""
    per_epoch: int = 1
    train_examples: int = 256
    keep_metric: str = "valid_loss"
    keep_maximum: bool = False


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed: a code of the protocol, one sentence, and the request's wrong parameter."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Job:
    """A fine-tuning job.

    `model` is the name that the client gave, and `base_model` what the backend calls its base
    model. `hyperparameters` holds the values that the client gave, without "auto"; `resolved` the
    values that the run uses. `data` is the prepared data set, and `handle` the run at the backend;
    both are None until they exist.
    """

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
    status: JobStatus = JobStatus.VALIDATING
    resolved: Mapping[str, Scalar] = field(default_factory=dict)
    finished_at: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    error: JobFailure | None = None
    result_files: tuple[str, ...] = ()
    data: Dataset | None = None
    handle: Handle | None = None

    @property
    def base_name(self) -> str:
        """The public name of the base model, even if `model` is a fine-tuned model."""
        return base_name(self.model)


def base_name(model: str) -> str:
    """Return the public name of a model's base model; a fine-tuned model is named `ft:BASE:...`."""
    return model.split(":")[1] if model.startswith("ft:") else model


@dataclass(frozen=True)
class JobEvent:
    """A line of a job's log. A line of the type `metrics` has its metrics in `data`."""

    id: str
    job_id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics", "moderation_checks"]
    data: Mapping[str, Any] | None


def log_line(
    job_id: str,
    message: str,
    *,
    level: Literal["info", "warn", "error"] = "info",
    data: Mapping[str, Any] | None = None,
) -> JobEvent:
    """Return a new line for a job's log, of the type `metrics` if it has `data`."""
    return JobEvent(
        new_id("ftevent-"), job_id, int(time.time()), level, message, "message" if data is None else "metrics", data
    )


@dataclass(frozen=True)
class Checkpoint:
    """The model of a job after one of its steps, with the metrics of that step."""

    id: str
    job_id: str
    created_at: int
    step: int
    model: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class TunedModel:
    """A model that a job produced: its public name, and what the backend calls it (`target`).

    `copied`: the target is the server's own copy of a checkpoint, so the server deletes it.
    """

    name: str
    job_id: str
    base: str
    target: str
    created_at: int
    copied: bool = False


@dataclass(frozen=True)
class Delivery:
    """A webhook that the receiver has not accepted yet. `attempts` counts the failed attempts."""

    id: str
    body: str
    attempts: int
