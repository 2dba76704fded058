"""`Predictor`: query fine-tuned models in parallel, each prompt once, and score labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.contract import BackendError, Failure, FailureKind, Prediction, PredictOptions
from backends.hosted import label_scoring
from backends.hosted.deployments import Deployments
from backends.hosted.example_format import (
    ExampleFormat,
    base_model_of,
    formatted_labels,
    messages_error,
    prompt_messages,
)
from backends.hosted.host_connection import HostConnection
from backends.hosted.journal import StoredAnswer
from backends.hosted.rate_limiter import CallPolicy

MAX_LABEL_TOKENS = 16
"""The longest generated label. Far fewer tokens tell the labels apart."""


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
        run = next(iter(self._models.runs_with(model)), None)
        if run is not None and run.discarded:
            message = f"the model {model} was discarded"
            raise BackendError(Failure(FailureKind.USER, message, "Use the model of another trial."))
        return self._options.model if run is None else base_model_of(run.training_request())

    def _format(self, model: str, options: PredictOptions) -> ExampleFormat:
        chat = self._options.is_chat(self.base_model(model))
        return ExampleFormat(chat, options.stop, self._options.system_message)

    @staticmethod
    def _question(prompt: Mapping[str, Any], format_: ExampleFormat) -> Any:
        """Return the messages, the messages and the tools, or the text to send for a prompt."""
        if format_.chat:
            messages = prompt_messages(prompt, format_)
            return {"messages": messages, "tools": prompt["tools"]} if prompt.get("tools") else messages
        if "prompt" not in prompt:
            raise messages_error()
        return str(prompt["prompt"])

    def _question_id(self, model: str, question: Any, options: PredictOptions) -> str:
        identity = [self._options.account, model, question, options.labels, options.max_tokens, options.stop]
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

        def ask_group(group: Sequence[tuple[str, Any]]) -> list[StoredAnswer]:
            return self._answers(name, format_, [question for _, question in group], options)

        with ThreadPoolExecutor(max_workers=min(self._rules.concurrency, len(groups))) as pool:
            futures = [(group, pool.submit(ask_group, group)) for group in groups]
            errors: list[BackendError] = []
            for group, future in futures:
                if errors and future.cancel():
                    continue
                try:
                    received = future.result()
                except BackendError as error:
                    errors.append(error)  # the answers that others have received meanwhile still count
                    continue
                except BaseException:
                    for _, waiting in futures:
                        waiting.cancel()
                    raise
                for (question_id, _), answer in zip(group, received, strict=True):
                    answers[question_id] = answer
                    self._models.add_answer(question_id, model, answer)
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
            "temperature": 0.0,
            self._rules.token_limit_field: _max_tokens(labels, options),
        }
        scored = bool(labels) and self._rules.chat_labels == "alternatives"
        if scored:
            fields |= {"logprobs": True, "top_logprobs": self._rules.chat_alternatives}
        fields |= self._stop_or_labels(labels, options)
        choice = self._make_call(lambda: self._client.chat(fields))["choices"][0]
        text = str((choice.get("message") or {}).get("content") or "")
        return _scored_answer(text, label_scoring.chat_tokens(choice) if scored else [], labels, options)

    def _complete(self, name: str, prompts: list[str], options: PredictOptions) -> list[StoredAnswer]:
        labels = list(options.labels or ())
        fields: dict[str, Any] = {
            "model": name,
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "temperature": 0.0,
            "max_tokens": _max_tokens(labels, options),
        }
        scored = bool(labels) and self._rules.completion_labels == "alternatives"
        if scored:
            fields["logprobs"] = self._rules.completion_alternatives
        fields |= self._stop_or_labels(labels, options)
        answers = []
        for choice in self._choices(fields, len(prompts)):
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
        """Return the stop sequence for generated text, or for `sweep serve` the allowed answers."""
        if not labels:
            return {"stop": options.stop} if options.stop else {}
        return {"extra_body": {"labels": list(labels)}} if self._has_task_extension else {}

    def _choices(self, fields: Mapping[str, Any], expected: int) -> list[Mapping[str, Any]]:
        choices = self._make_call(lambda: self._client.complete(fields))["choices"]
        if len(choices) != expected:
            message = f"the host returned {len(choices)} answers to {expected} prompts"
            raise BackendError(Failure(FailureKind.BUG, message, "Set prompts_per_request in its profile to 1."))
        return sorted(choices, key=lambda choice: int(choice.get("index") or 0))


def _max_tokens(labels: Sequence[str], options: PredictOptions) -> int:
    if not labels:
        return options.max_tokens
    return min(MAX_LABEL_TOKENS, max(1, *(len(label.encode()) for label in labels)))


def _scored_answer(
    text: str, tokens: list[label_scoring.Token], labels: Sequence[str], options: PredictOptions
) -> StoredAnswer:
    """Return the label that the answer means, with the log-probabilities of all labels if known.

    `labels` are those of the options as the model writes them. An answer that is no label stays a
    text.
    """
    if options.labels is None or not options.labels:
        return StoredAnswer(text, None)
    logprobs = label_scoring.label_logprobs(labels, tokens) if tokens else None
    if logprobs is not None:
        return StoredAnswer(options.labels[logprobs.index(max(logprobs))], logprobs)
    index = label_scoring.label_index(labels, text)
    return StoredAnswer(text if index is None else options.labels[index], None)


def _prediction(answer: StoredAnswer | None) -> Prediction:
    assert answer is not None
    return Prediction(answer.text, answer.label_logprobs)
