"""/v1/chat/completions and /v1/completions: asking base models and fine-tuned ones.

A model that was trained with labels answers with one of them, and a label counts as one token: its logprob is that of
the whole label, and top_logprobs are those of the other labels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.responses import Response

from backends.contract import BackendError, Prediction, PredictOptions
from sweeps.server import models
from sweeps.server.completion_schemas import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CreateChatCompletion,
    CreateCompletion,
    TextChoice,
    TextLogprobs,
    TokenLogprob,
    TopLogprob,
)
from sweeps.server.datasets import conversation
from sweeps.server.errors import ApiError, of_failure
from sweeps.server.records import Job, new_id
from sweeps.server.responses import ERRORS, answer
from sweeps.server.service import Service

DEFAULT_CHAT_TOKENS = 256
DEFAULT_TEXT_TOKENS = 16

MAX_WAITING = 256
"""Questions whose answers are waited for, in threads of their own: nothing else would be served otherwise."""

FLOOR = -9999.0
"""What stands for a probability of zero, as in the protocol."""


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["completions"], responses=ERRORS)

    waiting = CapacityLimiter(MAX_WAITING)

    @routes.post("/chat/completions", response_model=ChatCompletion)
    async def chat(order: CreateChatCompletion) -> Response:
        """Continue a conversation, greedily."""
        return await to_thread.run_sync(answer_chat, order, limiter=waiting)

    @routes.post("/completions", response_model=Completion)
    async def complete(order: CreateCompletion) -> Response:
        """Continue texts, greedily."""
        return await to_thread.run_sync(answer_texts, order, limiter=waiting)

    def answer_chat(order: CreateChatCompletion) -> Response:
        try:
            messages = conversation([message.model_dump() for message in order.messages])
        except ValueError as error:
            raise ApiError(400, str(error), param="messages") from error
        if order.top_logprobs is not None and not order.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        asked = _Asked(service, order.model, order.labels)
        tokens = order.max_completion_tokens or order.max_tokens or DEFAULT_CHAT_TOKENS
        (found,) = asked.ask([{"messages": messages}], tokens, order.stop, bool(order.logprobs))
        logprobs = _chat_logprobs(asked, found, order.top_logprobs or 0) if order.logprobs else None
        choice = ChatChoice(
            index=0, message=AssistantMessage(content=found.text), logprobs=logprobs, finish_reason=_reason(found)
        )
        return answer(
            ChatCompletion(id=new_id("chatcmpl-"), created=int(time.time()), model=order.model, choices=[choice])
        )

    def answer_texts(order: CreateCompletion) -> Response:
        prompts = [order.prompt] if isinstance(order.prompt, str) else order.prompt
        asked = _Asked(service, order.model, order.labels)
        lines = [{"prompt": prompt, "segments": [prompt]} for prompt in prompts]
        wanted = order.logprobs is not None
        answers = asked.ask(lines, order.max_tokens or DEFAULT_TEXT_TOKENS, order.stop, wanted)
        choices = [
            TextChoice(
                index=n,
                text=found.text,
                logprobs=_text_logprobs(asked, found, order.logprobs or 0, len(prompt)) if wanted else None,
                finish_reason=_reason(found),
            )
            for n, (prompt, found) in enumerate(zip(prompts, answers, strict=True))
        ]
        return answer(Completion(id=new_id("cmpl-"), created=int(time.time()), model=order.model, choices=choices))

    return routes


@dataclass(frozen=True)
class _Top:
    text: str
    logprob: float


class _Asked:
    """A model that is being asked, with the labels that it may answer."""

    def __init__(self, service: Service, name: str, labels: Sequence[str] | None) -> None:
        self._service = service
        trained: tuple[str, ...] = ()
        if name in service.settings.models:
            self._target = service.settings.models[name]
        else:
            model = models.known(service, name)
            self._target, trained = model.target, _labels_of(service, model.job_id)
        chosen = trained if labels is None else tuple(dict.fromkeys(labels))
        self.labels = chosen or None
        if not service.trainer.capabilities.can_predict:
            raise ApiError(400, "This server's backend answers no prompts.", code="unsupported", param="model")

    def ask(self, lines: list[dict[str, Any]], max_tokens: int, stop: Any, logprobs: bool) -> list[Prediction]:
        """Return the answers in order. Raises ApiError."""
        if logprobs and self.labels is None:
            message = "logprobs are known for labels only: ask a model that was trained with labels, or send `labels`."
            raise ApiError(400, message, code="unsupported_parameter", param="logprobs")
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        stops = [stop for stop in stops if stop]
        options = (
            PredictOptions(labels=self.labels)
            if self.labels
            else PredictOptions(max_tokens=max_tokens, stop=stops[0] if stops else "")
        )
        try:
            found = self._service.predictions.ask(self._target, lines, options)
        except BackendError as error:
            raise of_failure(error.failure) from error
        self._service.counters.predictions.inc(len(lines))
        if self.labels:
            return found
        return [_stopped(each, stops) for each in found]

    def ranked(self, found: Prediction, count: int) -> list[_Top]:
        """Return the most probable labels, the best first."""
        assert self.labels is not None
        assert found.label_logprobs is not None
        pairs = sorted(zip(found.label_logprobs, self.labels, strict=True), key=lambda each: -each[0])
        return [_Top(label, max(FLOOR, score)) for score, label in pairs[:count]]


def _labels_of(service: Service, job_id: str) -> tuple[str, ...]:
    job = service.store.find(Job, job_id)
    return tuple(job.data["labels"]) if job is not None and job.data is not None else ()


def _stopped(found: Prediction, stops: Sequence[str]) -> Prediction:
    text = found.text
    for stop in stops:
        text = text.split(stop, maxsplit=1)[0]
    return Prediction(text, found.label_logprobs, found.truncated and text == found.text)


def _reason(found: Prediction) -> Literal["stop", "length"]:
    return "length" if found.truncated else "stop"


def _chat_logprobs(asked: _Asked, found: Prediction, count: int) -> ChatLogprobs:
    best, *_ = asked.ranked(found, 1)
    top = [
        TopLogprob(token=each.text, logprob=each.logprob, bytes=list(each.text.encode()))
        for each in asked.ranked(found, count)
    ]
    token = TokenLogprob(token=best.text, logprob=best.logprob, bytes=list(best.text.encode()), top_logprobs=top)
    return ChatLogprobs(content=[token])


def _text_logprobs(asked: _Asked, found: Prediction, count: int, offset: int) -> TextLogprobs:
    best, *_ = asked.ranked(found, 1)
    return TextLogprobs(
        tokens=[best.text],
        token_logprobs=[best.logprob],
        top_logprobs=[{each.text: each.logprob for each in asked.ranked(found, max(1, count))}],
        text_offset=[offset],
    )
