"""/v1/chat/completions and /v1/completions: answers of base models and of fine-tuned models.

A model that was trained with labels answers with one of them. A label counts as one token: its
logprob is that of the whole label, and `top_logprobs` holds those of the other labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.responses import Response

from backends.contract import BackendError, Decoding, Prediction, PredictOptions
from sweeps.server.datasets import conversation
from sweeps.server.errors import ApiError, api_error
from sweeps.server.records import Job, new_id
from sweeps.server.routes.models import find_tuned_model
from sweeps.server.routes.responses import ERROR_RESPONSES, json_response
from sweeps.server.routes.strict_routes import StrictRoute
from sweeps.server.schemas.completions import (
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
from sweeps.server.service import Service

DEFAULT_CHAT_TOKENS = 256
DEFAULT_TEXT_TOKENS = 16

MAX_WAITING = 256
"""The most requests that wait for a model.

They wait in threads of their own, so that other requests are served.
"""

MIN_LOGPROB = -9999.0
"""The protocol's logprob of a probability of zero."""


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["completions"], responses=ERROR_RESPONSES)
    waiting = CapacityLimiter(MAX_WAITING)

    @routes.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: CreateChatCompletion) -> Response:
        """Continue a conversation: with the most probable answer, or a drawn one."""
        return json_response(await to_thread.run_sync(_chat_completion, service, body, limiter=waiting))

    @routes.post("/completions", response_model=Completion)
    async def complete(body: CreateCompletion) -> Response:
        """Continue texts: with the most probable continuations, or drawn ones."""
        return json_response(await to_thread.run_sync(_text_completion, service, body, limiter=waiting))

    return routes


def _chat_completion(service: Service, body: CreateChatCompletion) -> ChatCompletion:
    try:
        messages = conversation([message.model_dump() for message in body.messages])
    except ValueError as error:
        raise ApiError(400, str(error), param="messages") from error
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
    model = _PromptedModel(service, body.model, body.labels)
    max_tokens = body.max_completion_tokens or body.max_tokens or DEFAULT_CHAT_TOKENS
    (prediction,) = model.predict([{"messages": messages}], body, max_tokens, with_logprobs=bool(body.logprobs))
    logprobs = _chat_logprobs(model, prediction, body.top_logprobs or 0) if body.logprobs else None
    choice = ChatChoice(
        index=0,
        message=AssistantMessage(content=prediction.text),
        logprobs=logprobs,
        finish_reason=_finish_reason(prediction),
    )
    return ChatCompletion(id=new_id("chatcmpl-"), created=int(time.time()), model=body.model, choices=[choice])


def _text_completion(service: Service, body: CreateCompletion) -> Completion:
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    model = _PromptedModel(service, body.model, body.labels)
    lines = [{"prompt": prompt, "segments": [prompt]} for prompt in prompts]
    max_tokens, with_logprobs = body.max_tokens or DEFAULT_TEXT_TOKENS, body.logprobs is not None
    predictions = model.predict(lines, body, max_tokens, with_logprobs=with_logprobs)
    choices = [
        TextChoice(
            index=index,
            text=prediction.text,
            logprobs=_text_logprobs(model, prediction, body.logprobs or 0, len(prompt)) if with_logprobs else None,
            finish_reason=_finish_reason(prediction),
        )
        for index, (prompt, prediction) in enumerate(zip(prompts, predictions, strict=True))
    ]
    return Completion(id=new_id("cmpl-"), created=int(time.time()), model=body.model, choices=choices)


@dataclass(frozen=True)
class _LabelLogprob:
    label: str
    logprob: float


class _PromptedModel:
    """A model that answers prompts, with the labels among which it chooses.

    `labels` are those of the request; None stands for those of the job that made the model. Raises
    ApiError if there is no such model, or the backend cannot predict.
    """

    def __init__(self, service: Service, name: str, labels: Sequence[str] | None) -> None:
        self._service = service
        trained_labels: tuple[str, ...] = ()
        if name in service.settings.models:
            self._target = service.settings.models[name]
        else:
            model = find_tuned_model(service, name)
            self._target, trained_labels = model.target, _labels_of_job(service, model.job_id)
        self._labels = trained_labels if labels is None else tuple(dict.fromkeys(labels))
        if not service.backend.capabilities.can_predict:
            raise ApiError(400, "This server's backend answers no prompts.", code="unsupported", param="model")

    def predict(
        self,
        lines: Sequence[Mapping[str, Any]],
        body: CreateChatCompletion | CreateCompletion,
        max_tokens: int,
        *,
        with_logprobs: bool,
    ) -> list[Prediction]:
        """Return the answers in the order of the prompts. Raises ApiError."""
        if with_logprobs and not self._labels:
            message = "logprobs are known for labels only: use a model that was trained with labels, or send `labels`."
            raise ApiError(400, message, code="unsupported_parameter", param="logprobs")
        stops = [text for text in ([body.stop] if isinstance(body.stop, str) else body.stop or ()) if text]
        if self._labels and body.temperature:
            message = "a label is never drawn: leave out temperature, or send `labels: []` for any text."
            raise ApiError(400, message, code="unsupported_parameter", param="temperature")
        if self._labels:
            options = PredictOptions(labels=self._labels)
        else:
            decoding = Decoding(
                max_tokens, tuple(stops[1:]), body.temperature or 0.0, 1.0 if body.top_p is None else body.top_p
            )
            options = PredictOptions.generate(decoding, stops[0] if stops else "", body.seed or 0)
        try:
            predictions = self._service.predictions.predict(self._target, lines, options)
        except BackendError as error:
            raise api_error(error.failure) from error
        self._service.metrics.predictions.inc(len(lines))
        if self._labels:
            return predictions
        return [_cut_at_stops(prediction, stops) for prediction in predictions]

    def top_labels(self, prediction: Prediction, count: int) -> list[_LabelLogprob]:
        """Return the `count` most probable labels, the best first."""
        assert prediction.label_logprobs is not None
        pairs = zip(self._labels, prediction.label_logprobs, strict=True)
        best_first = sorted(pairs, key=lambda pair: -pair[1])
        return [_LabelLogprob(label, max(MIN_LOGPROB, logprob)) for label, logprob in best_first[:count]]


def _labels_of_job(service: Service, job_id: str) -> tuple[str, ...]:
    job = service.store.find(Job, job_id)
    return job.data.labels if job is not None and job.data is not None else ()


def _cut_at_stops(prediction: Prediction, stops: Sequence[str]) -> Prediction:
    text = prediction.text
    for stop in stops:
        text = text.split(stop, maxsplit=1)[0]
    return Prediction(text, prediction.label_logprobs, prediction.truncated and text == prediction.text)


def _finish_reason(prediction: Prediction) -> Literal["stop", "length"]:
    return "length" if prediction.truncated else "stop"


def _chat_logprobs(model: _PromptedModel, prediction: Prediction, count: int) -> ChatLogprobs:
    (best,) = model.top_labels(prediction, 1)
    top = [
        TopLogprob(token=label.label, logprob=label.logprob, bytes=list(label.label.encode()))
        for label in model.top_labels(prediction, count)
    ]
    token = TokenLogprob(token=best.label, logprob=best.logprob, bytes=list(best.label.encode()), top_logprobs=top)
    return ChatLogprobs(content=[token])


def _text_logprobs(model: _PromptedModel, prediction: Prediction, count: int, offset: int) -> TextLogprobs:
    (best,) = model.top_labels(prediction, 1)
    return TextLogprobs(
        tokens=[best.label],
        token_logprobs=[best.logprob],
        top_logprobs=[{label.label: label.logprob for label in model.top_labels(prediction, max(1, count))}],
        text_offset=[offset],
    )
