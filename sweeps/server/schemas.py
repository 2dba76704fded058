"""The objects of the protocol: what is sent and what is answered, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_SEED = 2**31 - 1


def whole(value: object) -> object:
    """Return a whole number as an int: JSON knows one kind of number, and 8.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]


class Answered(BaseModel):
    """What is answered: nothing but the fields that are described."""

    model_config = ConfigDict(extra="forbid")


class Ordered(BaseModel):
    """What a client sends: an unknown key is an error, and no value is taken for another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


# --------------------------------------------------------------------------------------------------------------- errors
class ErrorDetail(Answered):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answered):
    """The body of every answer that is not a success."""

    error: ErrorDetail


# ---------------------------------------------------------------------------------------------------------------- files
class FileObject(Answered):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None


class FileList(Answered):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Answered):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


class ExpiresAfter(Ordered):
    """When a file is to be deleted."""

    anchor: Literal["created_at"]
    seconds: Whole = Field(ge=3600, le=2592000)


class CreateUpload(Ordered):
    """The announcement of a file that comes in parts."""

    bytes: Whole = Field(ge=1)
    filename: str = Field(min_length=1, max_length=255)
    mime_type: str = Field(max_length=255)
    purpose: Literal["fine-tune"]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Ordered):
    """The order of the parts."""

    part_ids: list[str]
    md5: str | None = None


class UploadObject(Answered):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None


class UploadPart(Answered):
    """A part of a file."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


# ----------------------------------------------------------------------------------------------------------------- jobs
Number = int | float
Value = bool | int | float | str
Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    """Those of the protocol, and any other one that the backend declares (see `sweep backends NAME`)."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    n_epochs: Auto | Whole | None = None
    batch_size: Auto | Whole | None = None
    learning_rate_multiplier: Auto | float | None = None


class Supervised(Ordered):
    """Supervised fine-tuning."""

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """How the model is trained."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None


class TaskSettings(Ordered):
    """An extension of this server: what the protocol has no words for. Send it in `extra_body={"task": {...}}`."""

    labels: list[Annotated[str, Field(min_length=1)]] | Auto = Field(
        default=[],
        description="the allowed completions, exactly as they stand in the files; auto: those of the training file",
    )
    stop: str = Field(default="", description="what ends every completion in the files, if anything does")
    per_epoch: Whole = Field(default=1, ge=1, le=100, description="evaluations of the validation file an epoch")
    train_examples: Whole = Field(default=256, ge=0, description="training examples that are scored beside them")
    keep_metric: str = Field(default="valid_loss", description="the metric by which the kept state is chosen")
    keep_maximum: bool = Field(default=False, description="whether the highest value is the best one")


Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class CreateJob(Ordered):
    """The order for a fine-tuning job."""

    model: str = Field(min_length=1)
    training_file: str
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(default=None, deprecated=True)
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: Whole | None = Field(default=None, ge=0, le=MAX_SEED)
    metadata: Metadata | None = Field(default=None, max_length=16)
    integrations: list[dict[str, Any]] | None = Field(default=None, max_length=0)
    task: TaskSettings | None = None


class JobError(Answered):
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
    hyperparameters: dict[str, Value | None]
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


class JobList(Answered):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventObject(Answered):
    """A line of a job's log."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics", "moderation_checks"]
    data: dict[str, Any] | None


class EventList(Answered):
    """A page of a job's log, the newest line first."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointObject(Answered):
    """A model of a moment in a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | None]
    step_number: int


class CheckpointList(Answered):
    """A page of checkpoints, the newest first."""

    object: Literal["list"] = "list"
    data: list[CheckpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


# --------------------------------------------------------------------------------------------------------------- models
class ModelObject(Answered):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Answered):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(Answered):
    """A model is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool


# --------------------------------------------------------------------------------------------------------------- server
class Health(Answered):
    """The server is there."""

    status: Literal["ok"] = "ok"
