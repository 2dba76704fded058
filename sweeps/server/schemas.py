"""The objects of the protocol: what is sent and what is answered, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_SEED = 2**31 - 1


def _whole(value: object) -> object:
    """JSON knows one kind of number: 8.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Order(BaseModel):
    """What a client sends: an unknown key is an error, and no value is taken for another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


# --------------------------------------------------------------------------------------------------------------- errors
class ErrorDetail(_Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Answer):
    """The body of every answer that is not a success."""

    error: ErrorDetail


# ---------------------------------------------------------------------------------------------------------------- files
class FileObject(_Answer):
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


class FileList(_Answer):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(_Answer):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


class ExpiresAfter(_Order):
    """When a file is to be deleted."""

    anchor: Literal["created_at"]
    seconds: Whole = Field(ge=3600, le=2592000)


class CreateUpload(_Order):
    """The announcement of a file that comes in parts."""

    bytes: Whole = Field(ge=1)
    filename: str = Field(min_length=1, max_length=255)
    mime_type: str = Field(max_length=255)
    purpose: Literal["fine-tune"]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(_Order):
    """The order of the parts."""

    part_ids: list[str]
    md5: str | None = None


class UploadObject(_Answer):
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


class UploadPart(_Answer):
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


class Supervised(_Order):
    """Supervised fine-tuning."""

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """How the model is trained."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None


class TaskSettings(_Order):
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


class CreateJob(_Order):
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


class JobError(_Answer):
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


class JobList(_Answer):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventObject(_Answer):
    """A line of a job's log."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics", "moderation_checks"]
    data: dict[str, Any] | None


class EventList(_Answer):
    """A page of a job's log, the newest line first."""

    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointObject(_Answer):
    """A model of a moment in a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | None]
    step_number: int


class CheckpointList(_Answer):
    """A page of checkpoints, the newest first."""

    object: Literal["list"] = "list"
    data: list[CheckpointObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


# --------------------------------------------------------------------------------------------------------------- models
class ModelObject(_Answer):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(_Answer):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(_Answer):
    """A model is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool


# ---------------------------------------------------------------------------------------------------------- completions
Stop = str | Annotated[list[str], Field(max_length=4)] | None
Labels = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class _Question(_Order):
    model: str
    max_tokens: Whole | None = Field(default=None, ge=1, le=65536)
    n: Annotated[Literal[1], BeforeValidator(_whole)] | None = None
    stop: Stop = None
    temperature: float | None = Field(default=None, ge=0, le=0, description="only 0: answers are not sampled")
    top_p: float | None = Field(default=None, gt=0, le=1, description="without effect: answers are not sampled")
    seed: Whole | None = Field(default=None, description="without effect: answers are not sampled")
    stream: Literal[False] | None = None
    user: str | None = None
    labels: Labels | None = Field(
        default=None,
        description="an extension: the answer is one of these; default: the labels of the job that made the model; "
        "[]: any text",
    )


class Message(BaseModel):
    """A message of a conversation; texts only."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]


class CreateChatCompletion(_Question):
    """A conversation that is to be continued."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(default=None, ge=1, le=65536)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)


class CreateCompletion(_Question):
    """Texts that are to be continued."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    logprobs: Whole | None = Field(default=None, ge=0, le=20)
    echo: Literal[False] | None = None
    best_of: Annotated[Literal[1], BeforeValidator(_whole)] | None = None


class Usage(_Answer):
    """What a request has used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(_Answer):
    """A possible token."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Answer):
    """The tokens of an answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class AssistantMessage(_Answer):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(_Answer):
    """An answer, and why it ends."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Answer):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextLogprobs(_Answer):
    """The tokens of a continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Answer):
    """A continuation, and why it ends."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(_Answer):
    """The continuations, in the order of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Health(_Answer):
    """The server is there."""

    status: Literal["ok"] = "ok"
