"""The objects of questions and answers: chat and legacy completions, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sweeps.server.schemas import Answered, Ordered, Whole, whole

Stop = str | Annotated[list[str], Field(max_length=4)] | None
Labels = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]


class _Question(Ordered):
    model: str
    max_tokens: Whole | None = Field(default=None, ge=1, le=65536)
    n: Annotated[Literal[1], BeforeValidator(whole)] | None = None
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
    best_of: Annotated[Literal[1], BeforeValidator(whole)] | None = None


class Usage(Answered):
    """What a request has used."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Answered):
    """A possible token."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answered):
    """The tokens of an answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class AssistantMessage(Answered):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answered):
    """An answer, and why it ends."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Answered):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextLogprobs(Answered):
    """The tokens of a continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answered):
    """A continuation, and why it ends."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answered):
    """The continuations, in the order of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
