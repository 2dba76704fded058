"""Asking fine-tuned models: the prompts in their form, several at once, each question once, labels scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.contract import BackendError, Failure, FailureKind, Prediction, PredictOptions
from backends.hosted import label_scoring
from backends.hosted.deployments import Deployments
from backends.hosted.examples import Form, as_question, as_spoken
from backends.hosted.job_creation import base_model
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.hosted.rate_limiter import Carrying
from backends.hosted.service import Service

LONGEST_LABEL_TOKENS = 16
"""A label is told from the others well before."""


class Predictor:
    """Answers prompts with models of one host; what was answered once is kept in the journal."""

    def __init__(
        self, options: HostedOptions, service: Service, journal: Journal, deployments: Deployments, carry: Carrying
    ) -> None:
        self._options, self._service, self._journal = options, service, journal
        self._deployments, self._carry = deployments, carry
        self._inference = options.profile.inference

    def predict(self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        """Return the answers in the prompts' order. Raises BackendError."""
        form = self._form(model, options)
        questions = [self._question(line, form) for line in prompts]
        names = [self._name(model, each, options) for each in questions]
        kept = {name: self._journal.answer(name) for name in dict.fromkeys(names)}
        wanted = [(name, each) for name, each in zip(names, questions, strict=True) if kept[name] is None]
        if wanted:
            self._ask(model, form, dict(wanted), options, kept)
        return [_prediction(kept[name]) for name in names]

    def base_model(self, model: str) -> str:
        """Return what a model was trained from. Raises BackendError for one that was discarded."""
        run = next(iter(self._journal.users_of_model(model)), None)
        if run is not None and run.discarded:
            raise BackendError(Failure(FailureKind.USER, f"the model {model} was discarded"))
        return self._options.model if run is None else base_model(run.training_request())

    def _form(self, model: str, options: PredictOptions) -> Form:
        return Form(self._options.is_chat(self.base_model(model)), options.stop, self._options.system_message)

    @staticmethod
    def _question(line: Mapping[str, Any], form: Form) -> Any:
        if form.chat:
            return as_question(line, form)
        if "prompt" not in line:
            message = "messages cannot be given to a completion model"
            raise BackendError(Failure(FailureKind.USER, message, "use a chat model, or data of prompt and completion"))
        return str(line["prompt"])

    def _name(self, model: str, question: Any, options: PredictOptions) -> str:
        identity = [self._options.account, model, question, options.labels, options.max_tokens, options.stop]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _ask(
        self, model: str, form: Form, wanted: Mapping[str, Any], options: PredictOptions, kept: dict[str, Any]
    ) -> None:
        """Ask what is not known and keep each answer as it comes, so that an interruption loses little."""
        name = self._deployments.ensure(model)
        at_once = 1 if form.chat else self._inference.prompts_per_request
        todo = list(wanted.items())
        groups = [todo[start : start + at_once] for start in range(0, len(todo), at_once)]

        def answer(group: Sequence[tuple[str, Any]]) -> list[Any]:
            return self._answers(name, form, [question for _, question in group], options)

        with ThreadPoolExecutor(max_workers=min(self._inference.concurrency, len(groups))) as pool:
            futures = [(group, pool.submit(answer, group)) for group in groups]
            try:
                for group, future in futures:
                    for (key, _), found in zip(group, future.result(), strict=True):
                        kept[key] = found
                        self._journal.keep_answer(key, model, found)
            except BaseException:
                for _, future in futures:
                    future.cancel()
                raise

    def _answers(self, name: str, form: Form, questions: list[Any], options: PredictOptions) -> list[Any]:
        """Return an answer to each question: its text, and the log-probabilities of the labels, as JSON values."""
        if form.chat:
            return [self._chat(name, form, each, options) for each in questions]
        if options.labels and self._inference.completion_labels == "echo":
            return [self._echo(name, each, options) for each in questions]
        return self._continued(name, questions, options)

    def _chat(self, name: str, form: Form, messages: Any, options: PredictOptions) -> Any:
        spoken = as_spoken(options.labels or (), form)
        limit = _longest(spoken) if spoken else options.max_tokens
        fields: dict[str, Any] = {
            "model": name,
            "messages": messages,
            "temperature": 0.0,
            self._inference.token_limit_field: limit,
        }
        scored = bool(spoken) and self._inference.chat_labels == "alternatives"
        if scored:
            fields |= {"logprobs": True, "top_logprobs": self._inference.chat_alternatives}
        if options.stop and not spoken:
            fields["stop"] = options.stop
        fields |= self._allowed(spoken)
        choice = self._carry(lambda: self._service.chat(fields))["choices"][0]
        text = str((choice.get("message") or {}).get("content") or "")
        return _judged(text, label_scoring.chat_tokens(choice) if scored else [], spoken, options)

    def _continued(self, name: str, prompts: list[str], options: PredictOptions) -> list[Any]:
        labels = list(options.labels or ())
        limit = _longest(labels) if labels else options.max_tokens
        fields: dict[str, Any] = {
            "model": name,
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "temperature": 0.0,
            "max_tokens": limit,
        }
        scored = bool(labels) and self._inference.completion_labels == "alternatives"
        if scored:
            fields["logprobs"] = self._inference.completion_alternatives
        if options.stop and not labels:
            fields["stop"] = options.stop
        fields |= self._allowed(labels)
        choices = self._choices(fields, len(prompts))
        return [
            _judged(
                str(each.get("text") or ""), label_scoring.completion_tokens(each) if scored else [], labels, options
            )
            for each in choices
        ]

    def _echo(self, name: str, prompt: str, options: PredictOptions) -> Any:
        """Score the labels exactly: the model reads prompt and label, and says how probable each token was."""
        labels = list(options.labels or ())
        fields: dict[str, Any] = {
            "model": name,
            "prompt": [prompt + each for each in labels],
            "echo": True,
            "max_tokens": 0,
            "logprobs": 0,
            "temperature": 0.0,
        }
        choices = self._choices(fields, len(labels))
        values = [min(0.0, label_scoring.of_echo(prompt, each["logprobs"])) for each in choices]
        return [labels[values.index(max(values))], values]

    def _allowed(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the field by which our own server learns which answers there are."""
        return {"extra_body": {"labels": list(labels)}} if labels and self._options.profile.jobs.task_extension else {}

    def _choices(self, fields: Mapping[str, Any], expected: int) -> list[Mapping[str, Any]]:
        choices = self._carry(lambda: self._service.complete(fields))["choices"]
        if len(choices) != expected:
            message = f"the host gave {len(choices)} answers to {expected} prompts"
            raise BackendError(Failure(FailureKind.BUG, message, "set prompts_per_request of its profile to 1"))
        return sorted(choices, key=lambda each: int(each.get("index") or 0))


def _longest(labels: Sequence[str]) -> int:
    return min(LONGEST_LABEL_TOKENS, max(1, *(len(each.encode()) for each in labels)))


def _judged(text: str, tokens: list[label_scoring.Token], spoken: Sequence[str], options: PredictOptions) -> Any:
    """Return the label that is meant with all labels' log-probabilities where the host told any, else the text."""
    if options.labels is None or not options.labels:
        return [text, None]
    values = label_scoring.of_alternatives(spoken, tokens) if tokens else None
    if values is not None:
        return [options.labels[values.index(max(values))], list(values)]
    meant = label_scoring.of_text(spoken, text)
    return [text if meant is None else options.labels[meant], None]


def _prediction(answer: Any) -> Prediction:
    text, values = answer
    return Prediction(text, None if values is None else tuple(values))
