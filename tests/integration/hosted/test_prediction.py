"""Predictions, and the evaluation of trained models on the validation set."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from hosted_world import LABELS, HostedWorld, evaluations
from scripted_host import Response, change_behaviour, error_response

from backends.contract import TERMINAL_EVENTS, BackendError, Decoding, Finished, Prediction, PredictOptions
from backends.hosted.journal import StoredAnswer

pytestmark = pytest.mark.integration


def test_each_prompt_is_sent_once(world: HostedWorld) -> None:
    backend = world.open()
    options = PredictOptions(labels=LABELS)
    first = backend.predict("base-chat", [*world.prompts, *world.prompts], options)
    assert len(world.host.prediction_requests) == len(world.prompts), "equal prompts are sent once"
    assert first[:6] == first[6:]
    backend.close()
    assert world.open().predict("base-chat", world.prompts, options) == first[:6]
    assert len(world.host.prediction_requests) == len(world.prompts)


def test_labels_are_scored_by_the_alternatives_of_a_token(world: HostedWorld) -> None:
    backend = world.open()
    for line, answer in zip(
        world.prompts, backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS)), strict=True
    ):
        messages = [{"role": "user", "content": line["prompt"]}]
        scores = world.host.label_logprobs("base-chat", json.dumps(messages))
        assert answer.label_logprobs == pytest.approx([scores[label.strip()] for label in LABELS])
        assert answer.text == f" {max(scores, key=lambda word: scores[word])}"


def test_without_probabilities_the_text_decides(world: HostedWorld) -> None:
    change_behaviour(world.host, top_logprobs=False)
    answers = world.open().predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert all(answer.text in LABELS for answer in answers)
    assert all(answer.label_logprobs is None for answer in answers)


def test_several_texts_share_a_request_where_the_host_allows_it(world: HostedWorld) -> None:
    backend = world.open(host="local", model="babbage-002")
    answers = backend.predict("babbage-002", world.prompts, PredictOptions(labels=LABELS))
    assert len(world.host.prediction_requests) == 1
    for line, answer in zip(world.prompts, answers, strict=True):
        scores = world.host.label_logprobs("babbage-002", line["prompt"])
        assert answer.label_logprobs == pytest.approx([scores[label.strip()] for label in LABELS])


def test_an_interrupted_prediction_keeps_its_answers(world: HostedWorld) -> None:
    requests = [0]

    def fault(operation: str, moment: str) -> Response | None:
        requests[0] += operation == "POST chat/completions" and moment == "before"
        return error_response(400, "no") if requests[0] == 4 and moment == "before" else None

    world.host.fault = fault
    backend = world.open()
    with pytest.raises(BackendError):
        backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    done = len(world.host.prediction_requests)
    backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert done <= len(world.host.prediction_requests) <= 2 * len(world.prompts)


def test_a_trained_model_is_evaluated_on_the_validation_set(world: HostedWorld) -> None:
    backend = world.open()
    first, last = evaluations(world.complete(backend))
    truth = [LABELS[n % 3] for n in range(6)]
    (job,) = world.host.jobs.values()
    predictions = backend.predict(world.host.final_model(job), world.prompts, PredictOptions(labels=LABELS))
    right = sum(prediction.text == label for prediction, label in zip(predictions, truth, strict=True))
    assert last.values["valid_accuracy"] == pytest.approx(right / 6)
    assert {"valid_macro_f1", "valid_loss"} <= set(last.values)
    assert "valid_accuracy" not in first.values, "there is no model of that epoch to query"
    assert len(world.host.prediction_requests) == 6, "the answers of the evaluation are used again"


def test_a_large_validation_set_takes_several_calls(world: HostedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.hosted.model_evaluation.PROMPTS_PER_CALL", 4)
    backend = world.open()
    handle = backend.submit(world.request())
    while not world.host.prediction_requests:
        world.now += 5
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    assert len(world.host.prediction_requests) == 4
    backend.close()
    events = world.drain(world.open(), handle)
    assert "valid_accuracy" in evaluations(events)[-1].values
    assert len(world.host.prediction_requests) == 6


def test_an_evaluation_waits_for_a_rate_limit(world: HostedWorld) -> None:
    refusals = [0]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == "POST chat/completions" and moment == "before" and refusals[0] < 6:
            refusals[0] += 1
            return error_response(429, "slow down", "rate_limit_exceeded", **{"retry-after": "600"})
        return None

    world.host.fault = fault
    began = world.now
    events = world.complete(world.open())
    assert "valid_accuracy" in evaluations(events)[-1].values
    assert world.now - began >= 600


def test_a_model_that_cannot_be_queried_is_still_a_result(world: HostedWorld, caplog: pytest.LogCaptureFixture) -> None:
    world.host.fault = lambda operation, moment: (
        error_response(403, "no inference for you") if operation == "POST chat/completions" else None
    )
    events = world.complete(world.open())
    assert isinstance(events[-1], Finished)
    assert "valid_loss" in evaluations(events)[-1].values
    assert "could not evaluate the model" in caplog.text


def test_no_evaluation_without_labels_or_against_the_option(world: HostedWorld) -> None:
    world.complete(world.open(ask_labels=False), key="a")
    world.dataset = dataclasses.replace(world.dataset, labels=())
    world.complete(world.open(), key="b")
    assert world.host.prediction_requests == []


# ------------------------------------------------------------------------------------ free texts
def test_the_decoding_reaches_the_host(world: HostedWorld) -> None:
    decoding = Decoding(max_tokens=7, stop=("a", "b", "c", "d", "e"), temperature=0.7, top_p=0.9)
    world.open().predict("base-chat", world.prompts[:1], PredictOptions.generate(decoding, "END", seed=5))
    (body,) = world.host.prediction_requests
    sent = {name: body[name] for name in ("temperature", "top_p", "seed", "max_tokens", "stop")}
    wanted = {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 7, "stop": ["END", "a", "b", "c"]}
    assert sent == wanted, "the protocol allows four stop texts"


def test_a_text_ends_at_each_stop_text_and_is_truncated_only_by_its_length(world: HostedWorld) -> None:
    answers = {
        "0": {"content": "one # two", "finish_reason": "length"},
        "1": {"content": "one two", "finish_reason": "length"},
        "2": {"content": "one two", "finish_reason": "stop"},
    }
    world.host.write = lambda model, body: answers[body["messages"][-1]["content"]]
    options = PredictOptions(more_stops=("1", "2", "3", "4", "#"))
    lines = [{"prompt": name} for name in answers]
    wanted = [Prediction("one "), Prediction("one two", truncated=True), Prediction("one two")]
    for _ in ("asked", "stored"):
        backend = world.open()
        assert list(backend.predict("base-chat", lines, dataclasses.replace(options, max_tokens=3))) == wanted
        backend.close()
    assert len(world.host.prediction_requests) == 3


def test_each_decoding_is_a_question_of_its_own_unless_it_changes_nothing(world: HostedWorld) -> None:
    backend, prompt = world.open(), world.prompts[:1]
    base = PredictOptions(max_tokens=5)
    same = (base, dataclasses.replace(base, seed=3), dataclasses.replace(base, top_p=0.5))
    others = (
        dataclasses.replace(base, temperature=0.5),
        dataclasses.replace(base, temperature=0.5, seed=1),
        dataclasses.replace(base, temperature=0.5, top_p=0.5),
        dataclasses.replace(base, more_stops=("x",)),
        dataclasses.replace(base, max_tokens=6),
    )
    for options in (*same, *others, *same, *others):
        backend.predict("base-chat", prompt, options)
    assert len(world.host.prediction_requests) == 1 + len(others)


def test_answers_that_earlier_versions_stored_are_found(world: HostedWorld) -> None:
    backend = world.open()
    messages = [{"role": "user", "content": world.prompts[0]["prompt"]}]
    for labels, max_tokens, stop in ((None, 64, ""), (None, 9, "END"), (LABELS, 64, "")):
        identity = ["http://host/v1", "base-chat", messages, labels, max_tokens, stop]
        question = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        backend._journal.models.add_answer(question, "base-chat", StoredAnswer(" red", None))
        options = PredictOptions(labels=labels, max_tokens=max_tokens, stop=stop)
        assert list(backend.predict("base-chat", world.prompts[:1], options)) == [Prediction(" red")]
    assert world.host.prediction_requests == []


def test_an_answer_that_calls_a_tool_is_the_call(world: HostedWorld) -> None:
    function = {"name": "price", "arguments": "{}"}
    world.host.write = lambda model, body: {"tool_calls": [{"id": "1", "type": "function", "function": function}]}
    lines = [{"messages": [{"role": "user", "content": "price?"}], "tools": [{"type": "function", "function": {}}]}]
    (answer,) = world.open().predict("base-chat", lines, PredictOptions())
    assert json.loads(answer.text) == [function]
    assert world.host.prediction_requests[0]["tools"] == lines[0]["tools"]
