"""The schemas of fine-tuning jobs, with their events and checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeps.server.schemas.base import RequestModel, ResponseModel, WholeNumber

MAX_SEED = 2**31 - 1

HyperparameterValue = bool | int | float | str
Auto = Literal["auto"]
Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class Hyperparameters(BaseModel):
    """The protocol's hyperparameters, and others that the backend declares.

    The command `sweep backends NAME` lists those of a backend.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, HyperparameterValue] = Field(init=False)

    n_epochs: Auto | WholeNumber | None = None
    batch_size: Auto | WholeNumber | None = None
    learning_rate_multiplier: Auto | float | None = None


class Supervised(RequestModel):
    """Supervised fine-tuning."""

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """The fine-tuning method."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None


class TaskSettings(RequestModel):
    """Settings for which the protocol has no field: an extension of this server.

    OpenAI clients send it as `extra_body={"task": {...}}`.
    """

    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=1000)] | Auto = (
        Field(
            default=[],
            description="the allowed completions, exactly as they are in the files; auto: those of the training file",
        )
    )
    stop: str = Field(
        default="", max_length=1024, description="the text that ends every completion in the files, if there is one"
    )
    per_epoch: WholeNumber = Field(default=1, ge=1, le=100, description="evaluations of the validation file per epoch")
    train_examples: WholeNumber = Field(
        default=256, ge=0, le=MAX_SEED, description="the number of training examples that each evaluation also scores"
    )
    keep_metric: str = Field(
        default="valid_loss", max_length=64, description="the metric that selects the state to keep"
    )
    keep_maximum: bool = Field(default=False, description="whether the highest value of it is the best")


class CreateJob(RequestModel):
    """A request for a fine-tuning job."""

    model: str = Field(min_length=1)
    training_file: str
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(default=None, deprecated=True)
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: WholeNumber | None = Field(default=None, ge=0, le=MAX_SEED)
    metadata: Metadata | None = Field(default=None, max_length=16)
    integrations: list[dict[str, Any]] | None = Field(default=None, max_length=0)
    task: TaskSettings | None = None


class JobError(ResponseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class JobObject(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    hyperparameters: dict[str, HyperparameterValue | None]
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    error: JobError | None
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    task: TaskSettings


class JobList(ResponseModel):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventObject(ResponseModel):
    """A line of a job's log."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics", "moderation_checks"]
    data: dict[str, Any] | None


class EventList(ResponseModel):
    """A page of a job's log, the newest line first."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointObject(ResponseModel):
    """The model of a job after one of its steps."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | None]
    step_number: int


class CheckpointList(ResponseModel):
    """A page of checkpoints, the newest first."""

    object: Literal["list"] = "list"
    data: list[CheckpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
