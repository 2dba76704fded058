"""The schemas of chat completions and of legacy completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sweeps.server.schemas.base import RequestModel, ResponseModel, WholeNumber, whole_number

Stop = str | Annotated[list[str], Field(max_length=4)] | None
Labels = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class _CompletionRequest(RequestModel):
    model: str
    max_tokens: WholeNumber | None = Field(default=None, ge=1, le=65536)
    n: Annotated[Literal[1], BeforeValidator(whole_number)] | None = None
    stop: Stop = None
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="default 0: the most probable token; labels are never drawn"
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="no effect at temperature 0")
    seed: WholeNumber | None = Field(
        default=None, description="default 0: the same request has the same answer; no effect at temperature 0"
    )
    stream: Literal[False] | None = None
    user: str | None = None
    labels: Labels | None = Field(
        default=None,
        description="an extension: the answer is one of these labels; default: the labels of the job that made the "
        "model; []: any text",
    )


class Message(BaseModel):
    """A text message of a conversation."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]


class CreateChatCompletion(_CompletionRequest):
    """A conversation for the model to continue."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: WholeNumber | None = Field(default=None, ge=1, le=65536)
    logprobs: bool | None = None
    top_logprobs: WholeNumber | None = Field(default=None, ge=0, le=20)


class CreateCompletion(_CompletionRequest):
    """Texts for the model to continue."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    logprobs: WholeNumber | None = Field(default=None, ge=0, le=20)
    echo: Literal[False] | None = None
    best_of: Annotated[Literal[1], BeforeValidator(whole_number)] | None = None


class Usage(ResponseModel):
    """The tokens that a request used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(ResponseModel):
    """A possible token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer, with the tokens that were possible in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponseModel):
    """The tokens of an answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class AssistantMessage(ResponseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(ResponseModel):
    """An answer, and why it ends."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(ResponseModel):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextLogprobs(ResponseModel):
    """The tokens of a continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(ResponseModel):
    """A continuation, and why it ends."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(ResponseModel):
    """The continuations, in the order of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
