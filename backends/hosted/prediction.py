"""`Predictor`: query fine-tuned models in parallel, each prompt once, and score labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.contract import BackendError, Failure, FailureKind, Prediction, PredictOptions, TrainingRequest
from backends.hosted import label_scoring
from backends.hosted.deployments import Deployments
from backends.hosted.example_format import (
    ExampleFormat,
    base_model_of,
    formatted_labels,
    messages_error,
    prompt_messages,
)
from backends.hosted.host_client import TIMEOUT_S
from backends.hosted.host_connection import HostConnection
from backends.hosted.journal import StoredAnswer
from backends.hosted.rate_limiter import CallPolicy

MAX_LABEL_TOKENS = 16
"""The longest generated label. Far fewer tokens tell the labels apart."""

MAX_STOPS = 4
"""The most stop texts that the protocol allows. The others are cut off here."""

SECONDS_PER_TOKEN = 0.25
"""How slowly a host may generate, on top of the time that any request may take."""
MAX_TIMEOUT_S = 1200.0


class Predictor:
    """Predicts with models of one host. The journal keeps every answer.

    `make_call` decides whether a failed call is repeated.
    """

    def __init__(self, host: HostConnection, deployments: Deployments, make_call: CallPolicy) -> None:
        self._options, self._client, self._models = host.options, host.client, host.journal.models
        self._deployments, self._make_call = deployments, make_call
        self._rules, self._has_task_extension = host.profile.inference, host.profile.jobs.task_extension

    def predict(self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        """Return the answers in the order of the prompts. Raises BackendError."""
        format_ = self._format(model, options)
        questions = [self._question(prompt, format_) for prompt in prompts]
        ids = [self._question_id(model, question, options) for question in questions]
        answers = {question_id: self._models.answer(question_id) for question_id in dict.fromkeys(ids)}
        missing = {
            question_id: question
            for question_id, question in zip(ids, questions, strict=True)
            if answers[question_id] is None
        }
        if missing:
            answers |= self._ask(model, format_, missing, options)
        return [_prediction(answers[question_id]) for question_id in ids]

    def base_model(self, model: str) -> str:
        """Return the base model of a model. Raises BackendError (user) for a discarded one."""
        request = self.request_of(model)
        return self._options.model if request is None else base_model_of(request)

    def request_of(self, model: str) -> TrainingRequest | None:
        """Return the request that made a model, or None for a model of no run here.

        Raises BackendError (user) for a discarded one.
        """
        run = next(iter(self._models.runs_with(model)), None)
        if run is not None and run.discarded:
            message = f"the model {model} was discarded"
            raise BackendError(Failure(FailureKind.USER, message, "Use the model of another trial."))
        return None if run is None else run.training_request()

    def _format(self, model: str, options: PredictOptions) -> ExampleFormat:
        chat = self._options.is_chat(self.base_model(model))
        return ExampleFormat(chat, options.stop, self._options.system_message)

    @staticmethod
    def _question(prompt: Mapping[str, Any], format_: ExampleFormat) -> Any:
        """Return what to send for a prompt: its text, or its messages, with their tools if any."""
        if format_.chat:
            messages = prompt_messages(prompt, format_)
            return {"messages": messages, "tools": prompt["tools"]} if prompt.get("tools") else messages
        if "prompt" not in prompt:
            raise messages_error()
        return str(prompt["prompt"])

    def _question_id(self, model: str, question: Any, options: PredictOptions) -> str:
        identity: list[Any] = [self._options.account, model, question, options.labels]
        identity += [options.max_tokens, options.stop]
        # Absent in the questions of earlier versions, whose answers must be found again.
        stops = {"stops": list(options.more_stops)} if options.more_stops else {}
        if not options.labels and (decoding := {**stops, **_sampling(options)}):
            identity.append(decoding)
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _ask(
        self, model: str, format_: ExampleFormat, questions: Mapping[str, Any], options: PredictOptions
    ) -> dict[str, StoredAnswer]:
        """Ask questions in parallel and record each answer as it arrives.

        `questions` and the result are by question id.
        """
        name = self._deployments.ensure(model)
        group_size = 1 if format_.chat else self._rules.prompts_per_request
        pending = list(questions.items())
        groups = [pending[start : start + group_size] for start in range(0, len(pending), group_size)]
        answers: dict[str, StoredAnswer] = {}

        def ask_group(group: Sequence[tuple[str, Any]]) -> dict[str, StoredAnswer]:
            received = self._answers(name, format_, [question for _, question in group], options)
            by_id = {question_id: answer for (question_id, _), answer in zip(group, received, strict=True)}
            for question_id, answer in by_id.items():
                self._models.add_answer(question_id, model, answer)
            return by_id

        with ThreadPoolExecutor(max_workers=min(self._rules.concurrency, len(groups))) as pool:
            futures = [pool.submit(ask_group, group) for group in groups]
            errors: list[BackendError] = []
            for future in futures:
                if errors and future.cancel():
                    continue
                try:
                    answers |= future.result()
                except BackendError as error:
                    errors.append(error)  # the answers that others have received meanwhile still count
                    continue
                except BaseException:
                    for waiting in futures:
                        waiting.cancel()
                    raise
        if errors:
            raise errors[0]
        return answers

    def _answers(
        self, name: str, format_: ExampleFormat, questions: list[Any], options: PredictOptions
    ) -> list[StoredAnswer]:
        """Return the answer to each question."""
        if format_.chat:
            return [self._chat(name, format_, question, options) for question in questions]
        if options.labels and self._rules.completion_labels == "echo":
            return [self._echo(name, question, options) for question in questions]
        return self._complete(name, questions, options)

    def _chat(self, name: str, format_: ExampleFormat, question: Any, options: PredictOptions) -> StoredAnswer:
        labels = formatted_labels(options.labels or (), format_)
        fields: dict[str, Any] = {
            "model": name,
            **(question if isinstance(question, Mapping) else {"messages": question}),
            **_temperature(options),
            self._rules.token_limit_field: _max_tokens(labels, options),
        }
        scored = bool(labels) and self._rules.chat_labels == "alternatives"
        if scored:
            fields |= {"logprobs": True, "top_logprobs": self._rules.chat_alternatives}
        fields |= self._stop_or_labels(labels, options)
        timeout_s = _timeout_s(fields[self._rules.token_limit_field], 1)
        choice = self._make_call(lambda: self._client.chat(fields, timeout_s))["choices"][0]
        message = choice.get("message") or {}
        if not labels:
            return _written_answer(_content(message), choice, options)
        text = str(message.get("content") or "")
        return _scored_answer(text, label_scoring.chat_tokens(choice) if scored else [], labels, options)

    def _complete(self, name: str, prompts: list[str], options: PredictOptions) -> list[StoredAnswer]:
        labels = list(options.labels or ())
        fields: dict[str, Any] = {
            "model": name,
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            **_temperature(options),
            "max_tokens": _max_tokens(labels, options),
        }
        scored = bool(labels) and self._rules.completion_labels == "alternatives"
        if scored:
            fields["logprobs"] = self._rules.completion_alternatives
        fields |= self._stop_or_labels(labels, options)
        answers = []
        for choice in self._choices(fields, len(prompts)):
            if not labels:
                answers.append(_written_answer(str(choice.get("text") or ""), choice, options))
                continue
            tokens = label_scoring.completion_tokens(choice) if scored else []
            answers.append(_scored_answer(str(choice.get("text") or ""), tokens, labels, options))
        return answers

    def _echo(self, name: str, prompt: str, options: PredictOptions) -> StoredAnswer:
        """Score the labels exactly: the model reads each label and returns its log-probability."""
        labels = list(options.labels or ())
        fields: dict[str, Any] = {
            "model": name,
            "prompt": [prompt + label for label in labels],
            "echo": True,
            "max_tokens": 0,
            "logprobs": 0,
            "temperature": 0.0,
        }
        choices = self._choices(fields, len(labels))
        logprobs = [min(0.0, label_scoring.continuation_logprob(prompt, choice["logprobs"])) for choice in choices]
        return StoredAnswer(labels[logprobs.index(max(logprobs))], tuple(logprobs))

    def _stop_or_labels(self, labels: Sequence[str], options: PredictOptions) -> dict[str, Any]:
        """Return the stop texts for generated text, and for `sweep serve` the allowed answers.

        Without labels in the request, it would answer with those of the training data.
        """
        stops = [] if labels else _stops(options)[:MAX_STOPS]
        fields: dict[str, Any] = {"stop": stops if len(stops) > 1 else stops[0]} if stops else {}
        return {**fields, "extra_body": {"labels": list(labels)}} if self._has_task_extension else fields

    def _choices(self, fields: Mapping[str, Any], expected: int) -> list[Mapping[str, Any]]:
        timeout_s = _timeout_s(fields["max_tokens"], expected)
        choices = self._make_call(lambda: self._client.complete(fields, timeout_s))["choices"]
        if len(choices) != expected:
            message = f"the host returned {len(choices)} answers to {expected} prompts"
            raise BackendError(Failure(FailureKind.BUG, message, "Set prompts_per_request in its profile to 1."))
        return sorted(choices, key=lambda choice: int(choice.get("index") or 0))


def _max_tokens(labels: Sequence[str], options: PredictOptions) -> int:
    if not labels:
        return options.max_tokens
    return min(MAX_LABEL_TOKENS, max(1, *(len(label.encode()) for label in labels)))


def _temperature(options: PredictOptions) -> dict[str, Any]:
    """Return how to draw the tokens of an answer. Labels are never drawn."""
    return {"temperature": 0.0, **({} if options.labels else _sampling(options))}


def _sampling(options: PredictOptions) -> dict[str, Any]:
    """Return the settings of drawing; none if each token is the most probable one."""
    if options.temperature <= 0:
        return {}
    top_p = {"top_p": options.top_p} if options.top_p < 1 else {}
    return {"temperature": options.temperature, **top_p, "seed": options.seed}


def _stops(options: PredictOptions) -> list[str]:
    return [stop for stop in dict.fromkeys((options.stop, *options.more_stops)) if stop]


def _timeout_s(max_tokens: int, answers: int) -> float:
    return min(MAX_TIMEOUT_S, TIMEOUT_S + SECONDS_PER_TOKEN * max_tokens * answers)


def _written_answer(text: str, choice: Mapping[str, Any], options: PredictOptions) -> StoredAnswer:
    """Return a generated text, which ends before the first stop text even if the host went on."""
    ends = [end for stop in _stops(options) if (end := text.find(stop)) >= 0]
    if ends:
        return StoredAnswer(text[: min(ends)], None)
    return StoredAnswer(text, None, choice.get("finish_reason") == "length")


def _content(message: Mapping[str, Any]) -> str:
    """Return the text of a message; without one, that of its refusal or of its calls of tools."""
    if text := message.get("content") or message.get("refusal"):
        return str(text)
    calls = [call.get("function") for call in message.get("tool_calls") or ()]
    return json.dumps(calls, ensure_ascii=False) if calls else ""


def _scored_answer(
    text: str, tokens: list[label_scoring.Token], labels: Sequence[str], options: PredictOptions
) -> StoredAnswer:
    """Return the label that the answer means, with the log-probabilities of all labels if known.

    `labels` are those of the options as the model writes them. An answer that is no label stays a
    text.
    """
    assert options.labels
    logprobs = label_scoring.label_logprobs(labels, tokens) if tokens else None
    if logprobs is not None:
        return StoredAnswer(options.labels[logprobs.index(max(logprobs))], logprobs)
    index = label_scoring.label_index(labels, text)
    return StoredAnswer(text if index is None else options.labels[index], None)


def _prediction(answer: StoredAnswer | None) -> Prediction:
    assert answer is not None
    return Prediction(answer.text, answer.label_logprobs, answer.truncated)
